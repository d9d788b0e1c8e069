//! The state that outlives a hook process and that hook processes share.
//!
//! All state is below `STATE/offload` (normally `/var/guix/offload`). Each `NAME:PORT` has a directory, so that several
//! entries of the machine file for one host share it.

pub mod accepted_keys;
pub mod accepted_per_daemon;
pub mod drain;
pub mod health;
pub mod history;
mod json_record;
mod lock;
mod log_level;
pub mod logins;
mod other_store;
mod outbox;
pub mod power;
mod registration;
pub mod shared_pool;
mod signing_keys;
pub mod substitutes;
pub mod throughput;
pub mod wait_reports;
pub mod warning_throttle;

pub mod known_outputs;
pub mod queue;
pub mod slots;
pub mod transfers;
pub mod turn;

use std::io;
use std::path::{Path, PathBuf};

pub use accepted_keys::AcceptedKeys;
pub use accepted_per_daemon::AcceptedPerDaemon;
pub use drain::{Drain, Drained};
pub use health::{Health, HealthRecord};
pub use history::History;
pub use known_outputs::KnownOutputs;
pub use lock::LockWait;
pub use log_level::LogLevel;
pub use other_store::OtherStore;
pub use outbox::{CallsLock, Outbox};
pub use power::{Phase, Power, PowerLock, PowerRecord, as_started};
pub use queue::{Queue, QueueTicket, WaitingBuild};
pub use registration::RegistrationLock;
pub use signing_keys::VerifiedKey;
pub use slots::{RunningBuild, Slot, SlotHolder, Slots};
pub use substitutes::{SubstituteRecord, SubstituteServers};
pub use throughput::{LinkSpeed, Throughput, ThroughputRecord};
pub use turn::Turn;

use crate::events::pool::{PoolEvent, PoolListener};
use crate::machine::Machine;
use crate::permissions::{Need, files, remedy};

/// The directory of all state, `STATE/offload`.
#[derive(Clone, Debug)]
pub struct StateDirectory {
    path: PathBuf,
    /// Receives the events of the pool that come from changes of the state.
    listener: Option<PoolListener>,
}

/// State that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}{}", path.display(), hint(path, cause))]
pub struct StateError {
    pub path: PathBuf,
    pub cause: io::Error,
}

impl StateDirectory {
    /// Returns the state below `path`. Directories are created when they are needed.
    pub fn new(path: impl Into<PathBuf>) -> StateDirectory {
        StateDirectory { path: path.into(), listener: None }
    }

    /// Returns the same state, with a listener for the events of the pool.
    pub fn with_listener(self, listener: PoolListener) -> StateDirectory {
        StateDirectory { listener: Some(listener), ..self }
    }

    /// Passes an event on to the listener.
    pub fn announce(&self, event: &PoolEvent) {
        if let Some(listener) = &self.listener {
            listener.receive(event);
        }
    }

    /// Returns the directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the directory of the sockets of SSH sessions that stay open. It may not exist.
    pub fn persist_directory(&self) -> PathBuf {
        self.path.join("persist")
    }

    /// Creates that directory if needed.
    pub fn make_persist_directory(&self) -> Result<(), StateError> {
        create_directory(&self.persist_directory())
    }

    /// Returns the directory itself, created if needed.
    fn shared(&self) -> Result<&Path, StateError> {
        create_directory(&self.path)?;
        Ok(&self.path)
    }

    /// Returns the directory of one host. The first file in it creates it, so that reading leaves nothing behind.
    pub fn of(&self, machine: &Machine) -> Result<PathBuf, StateError> {
        let path = self.path.join(machine.address());
        files::check_directory(&path).map_err(|cause| StateError { path: path.clone(), cause })?;
        Ok(path)
    }
}

/// Returns the hint to an error. It checks the whole state directory, so that one command fixes all its files.
fn hint(path: &Path, cause: &io::Error) -> String {
    if matches!(cause.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists)
        && let Some(file) = path.ancestors().find(|path| path.symlink_metadata().is_ok() && !path.is_dir())
    {
        return format!("\n  hint: '{}' must be a directory; move the file", file.display());
    }
    let directory = path.ancestors().find(|directory| directory.ends_with("offload")).unwrap_or(path);
    remedy::hint_for(&files::user_of(directory), directory, Need::Own, cause)
}

/// Creates `path` and its parents. Only the daemon's user can read them, since they show who builds which derivation.
fn create_directory(path: &Path) -> Result<(), StateError> {
    files::make_directory(path).map_err(|cause| StateError { path: path.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_instead_of_a_directory_is_named() {
        let top = tempfile::tempdir().unwrap();
        let machine = Machine::new("b1", "root", Vec::new(), Vec::new());
        let (state, host) = (top.path().join("offload"), top.path().join("offload/b1:22"));
        let assert_names = |file: &Path| {
            let error = StateDirectory::new(&state).of(&machine).unwrap_err().to_string();
            let hint = format!("\n  hint: '{}' must be a directory; move the file", file.display());
            assert!(error.starts_with(host.to_str().unwrap()) && error.ends_with(&hint), "{error}");
        };
        fs::write(&state, "").unwrap();
        assert_names(&state);
        fs::remove_file(&state).unwrap();
        std::os::unix::fs::symlink("nowhere", &state).unwrap();
        assert_names(&state);
        fs::remove_file(&state).unwrap();
        fs::create_dir(&state).unwrap();
        fs::write(&host, "").unwrap();
        assert_names(&host);
    }

    #[test]
    fn reading_leaves_nothing_behind() {
        let top = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(top.path().join("offload"));
        let machine = Machine::new("b1", "root", Vec::new(), Vec::new());
        assert_eq!(HealthRecord::of(&state, &machine).unwrap().read(), Health::default());
        assert_eq!(Slots::of(&state, &machine).unwrap().taken().unwrap().len(), 0);
        assert_eq!(Slots::of(&state, &machine).unwrap().free(1).unwrap(), 1);
        assert_eq!(Drain::of(&state, &machine).unwrap().read(0), None);
        assert!(logins::Logins::of(&state, &machine).is_ok());
        assert!(!state.path().exists());
        HealthRecord::of(&state, &machine).unwrap().change(|health| health).unwrap();
        assert!(state.path().join("b1:22").is_dir());
    }
}
