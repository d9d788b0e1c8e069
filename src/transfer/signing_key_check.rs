//! The check of a machine's signing key before a build there.
//!
//! Outputs that are signed with a key which is not authorized here are refused, and that would be after the whole
//! build. So a machine whose key is not known ([`VerifiedKey`]) signs a small text first, which takes a moment. It is
//! not known before the first build there, after the key was removed from the access-control list, and after a
//! refused output. Other builds need no round trip for this.
//!
//! Not found here: a key that was changed on the machine since the last build. The first output that is signed with it
//! is refused, and later builds there begin with the check.

use std::io::{Read, Write};

use log::debug;

use super::error::DownloadError;
use super::rejected::RejectedOutput;
use super::signature_test;
use crate::daemon::{Client, ExportError};
use crate::gcrypt::VerifyError;
use crate::local::{Directories, load_acl};
use crate::machine::Machine;
use crate::state::{AcceptedKeys, StateDirectory, StateError, VerifiedKey};
use crate::store::signature::PublicKey;
use crate::timing::Stopwatch;

/// The text that the machine signs.
const TEXT: &str = "signed before a build\n";

/// Checks the key of the machine behind `client`, unless it is known to be authorized.
pub fn check_signing_key<S: Read + Write>(
    client: &mut Client<S>,
    directories: &Directories,
    state: &StateDirectory,
    machine: &Machine,
) -> Result<(), DownloadError> {
    let acl = load_acl(&directories.acl())?;
    if VerifiedKey::of(state, machine).is_ok_and(|known| known.is_authorized(&acl)) {
        return Ok(());
    }
    let mut stopwatch = Stopwatch::start();
    let item = signature_test::make(client, TEXT).map_err(DownloadError::Machine)?;
    let signed = signature_test::download(client, &directories.store, &acl, &item);
    stopwatch.lap("signing key");
    match signed {
        Ok(key) => {
            remember(state, machine, &key);
            Ok(())
        }
        Err(ExportError::Consumer(cause)) => {
            let cause = Box::new(refused(state, machine, cause));
            Err(DownloadError::Refused { output: item, machine: machine.name.clone(), cause })
        }
        Err(ExportError::Daemon(error)) => Err(DownloadError::Machine(error)),
    }
}

/// Records the key with which the machine signs, which is authorized. If it cannot be recorded, the next build there
/// checks it again, and a later message is less precise.
pub fn remember(state: &StateDirectory, machine: &Machine, key: &PublicKey) {
    record(machine, AcceptedKeys::of(state).and_then(|keys| keys.remember(key)));
    record(machine, VerifiedKey::of(state, machine).and_then(|verified| verified.remember(key)));
}

/// Records that an item of the machine was refused for its signature. Returns the same rejection, or that of a key which
/// was authorized before.
pub fn refused(state: &StateDirectory, machine: &Machine, rejected: RejectedOutput) -> RejectedOutput {
    let RejectedOutput::Signature(VerifyError::Unauthorized { key }) = rejected else { return rejected };
    record(machine, VerifiedKey::of(state, machine).and_then(|verified| verified.forget()));
    match AcceptedKeys::of(state).is_ok_and(|keys| keys.has(&key)) {
        true => RejectedOutput::Revoked(key),
        false => RejectedOutput::Signature(VerifyError::Unauthorized { key }),
    }
}

fn record(machine: &Machine, recorded: Result<(), StateError>) {
    if let Err(error) = recorded {
        debug!("cannot record the signing key of '{}': {error}", machine.name);
    }
}
