//! The store of this machine: an open directory and its database.

use std::ffi::{CString, NulError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use thiserror::Error;

use super::database::{Database, DatabaseError};
use super::directories::Directories;
use crate::store::path::{StoreDir, StorePath};

/// The store. Items are reached by their base names from the open directory, so that no path outside is used.
pub struct Store {
    directory: StoreDir,
    fd: OwnedFd,
}

impl Store {
    /// Opens the store at the place that its own name says.
    pub fn open(directory: &StoreDir) -> Result<Store, StoreError> {
        Store::open_at(directory, directory.as_ref())
    }

    /// Opens a store that is at `location` here, whatever the prefix of its items: such as one in another root
    /// directory.
    pub fn open_at(directory: &StoreDir, location: &Path) -> Result<Store, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(location, flags, Mode::empty()) {
            Ok(fd) => Ok(Store { directory: directory.clone(), fd }),
            Err(cause) => Err(StoreError { location: location.to_owned(), cause: cause.into() }),
        }
    }

    /// Returns a store whose items are in the open directory `fd`.
    pub(super) fn in_directory(directory: &StoreDir, fd: OwnedFd) -> Store {
        Store { directory: directory.clone(), fd }
    }

    pub fn directory(&self) -> &StoreDir {
        &self.directory
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Returns the name of an item in the store's directory, with `suffix` after it.
pub(super) fn file_name(path: &StorePath, suffix: &str) -> io::Result<CString> {
    CString::new(format!("{}{suffix}", path.base_name())).map_err(|error: NulError| io::Error::other(error))
}

/// The store cannot be opened.
#[derive(Debug, Error)]
#[error("cannot open the store '{location}': {cause}")]
pub struct StoreError {
    pub location: PathBuf,
    pub cause: io::Error,
}

/// The store of this machine with its database.
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
