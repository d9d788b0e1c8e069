//! Where the outputs of a build go: into the store, for the daemon that has started the hook, or through this machine's
//! daemon.
//!
//! In both cases the outputs have arrived as a whole, and have passed all checks of a download, before any of them is
//! placed.
//!
//! Outside of a hook nobody registers new files in the store. So the outputs are imported through the daemon, with the
//! signatures of the build machine, which the daemon checks against its own list of keys. For that it takes the lock of
//! each output, which the builder holds until then ([`RegistrationLock`]).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{self, Cursor, Read};
use std::time::Duration;
use std::vec;

use super::download::{Downloaded, StagedOutput};
use crate::cancel;
use crate::error::with_causes;
use crate::local::{
    DatabaseError, Directories, Dump, ImportConnections, LocalDaemon, LocalDaemonError, OutputLocks, Store,
    TemporaryStore, references_first,
};
use crate::state::{RegistrationLock, StateDirectory, StateError};
use crate::store::export::{END_MARKER, ITEM_MARKER};
use crate::store::path::StorePath;

/// How often a registration checks whether another one with the same lock has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The place for the outputs of a build.
pub trait Destination {
    /// Puts the outputs into the store. The error is a message.
    fn place(&self, outputs: Downloaded<'_>) -> Result<(), String>;

    /// Returns whether guix-daemon writes the build log to a file.
    fn has_log_file(&self) -> bool;

    /// Returns the directory in which outputs are restored. `None`: the store.
    fn staging(&self) -> Option<&Store> {
        None
    }

    /// Returns whether the machine has to build even what it has. Then it deletes its outputs first.
    fn wants_rebuild(&self) -> bool {
        false
    }
}

/// The destination of a hook: the daemon that has started it holds the locks, and registers the files in the store.
#[derive(Debug)]
pub struct LeftForDaemon;

impl Destination for LeftForDaemon {
    fn place(&self, outputs: Downloaded<'_>) -> Result<(), String> {
        outputs.place().map_err(|error| with_causes(&error))
    }

    fn has_log_file(&self) -> bool {
        true
    }
}

/// The destination of a program that the daemon has not started: outputs are imported and registered through the
/// daemon, and stay temporary roots as long as the connection `daemon`.
pub struct ThroughDaemon<'a> {
    pub state: &'a StateDirectory,
    pub directories: &'a Directories,
    pub derivation: &'a StorePath,
    /// The connection that protects the outputs.
    pub daemon: &'a RefCell<LocalDaemon>,
    pub imports: &'a ImportConnections,
    pub locks: RefCell<OutputLocks>,
    /// The directory in which outputs are restored, if this process cannot write to the store.
    pub staging: Option<TemporaryStore>,
}

/// The reason why outputs cannot be registered.
#[derive(Debug, thiserror::Error)]
enum RegistrationError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Order(#[from] DatabaseError),
    #[error(transparent)]
    Daemon(#[from] LocalDaemonError),
    #[error("guix-daemon has imported '{path}', and does not regard it as valid")]
    NotValid { path: StorePath },
    #[error("the build was cancelled")]
    Cancelled,
}

impl Destination for ThroughDaemon<'_> {
    fn place(&self, outputs: Downloaded<'_>) -> Result<(), String> {
        self.register(&outputs.staged).map_err(|error| with_causes(&error))
    }

    fn has_log_file(&self) -> bool {
        false
    }

    fn staging(&self) -> Option<&Store> {
        self.staging.as_ref().map(TemporaryStore::store)
    }
}

impl ThroughDaemon<'_> {
    fn register(&self, staged: &[StagedOutput<'_>]) -> Result<(), RegistrationError> {
        let paths: BTreeSet<StorePath> = staged.iter().map(|output| output.trailer.path.clone()).collect();
        let find = |path: &StorePath| staged.iter().find(|output| output.trailer.path == *path);
        let order = references_first(&paths, |path| find(path).map_or(&[], |output| &output.trailer.references))?;
        let _lock = self.lock()?;
        let rest = order.into_iter().filter_map(find).collect::<Vec<_>>().into_iter();
        let mut locks = self.locks.borrow_mut();
        let mut bundle =
            OutputBundle { rest, current: None, made: Cursor::default(), is_ended: false, locks: &mut locks };
        let mut importing = self.imports.take(self.directories)?;
        importing.client.import_paths(&mut bundle).map_err(LocalDaemonError::from)?;
        self.imports.put(importing);
        let valid = self.daemon.borrow_mut().query_valid_paths(&paths).map_err(LocalDaemonError::from)?;
        match paths.into_iter().find(|path| !valid.contains(path)) {
            Some(path) => Err(RegistrationError::NotValid { path }),
            None => Ok(()),
        }
    }

    /// Waits for the lock of registrations.
    fn lock(&self) -> Result<RegistrationLock, RegistrationError> {
        loop {
            if let Some(lock) = RegistrationLock::try_take(self.state, self.derivation)? {
                return Ok(lock);
            }
            cancel::sleep(POLL_INTERVAL);
            cancel::check().map_err(|_| RegistrationError::Cancelled)?;
        }
    }
}

/// The outputs as a bundle for the daemon. It hands over the lock of each output together with the output's last bytes.
struct OutputBundle<'b, 'a> {
    rest: vec::IntoIter<&'b StagedOutput<'a>>,
    /// The output whose nar is being read.
    current: Option<(Dump, &'b StagedOutput<'a>)>,
    /// Bytes that were made, and the number of them that was read.
    made: Cursor<Vec<u8>>,
    is_ended: bool,
    locks: &'b mut OutputLocks,
}

impl Read for OutputBundle<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.made.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            self.made = Cursor::default();
            let made = self.made.get_mut();
            if let Some((nar, output)) = &mut self.current {
                let count = nar.read(buffer)?;
                if count > 0 {
                    return Ok(count);
                }
                output.trailer.write_signed_part(made)?;
                output.trailer.write_signature(made)?;
                self.locks.hand_over(&output.trailer.path);
                self.current = None;
            } else if let Some(output) = self.rest.next() {
                made.extend(ITEM_MARKER.to_le_bytes());
                self.current = Some((output.staging.dump()?, output));
            } else if !self.is_ended {
                made.extend(END_MARKER.to_le_bytes());
                self.is_ended = true;
            } else {
                return Ok(0);
            }
        }
    }
}
