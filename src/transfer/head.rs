//! This machine's end of a transfer.

use crate::local::{Database, DatabaseError, Directories, Store, StoreError};

/// The store of this machine and what is known about it.
pub struct Head<'a> {
    pub directories: &'a Directories,
    pub store: Store,
    pub database: Database,
}

/// The store of this machine cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl<'a> Head<'a> {
    /// Opens the store and its database.
    pub fn open(directories: &'a Directories) -> Result<Head<'a>, HeadError> {
        Ok(Head {
            directories,
            store: Store::open(&directories.store)?,
            database: Database::open(&directories.database, &directories.store)?,
        })
    }
}
