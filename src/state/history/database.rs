//! The database file: opening, inserting, removing old rows, and setting a damaged file aside.
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
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};
use thiserror::Error;

use super::learning::{forget_machines, forget_names, learn};
use super::row::Row;
use super::schema::{self, Version};
use crate::failpoints::{Failpoint, failpoint};
use crate::permissions::files;
use crate::state::StateError;
use crate::state::health::Time;

/// The name of the file.
pub(super) const FILE: &str = "history.db";

/// The size of the write-ahead log, in bytes, from which on it should be moved into the file: some twenty builds. Each
/// process that opens the database reads this log.
const LONG_LOG: u64 = 512 << 10;

/// The size of the write-ahead log, in bytes, from which on hooks add nothing to it.
const FULL_LOG: u64 = 8 << 20;

/// The most rows that are kept.
const MAX_ROWS: i64 = 100_000;

/// How long rows are kept, in milliseconds: a year.
const MAX_AGE: Time = 366 * 24 * 3600 * 1000;

/// Rows are old only if this many later ones agree. So a clock that is wrong for a while removes nothing.
const CONFIRMING_ROWS: i64 = 100;

/// The longest time between two replies to a request that are recorded as one row, in milliseconds: an hour.
const REPEATED_WITHIN: Time = 3600 * 1000;

/// How long SQLite waits while another process recovers the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The reason why the history cannot be read or written.
#[derive(Debug, Error)]
pub enum HistoryError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("{}: {cause}", file.display())]
    Sqlite { file: PathBuf, cause: rusqlite::Error },
    #[error("{}: a newer version of offload has made it (schema {version}); use that version, or move the file", file.display())]
    Newer { file: PathBuf, version: i64 },
    #[error("the history is damaged, and is set aside as '{}': {cause}", aside.display())]
    Damaged { aside: PathBuf, cause: Box<HistoryError> },
}

impl HistoryError {
    /// Returns whether another process is using the database.
    pub(super) fn is_busy(&self) -> bool {
        let HistoryError::Sqlite { cause: rusqlite::Error::SqliteFailure(error, _), .. } = self else { return false };
        matches!(error.code, ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    }

    /// Returns whether the file is damaged, or is not a history.
    pub(super) fn is_damage(&self) -> bool {
        let HistoryError::Sqlite { cause, .. } = self else { return false };
        match cause {
            rusqlite::Error::SqliteFailure(error, _) => matches!(
                error.code,
                // The last one: a table or a column is missing or has another type.
                ErrorCode::DatabaseCorrupt
                    | ErrorCode::NotADatabase
                    | ErrorCode::ConstraintViolation
                    | ErrorCode::Unknown
            ),
            rusqlite::Error::SqlInputError { .. }
            | rusqlite::Error::InvalidColumnName(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..) => true,
            _ => false,
        }
    }
}

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

    /// Inserts the rows of a batch with this digest, unless it was the last one, and removes rows that are too old at
    /// `now` or too many.
    pub fn insert(&mut self, rows: &[Row], digest: &[u8], now: Time) -> Result<(), HistoryError> {
        let mut insert = || {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let last: Option<Vec<u8>> =
                transaction.query_row("SELECT digest FROM batch", [], |row| row.get(0)).optional()?;
            if last.as_deref() == Some(digest) {
                return Ok(());
            }
            for row in rows {
                if !repeat(&transaction, row)? {
                    insert_row(&transaction, row)?;
                    learn(&transaction, row, transaction.last_insert_rowid())?;
                }
                add_to_totals(&transaction, row)?;
            }
            prune(&transaction, now)?;
            forget_names(&transaction)?;
            transaction.execute("DELETE FROM batch", [])?;
            transaction.execute("INSERT INTO batch VALUES (?)", [digest])?;
            failpoint(Failpoint::HistoryInserted);
            transaction.commit()
        };
        insert().map_err(|cause| HistoryError::Sqlite { file: self.file.clone(), cause })
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

/// Returns a number that SQLite can store.
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Counts a further reply of the same kind to the same request in the row of the last one. Returns whether there is such
/// a row.
fn repeat(transaction: &Transaction<'_>, row: &Row) -> rusqlite::Result<bool> {
    if !row.outcome.is_request() {
        return Ok(false);
    }
    let last = "SELECT id, outcome, ended FROM builds WHERE derivation = ? ORDER BY id DESC LIMIT 1";
    let last: Option<(i64, String, i64)> = transaction
        .prepare_cached(last)?
        .query_row([&row.derivation], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let since = stored(row.started.saturating_sub(REPEATED_WITHIN));
    let Some((id, ..)) = last.filter(|(_, outcome, ended)| outcome == row.outcome.word() && *ended >= since) else {
        return Ok(false);
    };
    let update =
        "UPDATE builds SET requests = min(requests, 1 << 53) + ?, ended = max(ended, ?), reason = ? WHERE id = ?";
    transaction.prepare_cached(update)?.execute(params![1, stored(row.ended), row.reason, id])?;
    Ok(true)
}

fn insert_row(transaction: &Transaction<'_>, row: &Row) -> rusqlite::Result<()> {
    let insert =
        "INSERT INTO builds VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    transaction.prepare_cached(insert)?.execute(params![
        row.derivation,
        row.name,
        row.system,
        row.user,
        row.head,
        row.machine,
        row.attempt,
        row.outcome.word(),
        row.reason,
        stored(row.requests),
        stored(row.started),
        stored(row.ended),
        stored(row.waiting),
        stored(row.sending),
        stored(row.building),
        stored(row.retrieving),
        stored(row.placing),
        row.reused_connection,
        stored(row.sent_items),
        stored(row.sent_bytes),
        stored(row.substituted_items),
        stored(row.substituted_bytes),
        stored(row.retrieved_items),
        stored(row.retrieved_bytes),
        row.slot,
    ])?;
    Ok(())
}

/// The values that are added, each limited so that no sum leaves the range of SQLite's numbers.
fn add_to_totals(transaction: &Transaction<'_>, row: &Row) -> rusqlite::Result<()> {
    let columns = [
        "rows",
        "requests",
        "waiting",
        "sending",
        "building",
        "retrieving",
        "placing",
        "sent_bytes",
        "substituted_items",
        "substituted_bytes",
        "retrieved_bytes",
    ];
    let sums = columns.map(|column| format!("{column} = min({column} + excluded.{column}, 1 << 62)")).join(", ");
    let add = format!(
        "INSERT INTO totals (machine, outcome, last, {}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT DO UPDATE SET last = max(last, excluded.last), {sums}",
        columns.join(", ")
    );
    let limited = |number: u64| stored(number).min(1 << 61);
    transaction.prepare_cached(&add)?.execute(params![
        row.machine.as_deref().unwrap_or(""),
        row.outcome.word(),
        stored(row.ended),
        1,
        limited(row.requests),
        limited(row.waiting),
        limited(row.sending),
        limited(row.building),
        limited(row.retrieving),
        limited(row.placing),
        limited(row.sent_bytes),
        limited(row.substituted_items),
        limited(row.substituted_bytes),
        limited(row.retrieved_bytes),
    ])?;
    Ok(())
}

/// Removes rows beyond [`MAX_ROWS`], those that are older than [`MAX_AGE`], and the totals of machines without an attempt for
/// so long.
fn prune(transaction: &Transaction<'_>, now: Time) -> rusqlite::Result<()> {
    let newest: Option<i64> = transaction.query_row("SELECT max(id) FROM builds", [], |row| row.get(0))?;
    let Some(newest) = newest else { return Ok(()) };
    transaction.execute("DELETE FROM builds WHERE id <= ?", [newest.saturating_sub(MAX_ROWS)])?;
    let recent = "SELECT min(started) FROM (SELECT started FROM builds ORDER BY id DESC LIMIT ?)";
    let recent: Option<i64> = transaction.query_row(recent, [CONFIRMING_ROWS], |row| row.get(0))?;
    let oldest = stored(now).min(recent.unwrap_or(0)).saturating_sub(stored(MAX_AGE));
    // The totals of rows without a machine have few outcomes.
    let gone = "SELECT machine FROM totals GROUP BY machine HAVING max(last) < ?";
    let gone = format!("DELETE FROM totals WHERE machine <> '' AND machine IN ({gone})");
    if transaction.execute(&gone, [oldest])? > 0 {
        forget_machines(transaction)?;
    }
    // Rows are nearly in the order of their times: this ends at the first that stays.
    loop {
        let first: Option<(i64, i64)> = transaction
            .prepare_cached("SELECT id, started FROM builds ORDER BY id LIMIT 1")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match first {
            Some((id, started)) if started < oldest => {
                transaction.prepare_cached("DELETE FROM builds WHERE id = ?")?.execute([id])?;
            }
            _ => return Ok(()),
        }
    }
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
