//! Classifies a failed build by the message of the machine's daemon and the state of the machine.

use log::debug;

use super::Build;
use super::classify::{FailureClass, classify};
use super::inspect_hint::inspect_hint;
use super::reach::daemon_failed;
use super::record_health::record_success;
use super::watch::BuildWatch;
use crate::daemon::{self, Client};
use crate::error::Failure;
use crate::machine::Machine;
use crate::remote::{self, Connection, DaemonStream};
use crate::status::MachineStatus;

/// Returns the failure that a failed build means. The error is a fault of the machine.
pub(super) fn classify_failure(
    build: &Build<'_>,
    machine: &Machine,
    error: &daemon::Error,
    watch: &BuildWatch,
    client: &mut Client<DaemonStream>,
    connection: &Connection,
) -> Result<Failure, String> {
    let (message, status) = match error {
        daemon::Error::Daemon { message, status, .. } => (message, status),
        // Another process builds it there, or this machine itself waits for it: the machine can take other builds.
        daemon::Error::Link { cause, .. } if remote::Error::is_not_started(cause) => {
            return Ok(Failure::Machine { machine: machine.name.clone(), cause: daemon_failed("building", error) });
        }
        _ => return Err(daemon_failed("building", error)),
    };
    let lost = match client.query_valid_paths(build.inputs) {
        Ok(present) => build.inputs.len() - present.len(),
        Err(error) => return Err(daemon_failed("classifying the failed build", &error)),
    };
    let mut has_commands = false;
    let free = match connection.probe(build.directories.store.as_str()) {
        Ok(status) => {
            has_commands = status != MachineStatus::default();
            record_success(build.state, machine, status.clone());
            status.free_disk
        }
        // The daemon has reported the failure, and its report stands.
        Err(error) => {
            debug!("no status after a failed build: {error}");
            None
        }
    };
    let (derivation, name) = (build.failover.request.derivation.to_string(), machine.name.clone());
    let hint = inspect_hint(machine, &build.failover.request.derivation, has_commands);
    let verdict = watch.with_answer(*status, message, |answer| classify(answer, free, lost));
    let message = watch.explain(message);
    Ok(match verdict {
        FailureClass::Failed => Failure::Build { derivation, machine: name, message: message + &hint },
        FailureClass::TimedOut => Failure::TimedOut { derivation, machine: name, message: message + &hint },
        // The machine responds, and may be able to do other builds.
        FailureClass::Machine(Some(why)) => Failure::Machine { machine: name, cause: format!("{message}; {why}") },
        FailureClass::Machine(None) => Failure::Refused { machine: name, cause: message },
    })
}
