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
use crate::ssh::Cause;
use crate::state::{HealthRecord, health};
use crate::status::MachineStatus;

/// The reason why a machine could not be used.
#[derive(Debug)]
pub struct ContactError {
    /// The message, with a hint on a line of its own if there is one.
    pub message: String,
    /// Whether its SSH server temporarily refuses logins from this address.
    is_ban: bool,
}

impl From<Error> for ContactError {
    fn from(error: Error) -> ContactError {
        let is_ban = matches!(&error, Error::Ssh(error) if matches!(error.cause, Cause::NotAllowedNow));
        ContactError { message: with_hint(&error, error.hint()), is_ban }
    }
}

/// Connects to the machine's daemon.
pub fn contact(engine: &Engine, machine: &Machine) -> Result<MachineLink, ContactError> {
    let store = &engine.directories.store;
    let failed = |message| ContactError { message, is_ban: false };
    let connection = Connection::open(machine)?;
    let stream = connection.daemon()?;
    let mut client =
        stream.greet(store.clone()).map_err(|error| failed(daemon_failed("greeting its daemon", &error)))?;
    check_store(&engine.state, machine, store, &mut client).map_err(failed)?;
    Ok(MachineLink { client, connection })
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

/// Records that a machine does not work, as a hook would. During a back-off it is not a new failure, but its message is
/// newer.
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
