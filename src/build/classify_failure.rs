//! Judging a build that failed: what the machine's daemon said, and the state of the machine.

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

/// What a failed build means; an error is what the machine is at fault for.
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
        // Somebody else builds it there, or this machine itself waits for it: the machine is good for other builds.
        daemon::Error::Link { cause, .. } if remote::Error::is_not_started(cause) => {
            return Ok(Failure::Machine { machine: machine.name.clone(), cause: daemon_failed("building", error) });
        }
        _ => return Err(daemon_failed("building", error)),
    };
    let lost = match client.query_valid_paths(build.inputs) {
        Ok(present) => build.inputs.len() - present.len(),
        Err(error) => return Err(daemon_failed("judging the failed build", &error)),
    };
    let mut has_commands = false;
    let free = match connection.probe(build.directories.store.as_str()) {
        Ok(status) => {
            has_commands = status != MachineStatus::default();
            record_success(build.state, machine, status.clone());
            status.free_disk
        }
        // The daemon has spoken, and what it said stands.
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
        // The machine answers, and may be good for other builds.
        FailureClass::Machine(Some(why)) => Failure::Machine { machine: name, cause: format!("{message}; {why}") },
        FailureClass::Machine(None) => Failure::Refused { machine: name, cause: message },
    })
}
