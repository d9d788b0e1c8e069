//! Contact with a machine for a command, and what it says about the machine to later builds.
//!
//! A command contacts the machine itself, whatever the records say: hooks skip a machine that failed for minutes, and
//! an administrator wants to know whether it works now. Success clears the recorded failures, so that builds use the
//! machine at once.

use log::warn;

use crate::build::{MachineLink, check_store, daemon_failed, record_success};
use crate::engine::Engine;
use crate::error::with_hint;
use crate::machine::Machine;
use crate::remote::{Connection, Error};
use crate::ssh::{self, Cause, Phase};
use crate::state::{HealthRecord, as_started, health};
use crate::status::MachineStatus;

/// The reason why a machine could not be used.
#[derive(Debug)]
pub struct ContactError {
    /// The message, with a hint on a line of its own if there is one.
    pub message: String,
    /// Whether its SSH server temporarily refuses logins from this address.
    is_ban: bool,
    /// Whether a key, on either side, has to be corrected: the machine itself responds, or was not contacted at all.
    pub is_misconfigured: bool,
}

impl From<Error> for ContactError {
    fn from(error: Error) -> ContactError {
        let is_ban = matches!(&error, Error::Ssh(error) if matches!(error.cause, Cause::TemporarilyRefused));
        let is_misconfigured = matches!(&error, Error::Ssh(error) if is_wrong_key(error));
        ContactError { message: with_hint(&error, error.hint()), is_ban, is_misconfigured }
    }
}

/// Returns whether a key is at fault: the private key cannot be used, the host key differs, or the login is refused.
fn is_wrong_key(error: &ssh::Error) -> bool {
    error.phase == Phase::PrivateKey
        || matches!(
            error.cause,
            Cause::NoCommonHostKeyType { .. }
                | Cause::BadHostKey(_)
                | Cause::HostKeyDiffers { .. }
                | Cause::UserKeyRefused { .. }
                | Cause::LoginRefused { .. }
                | Cause::MoreMethodsRequired { .. }
                | Cause::KeyLoginDisabled { .. }
                | Cause::CannotSign { .. }
        )
}

/// Connects to the machine's daemon, over a session that a build left open if there is one.
pub fn contact(engine: &Engine, machine: &Machine) -> Result<MachineLink, ContactError> {
    if let Some(connection) = engine.sessions().find(machine) {
        match contact_over(engine, machine, connection.clone()) {
            Ok(link) => return Ok(link),
            // It may be lost, which says nothing about the machine.
            Err(_) => connection.retire(),
        }
    }
    contact_over(engine, machine, Connection::open(&as_started(&engine.state, machine))?)
}

fn contact_over(engine: &Engine, machine: &Machine, connection: Connection) -> Result<MachineLink, ContactError> {
    let store = &engine.directories.store;
    let failed = |message| ContactError { message, is_ban: false, is_misconfigured: false };
    let stream = connection.daemon()?;
    let mut client =
        stream.greet(store.clone()).map_err(|error| failed(daemon_failed("greeting its daemon", &error)))?;
    check_store(&engine.state, machine, store, &mut client).map_err(failed)?;
    Ok(MachineLink { client, connection, has_options: false })
}

/// Probes the status of a machine.
pub fn probe(engine: &Engine, link: &MachineLink) -> Result<MachineStatus, ContactError> {
    Ok(link.connection.probe(engine.directories.store.as_str())?)
}

/// Records that a machine works. A user who may not change the state records nothing.
pub fn record_works(engine: &Engine, machine: &Machine, status: MachineStatus) {
    if engine.state.of(machine).is_ok() {
        record_success(&engine.state, machine, status);
    }
}

/// Records that a machine does not work, as a hook would. During a back-off the failure is not counted again, but
/// its message replaces the recorded one.
pub fn record_fails(engine: &Engine, machine: &Machine, error: &ContactError) {
    let change = |record: HealthRecord| {
        record.change(|health| {
            let health = match error.is_ban {
                true => health.after_ban(&error.message, health::now()),
                false => health.after_failure(&error.message, health::now()),
            };
            health.with_error(&error.message)
        })
    };
    if let Err(error) = HealthRecord::of(&engine.state, machine).and_then(change) {
        warn!("cannot record the health of '{}': {error}", machine.name);
    }
}
