//! Judging a build that failed: what the machine's daemon said, and the state of the machine.

use log::debug;

use super::attempt::Attempt;
use super::classify::{FailureClass, classify};
use super::connect::connect;
use super::inspect_hint::inspect_hint;
use super::reach::daemon_failed;
use super::record_health::record_success;
use super::watch::BuildWatch;
use crate::daemon::{self, Client};
use crate::error::Failure;
use crate::remote::{self, Connection, DaemonStream};
use crate::status::MachineStatus;

impl Attempt<'_> {
    /// What a failed build means.
    pub(super) fn classify_failure(
        &self,
        error: &daemon::Error,
        watch: &BuildWatch,
        client: &mut Client<DaemonStream>,
        connection: &Connection,
    ) -> Failure {
        let (message, status) = match error {
            daemon::Error::Daemon { message, status, .. } => (message, status),
            // Somebody else builds it there, or this machine itself waits for it: the machine is good for other builds.
            daemon::Error::Link { cause, .. } if remote::Error::is_not_started(cause) => {
                return self.failure(daemon_failed("building", error));
            }
            _ => return self.daemon_failed("building", error),
        };
        let build = self.build;
        let lost = match client.query_valid_paths(build.inputs) {
            Ok(present) => build.inputs.len() - present.len(),
            Err(error) => return self.daemon_failed("judging the failed build", &error),
        };
        let mut has_commands = false;
        let free = match self.probe(connection) {
            Ok(status) => {
                has_commands = status != MachineStatus::default();
                record_success(build.state, self.machine, status.clone());
                status.free_disk
            }
            // The daemon has spoken, and what it said stands.
            Err(error) => {
                debug!("no status after a failed build: {error}");
                None
            }
        };
        let (derivation, machine) = (build.failover.request.derivation.to_string(), self.machine.name.clone());
        let hint = inspect_hint(self.machine, &build.failover.request.derivation, has_commands);
        let verdict = watch.with_answer(*status, message, |answer| classify(answer, free, lost));
        let message = watch.explain(message);
        match verdict {
            FailureClass::Failed => Failure::Build { derivation, machine, message: message + &hint },
            FailureClass::TimedOut => Failure::TimedOut { derivation, machine, message: message + &hint },
            // The machine answers, and may be good for other builds.
            FailureClass::Machine(Some(why)) => Failure::Machine { machine, cause: format!("{message}; {why}") },
            FailureClass::Machine(None) => Failure::Refused { machine, cause: message },
        }
    }

    /// How the machine is doing. Where another process has the session, that takes a login, and its turn. The error is a
    /// message.
    fn probe(&self, connection: &Connection) -> Result<MachineStatus, String> {
        let own = if connection.is_reused() { Some(connect(self.build.state, self.machine)?) } else { None };
        let probed = own.as_ref().unwrap_or(connection).probe(self.build.directories.store.as_str());
        probed.map_err(|error| error.to_string())
    }
}
