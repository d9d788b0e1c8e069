//! The database file: opening, checkpoints, and setting a damaged file aside.
//!
//! The caller acts as the owner of the directory. The file is created with the permissions of other files of the state;
//! SQLite gives `-wal` and `-shm` the same. It maps `-shm` into memory, and a process that uses the map of a file that
//! was shortened is killed. So root, for whom another user could do that, locks the database as a whole, and then needs no
//! such file.
//!
//! The write-ahead log excludes that readers and the writer wait for each other. Adding to it waits for no disk: SQLite
//! syncs files only when it migrates them, when it moves the log into the file (a checkpoint), and when it begins the log
//! again. [`Database::checkpoint`] does the last two together. A hook never calls it, since the kernel would not let the hook
//! end before the disk is done.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::error::HistoryError;
use super::schema::{self, Version};
use crate::permissions::files;
use crate::state::StateError;

/// The name of the file.
pub(super) const FILE: &str = "history.db";

/// The size of the write-ahead log, in bytes, from which on it should be moved into the file: some twenty builds. Each
/// process that opens the database reads this log.
const LONG_LOG: u64 = 512 << 10;

/// The size of the write-ahead log, in bytes, from which on hooks add nothing to it.
const FULL_LOG: u64 = 8 << 20;

/// How long SQLite waits while another process recovers the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a decision waits while another process uses the database alone.
const LOOK_UP_TIMEOUT: Duration = Duration::from_millis(10);

/// The open database.
pub(super) struct Database {
    connection: Connection,
    file: PathBuf,
}

impl Database {
    /// Opens the database in `directory`, created if needed.
    pub fn open(directory: &Path) -> Result<Database, HistoryError> {
        let file = directory.join(FILE);
        files::open_or_make(&file).map_err(|cause| StateError { path: file.clone(), cause })?;
        Database::open_file(file)
    }

    /// Opens the database in `directory`; `None` if there is none.
    pub fn open_existing(directory: &Path) -> Result<Option<Database>, HistoryError> {
        let file = directory.join(FILE);
        match files::open(&file) {
            Ok(_) => Database::open_file(file).map(Some),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(StateError { path: file, cause }.into()),
        }
    }

    /// Opens the database in `directory` to read what was learned, without waiting for other processes. `None` if there is
    /// none, or one of another version.
    pub fn open_to_look_up(directory: &Path) -> rusqlite::Result<Option<Database>> {
        let file = directory.join(FILE);
        if files::open(&file).is_err() {
            return Ok(None);
        }
        let connection = connect(&file, LOOK_UP_TIMEOUT)?;
        let version = schema::version(&connection)?;
        Ok((version == Version::Current).then_some(Database { connection, file }))
    }

    fn open_file(file: PathBuf) -> Result<Database, HistoryError> {
        let open = || {
            let mut connection = connect(&file, BUSY_TIMEOUT)?;
            connection.pragma_update(None, "temp_store", "MEMORY")?;
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            let mut version = schema::version(&connection)?;
            if version == Version::Older {
                // A new file has nothing to lose.
                if connection.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0))? == 0 {
                    connection.pragma_update(None, "synchronous", "OFF")?;
                }
                connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
                let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                schema::migrate(&transaction)?;
                transaction.commit()?;
                version = schema::version(&connection)?;
                connection.pragma_update(None, "synchronous", "NORMAL")?;
            }
            Ok((connection, version))
        };
        match open() {
            Ok((_, Version::Newer(version))) => Err(HistoryError::Newer { file, version }),
            Ok((connection, _)) => Ok(Database { connection, file }),
            Err(cause) => Err(HistoryError::Sqlite { file, cause }),
        }
    }

    pub(super) fn connection_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Returns the error that SQLite reports about this file.
    pub(super) fn error(&self, cause: rusqlite::Error) -> HistoryError {
        HistoryError::Sqlite { file: self.file.clone(), cause }
    }

    /// Moves the write-ahead log into the file, and begins it again, unless another process uses the database. This waits
    /// for the disk.
    pub fn checkpoint(&self) -> Result<(), HistoryError> {
        let checkpoint = || -> rusqlite::Result<()> {
            self.connection.busy_timeout(Duration::ZERO)?;
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
            // The first page of a log is synced, so that no hook has to write it.
            self.connection.pragma_update(None, "user_version", schema::VERSION)?;
            self.connection.busy_timeout(BUSY_TIMEOUT)
        };
        checkpoint().map_err(|cause| self.error(cause))
    }
}

/// Connects to the file, which exists.
fn connect(file: &Path, timeout: Duration) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(timeout)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    if !file.parent().is_some_and(files::is_ours) {
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    }
    Ok(connection)
}

/// Returns whether the write-ahead log in `directory` has at least this many bytes.
fn has_log_of(size: u64, directory: &Path) -> bool {
    files::size(&directory.join(format!("{FILE}-wal"))).is_ok_and(|found| found >= size)
}

/// Returns whether the write-ahead log should be moved into the file.
pub(super) fn needs_checkpoint(directory: &Path) -> bool {
    has_log_of(LONG_LOG, directory)
}

/// Returns whether hooks must not add to the write-ahead log.
pub(super) fn has_full_log(directory: &Path) -> bool {
    has_log_of(FULL_LOG, directory)
}

/// Moves the database away, for a new one. The caller holds `history.batch.lock`.
pub(super) fn set_aside(directory: &Path) -> Result<PathBuf, StateError> {
    let (file, aside) = (directory.join(FILE), directory.join("history.db.damaged"));
    // SQLite would apply them to the new file.
    for suffix in ["-wal", "-shm"] {
        let path = directory.join(format!("{FILE}{suffix}"));
        files::remove(&path).map_err(|cause| StateError { path, cause })?;
    }
    files::rename(&file, &aside).map_err(|cause| StateError { path: file, cause })?;
    Ok(aside)
}
