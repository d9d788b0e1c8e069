//! The history: where builds went, how long their phases took, and why requests were declined or postponed.
//!
//! `history.db` in the state directory is an SQLite database with a row for each attempt on a machine and for each request
//! that was declined or postponed ([`schema`]). No build waits for it. A process appends its rows to `history.pending`, a
//! line of JSON each ([`pending`]). Another thread moves them into the database ([`collect`]): that of a hook whose build
//! runs on a machine just then, or a command that reads the history.
//!
//! | file | contents |
//! |---|---|
//! | `history.db`, `-wal`, `-shm` | the database |
//! | `history.pending` | rows that are not in it yet |
//! | `history.batch` | the rows that a process moves, or moved when it was killed |
//! | `history.batch.lock` | held by that process |
//! | `history.db.damaged` | the last database that could not be used |
//! | `warned-history` | when a problem was last reported |
//!
//! Hooks never move the write-ahead log `history.db-wal` into `history.db`, since that waits for the disk. Each command that
//! reads the history does, if the log has grown. A hook that finds a long log starts such a command when it ends, and waits
//! for nothing. While the log is full, hooks leave their rows in `history.pending`, which is limited, too.
//!
//! Where rows enter the database, what they teach is kept up to date ([`learning`]): medians of build times and output sizes,
//! and figures of machines. A decision reads them ([`lookup`]), and [`learned`] derives what is expected of a build.
//!
//! Appending is one write, and costs some microseconds. A row that was appended survives a kill of any process; a power
//! failure may lose the last rows.
//!
//! Root does all of this as the owner of the state, as it does with other files there. SQLite opens by name, and so gets
//! no further than the owner would.
//!
//! Not checked here: whether the rows are true. The owner of the state can write any.

mod collect;
mod columns;
mod database;
mod error;
mod insert;
mod learned;
mod learning;
mod lookup;
mod pending;
mod prune;
mod query;
mod row;
mod schema;
mod summary;
mod without_version;

pub use error::HistoryError;
pub use learned::{Learned, MachineRecord, Speeds};
pub use query::Filter;
pub use row::{Outcome, Row};
pub use summary::{MachineSummary, Total, median, summarize};

use std::path::PathBuf;

use log::{debug, warn};

use self::database::Database;
use super::health::now;
use super::lock::{lock_briefly, try_lock};
use super::warning_throttle::should_warn_of_history;
use super::{StateDirectory, StateError};
use crate::permissions::files;

/// The history of a head.
#[derive(Clone, Debug)]
pub struct History {
    state: StateDirectory,
    /// Whether this process may wait for the disk.
    makes_checkpoints: bool,
}

impl History {
    /// Returns the history in `state`. It may be empty, without any file.
    pub fn of(state: &StateDirectory) -> History {
        History { state: state.clone(), makes_checkpoints: true }
    }

    /// Returns the history for a hook, which never waits for the disk. [`needs_checkpoint`](Self::needs_checkpoint) tells
    /// when another process should read the history.
    pub fn of_hook(state: &StateDirectory) -> History {
        History { makes_checkpoints: false, ..History::of(state) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.state.path().join(name)
    }

    /// Adds rows. A problem is reported once a day, and has no other consequence.
    pub fn append(&self, rows: &[Row]) {
        if rows.is_empty() {
            return;
        }
        if let Err(error) = pending::append(self.state.path(), rows) {
            self.report(&error.to_string());
        }
    }

    /// Returns whether there are appended rows, which are not in the database.
    pub fn has_new_rows(&self) -> bool {
        ["history.pending", "history.batch"].iter().any(|name| files::exists(&self.file(name)))
    }

    /// Returns whether there are so many of them that some are dropped soon.
    pub fn has_many_new_rows(&self) -> bool {
        pending::is_filling(self.state.path())
    }

    /// Returns whether the write-ahead log of the database has grown, so that a process that may wait for the disk should
    /// read the history.
    pub fn needs_checkpoint(&self) -> bool {
        database::needs_checkpoint(self.state.path())
    }

    /// Moves the appended rows into the database, unless another process does. A problem is reported once a day, and the
    /// rows stay where they are.
    pub fn collect(&self) {
        if !self.has_new_rows() || (!self.makes_checkpoints && database::has_full_log(self.state.path())) {
            return;
        }
        let collected = self.as_owner(|| match try_lock(&self.file("history.batch.lock"))? {
            Some(_lock) => {
                collect::collect(self.state.path(), now())?;
                self.checkpoint_if_needed()
            }
            None => Ok(()),
        });
        if let Err(error) = &collected
            && error.is_busy()
        {
            debug!("the rows wait for the next process: {error}");
        } else if let Err(error) = collected {
            self.report(&error.to_string());
        }
    }

    /// Returns the rows that match, the oldest first.
    pub fn rows(&self, filter: &Filter) -> Result<Vec<Row>, HistoryError> {
        self.as_owner(|| self.read(|database| database.rows(filter)))
    }

    /// Returns the sums since the database was created, those of rows that were removed since then included. Machines without
    /// an attempt for a year have none.
    pub fn totals(&self) -> Result<Vec<Total>, HistoryError> {
        self.as_owner(|| self.read(Database::totals))
    }

    /// Reads from the database, if there is one. A damaged one is set aside.
    fn read<T: Default>(&self, read: impl Fn(&Database) -> Result<T, HistoryError>) -> Result<T, HistoryError> {
        let read = |database: Option<Database>| database.as_ref().map(&read).transpose();
        match self.open().and_then(read) {
            Err(error) if error.is_damage() => {
                let _lock = lock_briefly(&self.file("history.batch.lock"))?;
                // Another process may have set it aside meanwhile.
                if let Ok(value) = Database::open_existing(self.state.path()).and_then(read) {
                    return Ok(value.unwrap_or_default());
                }
                let aside = database::set_aside(self.state.path())?;
                Err(HistoryError::Damaged { aside, cause: Box::new(error) })
            }
            result => Ok(result?.unwrap_or_default()),
        }
    }

    /// Opens the database with all appended rows in it, or with a warning without them; `None` if there is none.
    fn open(&self) -> Result<Option<Database>, HistoryError> {
        // The directory may belong to another user, and then its files seem to be missing.
        if let Err(cause) = files::list(self.state.path())
            && cause.kind() != std::io::ErrorKind::NotFound
        {
            return Err(StateError { path: self.state.path().to_owned(), cause }.into());
        }
        let moved = self.move_rows();
        let database = Database::open_existing(self.state.path())?;
        if let Err(error) = moved {
            warn!("the last builds may be missing from the history: {error}");
        }
        Ok(database)
    }

    /// Moves the appended rows, and a long write-ahead log.
    fn move_rows(&self) -> Result<(), HistoryError> {
        if !self.has_new_rows() && !self.needs_checkpoint() {
            return Ok(());
        }
        let _lock = lock_briefly(&self.file("history.batch.lock"))?;
        collect::collect(self.state.path(), now())?;
        self.checkpoint_if_needed()
    }

    /// Moves a long write-ahead log into the database. The caller holds `history.batch.lock`.
    fn checkpoint_if_needed(&self) -> Result<(), HistoryError> {
        match self.makes_checkpoints && self.needs_checkpoint() {
            true => Database::open_existing(self.state.path())?.map_or(Ok(()), |database| database.checkpoint()),
            false => Ok(()),
        }
    }

    /// Runs `work` with files as the owner of the state.
    fn as_owner<T>(&self, work: impl FnOnce() -> Result<T, HistoryError>) -> Result<T, HistoryError> {
        let path = self.state.path();
        files::as_owner_of(path, || Ok(work())).map_err(|cause| StateError { path: path.to_owned(), cause })?
    }

    fn report(&self, problem: &str) {
        match should_warn_of_history(&self.state) {
            Ok(true) => warn!("builds are not recorded in the history: {problem}"),
            Ok(false) => debug!("builds are not recorded in the history: {problem}"),
            // Without a directory that can be written, no build gets a slot either, and that is reported.
            Err(error) => debug!("builds are not recorded in the history: {problem}; {error}"),
        }
    }
}

#[cfg(test)]
mod tests;
