//! Making items valid: the rows of the store's database that say so.
//!
//! The database is described in [`database`](super::database). Schema version 7, which the file `schema` beside it tells, is the
//! only one written to. All items are registered in one transaction, so that either all are valid or none is; it waits
//! for other writers, the daemon among them. A `deriver` is kept even if it is not valid. Sources: `libstore/schema.sql` and
//! `registerValidPaths` of the daemon, `guix/store/database.scm`.
//!
//! Not checked here: that the items are at their places, complete and in the form of the store, and that nobody else
//! changes them, for which the daemon's locks are there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior};
use thiserror::Error;

use super::database::Item;
use crate::store::base16;
use crate::store::path::StorePath;

/// How long to wait for other writers.
const BUSY: Duration = Duration::from_secs(60);
const SCHEMA: &str = "7";

/// Registers `items` in the database in `directory`. They may refer to each other; whatever else they refer to must be valid.
/// One that is valid already stays as it is.
pub fn register(directory: &Path, items: &[Item]) -> Result<(), RegisterError> {
    let schema = directory.join("schema");
    match fs::read_to_string(&schema) {
        Ok(version) if version.trim_end() == SCHEMA => (),
        Ok(version) => return Err(RegisterError::Schema { version: version.escape_debug().take(20).collect() }),
        Err(cause) => return Err(RegisterError::Read { file: schema, cause }),
    }
    let file = directory.join("db.sqlite");
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&file, flags)?;
        connection.busy_timeout(BUSY)?;
        connection.execute_batch("PRAGMA foreign_keys = ON; PRAGMA synchronous = NORMAL")?;
        Ok(connection)
    };
    let sqlite = |cause| RegisterError::Sqlite { file: file.clone(), cause };
    let mut connection = open().map_err(sqlite)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sqlite)?;
    let mut new = Vec::new();
    for item in items {
        if id(&transaction, &item.path).map_err(sqlite)?.is_none() {
            new.push((insert(&transaction, item).map_err(sqlite)?, item));
        }
    }
    for (referrer, item) in new {
        for reference in &item.references {
            let id = id(&transaction, reference).map_err(sqlite)?;
            let id =
                id.ok_or_else(|| RegisterError::Reference { path: item.path.clone(), reference: reference.clone() })?;
            refer(&transaction, referrer, id).map_err(sqlite)?;
        }
    }
    transaction.commit().map_err(sqlite)
}

fn id(transaction: &Transaction<'_>, path: &StorePath) -> rusqlite::Result<Option<i64>> {
    let mut statement = transaction.prepare_cached("SELECT id FROM ValidPaths WHERE path = ?")?;
    statement.query_row([path.as_str()], |row| row.get(0)).optional()
}

fn insert(transaction: &Transaction<'_>, item: &Item) -> rusqlite::Result<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_secs());
    let query = "INSERT INTO ValidPaths (path, hash, registrationTime, deriver, narSize) VALUES (?, ?, ?, ?, ?)";
    transaction.prepare_cached(query)?.insert((
        item.path.as_str(),
        format!("sha256:{}", base16::encode(&item.nar_hash)),
        i64::try_from(now).unwrap_or(i64::MAX),
        item.deriver.as_ref().map(StorePath::as_str),
        i64::try_from(item.nar_size).unwrap_or(i64::MAX),
    ))
}

fn refer(transaction: &Transaction<'_>, referrer: i64, reference: i64) -> rusqlite::Result<()> {
    let query = "INSERT INTO Refs (referrer, reference) VALUES (?, ?)";
    transaction.prepare_cached(query)?.execute([referrer, reference]).map(|_| ())
}

/// Why items could not be registered. None of them is.
#[derive(Debug, Error)]
pub enum RegisterError {
    #[error("cannot read '{file}': {cause}")]
    Read { file: PathBuf, cause: io::Error },
    #[error("the store's database has schema version '{version}', and only 7 is understood")]
    Schema { version: String },
    #[error("cannot register in the store's database '{file}': {cause}")]
    Sqlite { file: PathBuf, cause: rusqlite::Error },
    #[error("'{path}' refers to '{reference}', which is not valid")]
    Reference { path: StorePath, reference: StorePath },
}
