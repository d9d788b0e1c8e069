//! This machine's end of a transfer.

use super::{Database, DatabaseError, Directories, Store, StoreError};

/// The store of this machine and what is known about it.
pub struct LocalStore<'a> {
    pub directories: &'a Directories,
    pub store: Store,
    pub database: Database,
}

/// The store of this machine cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LocalStoreError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl<'a> LocalStore<'a> {
    /// Opens the store and its database.
    pub fn open(directories: &'a Directories) -> Result<LocalStore<'a>, LocalStoreError> {
        Ok(LocalStore {
            directories,
            store: Store::open(&directories.store)?,
            database: Database::open(&directories.database, &directories.store)?,
        })
    }
}
