//! The store's database of valid items.
//!
//! The database is SQLite, the file `db.sqlite` in the database directory. It belongs to the daemon, and is opened for
//! reading here. Its tables are `ValidPaths(id, path, hash, registrationTime, deriver, narSize)` and `Refs(referrer,
//! reference)` and, with the outputs of valid derivations, `DerivationOutputs(drv, id, path)`. `hash` is `sha256:` and the nar hash in base 16, `deriver` may be null or empty, and `narSize` is null
//! or 0 if it is not known. The connection is in WAL mode: it needs the daemon's uid (or root), waits for no writer,
//! and sees the items that were registered when a query begins. Sources: `libstore/schema.sql` and `local-store.cc` of
//! the daemon.
//!
//! Not checked here: whether the files of an item exist, and their contents.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use thiserror::Error;

use super::hints;
use crate::store::base16;
use crate::store::path::{PathError, StoreDir, StorePath};

/// How long SQLite waits while the whole database is locked, during recovery or a change of schema.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long sizes are waited for in that case.
const SIZES_TIMEOUT: Duration = Duration::from_millis(10);

/// A valid item of this store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub path: StorePath,
    /// Sorted; an item that refers to itself is among them.
    pub references: Vec<StorePath>,
    pub deriver: Option<StorePath>,
    /// SHA-256 of its nar.
    pub nar_hash: [u8; 32],
    /// The length of its nar in bytes; 0 if it is not recorded.
    pub nar_size: u64,
}

/// The database, open for reading.
pub struct Database {
    connection: Connection,
    store: StoreDir,
    file: PathBuf,
}

impl Database {
    /// Opens the database in `directory`, for the items in `store`.
    pub fn open(directory: &Path, store: &StoreDir) -> Result<Database, DatabaseError> {
        Database::open_with_timeout(directory, store, BUSY_TIMEOUT)
    }

    /// Opens the database, and waits up to `timeout` while it is locked as a whole.
    fn open_with_timeout(directory: &Path, store: &StoreDir, timeout: Duration) -> Result<Database, DatabaseError> {
        let file = directory.join("db.sqlite");
        let open = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&file, flags)?;
            connection.busy_timeout(timeout)?;
            Ok(connection)
        };
        match open() {
            Ok(connection) => Ok(Database { connection, store: store.clone(), file }),
            Err(cause) => Err(DatabaseError::Sqlite { file, cause }),
        }
    }

    /// Returns whether the item is registered.
    pub fn is_valid(&self, path: &StorePath) -> Result<bool, DatabaseError> {
        let query = || {
            let mut statement = self.connection.prepare_cached("SELECT 1 FROM ValidPaths WHERE path = ?")?;
            statement.exists([path.as_str()])
        };
        query().map_err(|cause| self.sqlite(cause))
    }

    /// Returns the record of `path`; `None` if it is not valid.
    pub fn item(&self, path: &StorePath) -> Result<Option<Item>, DatabaseError> {
        let Some(row) = self.row(path).map_err(|cause| self.sqlite(cause))? else { return Ok(None) };
        let references = self.references(row.id).map_err(|cause| self.sqlite(cause))?;
        let record = |problem: String| DatabaseError::Record { path: path.clone(), problem };
        let parse = |text: &String| StorePath::parse(&self.store, text.as_bytes());
        let wrong = |error: PathError| record(error.to_string());
        let mut references = references.iter().map(parse).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        references.sort_unstable();
        let nar_hash = row.hash.strip_prefix("sha256:").and_then(|hash| base16::decode_sha256(hash.as_bytes()));
        Ok(Some(Item {
            path: path.clone(),
            references,
            deriver: row.deriver.filter(|text| !text.is_empty()).as_ref().map(parse).transpose().map_err(wrong)?,
            nar_hash: nar_hash.ok_or_else(|| record(format!("its hash is '{}'", row.hash)))?,
            nar_size: u64::try_from(row.nar_size.unwrap_or(0)).map_err(|_| record("its size is negative".into()))?,
        }))
    }

    /// Returns the records of `paths`, which must all be valid; an item comes after its references among them.
    pub fn items(&self, paths: &BTreeSet<StorePath>) -> Result<Vec<Item>, DatabaseError> {
        // One transaction gives all queries the same state, and avoids a lock for each.
        let transaction = self.connection.unchecked_transaction().map_err(|cause| self.sqlite(cause))?;
        let mut items = HashMap::new();
        for path in paths {
            let item = self.item(path)?.ok_or_else(|| DatabaseError::NotValid { path: path.clone() })?;
            items.insert(path, item);
        }
        drop(transaction);
        let order = references_first(paths, |path| items.get(path).map_or(&[], |item| &item.references))?;
        Ok(order.iter().filter_map(|path| items.remove(path)).collect())
    }

    /// Opens the database for the sizes of items, which nothing waits for.
    pub fn open_for_sizes(directory: &Path, store: &StoreDir) -> Result<Database, DatabaseError> {
        Database::open_with_timeout(directory, store, SIZES_TIMEOUT)
    }

    /// Returns the bytes of the nars of these outputs of a derivation, by the daemon's table of outputs. All of them must be
    /// valid.
    pub fn output_bytes(&self, derivation: &StorePath, ids: &BTreeSet<String>) -> Result<u64, DatabaseError> {
        let query = "SELECT DerivationOutputs.id, output.narSize FROM ValidPaths AS drv
                     JOIN DerivationOutputs ON drv = drv.id JOIN ValidPaths AS output ON output.path = DerivationOutputs.path
                     WHERE drv.path = ?";
        let sizes = || -> rusqlite::Result<Vec<(String, Option<i64>)>> {
            let mut statement = self.connection.prepare_cached(query)?;
            statement.query_map([derivation.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        };
        let sizes = sizes().map_err(|cause| self.sqlite(cause))?;
        let found: Vec<Option<i64>> =
            sizes.into_iter().filter(|(id, _)| ids.contains(id)).map(|(_, size)| size).collect();
        match found.len() == ids.len() {
            true => Ok(found.into_iter().fold(0, |sum, size| sum.saturating_add(bytes(size)))),
            false => Err(DatabaseError::NotValid { path: derivation.clone() }),
        }
    }

    /// Returns the bytes of the nars of these items, which must all be valid.
    pub fn nar_bytes(&self, paths: &BTreeSet<StorePath>) -> Result<u64, DatabaseError> {
        let mut sum = 0u64;
        for path in paths {
            let row = self.row(path).map_err(|cause| self.sqlite(cause))?;
            let row = row.ok_or_else(|| DatabaseError::NotValid { path: path.clone() })?;
            sum = sum.saturating_add(bytes(row.nar_size));
        }
        Ok(sum)
    }

    /// Returns the largest `count` outputs, as recorded.
    pub fn largest_outputs(&self, count: usize) -> Result<BTreeSet<StorePath>, DatabaseError> {
        let query = || -> rusqlite::Result<Vec<String>> {
            let query = "SELECT path FROM ValidPaths WHERE deriver LIKE '%.drv' ORDER BY narSize DESC LIMIT ?";
            self.connection.prepare(query)?.query_map([count as i64], |row| row.get(0))?.collect()
        };
        let paths = query().map_err(|cause| self.sqlite(cause))?;
        Ok(paths.iter().filter_map(|path| StorePath::parse(&self.store, path.as_bytes()).ok()).collect())
    }

    fn row(&self, path: &StorePath) -> rusqlite::Result<Option<Row>> {
        let mut statement =
            self.connection.prepare_cached("SELECT id, hash, deriver, narSize FROM ValidPaths WHERE path = ?")?;
        let row = statement.query_row([path.as_str()], |row| {
            Ok(Row { id: row.get(0)?, hash: row.get(1)?, deriver: row.get(2)?, nar_size: row.get(3)? })
        });
        row.optional()
    }

    fn references(&self, id: i64) -> rusqlite::Result<Vec<String>> {
        let query = "SELECT path FROM Refs JOIN ValidPaths ON reference = id WHERE referrer = ?";
        self.connection.prepare_cached(query)?.query_map([id], |row| row.get(0))?.collect()
    }

    fn sqlite(&self, cause: rusqlite::Error) -> DatabaseError {
        DatabaseError::Sqlite { file: self.file.clone(), cause }
    }
}

/// Returns a recorded size; 0 if there is none.
fn bytes(size: Option<i64>) -> u64 {
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0)
}

struct Row {
    id: i64,
    hash: String,
    deriver: Option<String>,
    nar_size: Option<i64>,
}

/// Sorts `paths` so that each comes after its references. References to itself and to paths outside `paths` are
/// ignored. Derivations come as early as possible: a daemon that imports an item drops its deriver if it does not have
/// that yet.
pub fn references_first<'p, 'r>(
    paths: &'p BTreeSet<StorePath>,
    references: impl Fn(&StorePath) -> &'r [StorePath],
) -> Result<Vec<&'p StorePath>, DatabaseError> {
    let mut order = Vec::with_capacity(paths.len());
    // False while the references of the item are being placed, true once the item itself is.
    let mut placed: HashMap<&StorePath, bool> = HashMap::new();
    let (derivations, others): (Vec<_>, Vec<_>) = paths.iter().partition(|path| path.is_derivation());
    for path in derivations.into_iter().chain(others) {
        if placed.contains_key(path) {
            continue;
        }
        placed.insert(path, false);
        let mut open = vec![(path, references(path).iter())];
        while let Some((path, rest)) = open.last_mut() {
            let path = *path;
            match rest.find_map(|reference| paths.get(reference).filter(|found| *found != path)) {
                Some(reference) => match placed.get(reference) {
                    Some(true) => (),
                    Some(false) => return Err(DatabaseError::Cycle { path: reference.clone() }),
                    None => {
                        placed.insert(reference, false);
                        open.push((reference, references(reference).iter()));
                    }
                },
                None => {
                    placed.insert(path, true);
                    order.push(path);
                    open.pop();
                }
            }
        }
    }
    Ok(order)
}

/// The reason why the database gives no usable result.
#[derive(Debug, Error)]
pub enum DatabaseError {
    #[error("cannot use the store's database '{file}': {cause}{}", hints::of_database(cause, file))]
    Sqlite { file: PathBuf, cause: rusqlite::Error },
    #[error("'{path}' is not a valid store item")]
    NotValid { path: StorePath },
    #[error("the store's database has a bad record of '{path}': {problem}")]
    Record { path: StorePath, problem: String },
    #[error("'{path}' refers to itself through other items")]
    Cycle { path: StorePath },
}

#[cfg(test)]
mod tests;
