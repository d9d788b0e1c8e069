//! A directory outside of the store, in which outputs are restored.
//!
//! Where the store is mounted read-only, as on Guix System and beside an unprivileged guix-daemon, only the daemon and
//! its hooks see a store that can be written. Other programs restore outputs here, and import them through the daemon.
//! Outputs that must not enter the store are restored here, too.
//!
//! The directory is below `TMPDIR`, by default `/tmp`. Only its owner can access it, and it is removed when it is dropped.
//! After a kill it remains.

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, StatVfsMountFlags};

use super::remove::remove;
use super::restore::RestoreError;
use super::store::Store;
use crate::store::path::StoreDir;

/// The limit of names that are tried.
const MAX_NAMES: u32 = 1000;

/// A new directory for outputs.
pub struct TemporaryStore {
    store: Store,
    path: PathBuf,
}

impl TemporaryStore {
    /// Makes a directory for items of a store.
    pub fn new(directory: &StoreDir) -> Result<TemporaryStore, RestoreError> {
        let path = make(&std::env::temp_dir())?;
        match Store::open_at(directory, &path) {
            Ok(store) => Ok(TemporaryStore { store, path }),
            Err(error) => Err(RestoreError::Temporary { path, cause: error.cause }),
        }
    }

    /// Makes a directory if the store itself is mounted read-only for this process.
    pub fn if_read_only(directory: &StoreDir) -> Result<Option<TemporaryStore>, RestoreError> {
        is_read_only(directory).then(|| TemporaryStore::new(directory)).transpose()
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TemporaryStore {
    fn drop(&mut self) {
        let removed = CString::new(self.path.as_os_str().as_bytes())
            .map_err(io::Error::other)
            .and_then(|name| Ok(remove(CWD.as_fd(), &name)?));
        if let Err(error) = removed {
            log::warn!("cannot remove '{}': {error}", self.path.display());
        }
    }
}

/// Returns whether the store is mounted read-only for this process.
pub fn is_read_only(directory: &StoreDir) -> bool {
    rustix::fs::statvfs(directory.as_str()).is_ok_and(|status| status.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Makes a directory with a new name. A name that exists, as a link for example, is not used.
fn make(parent: &Path) -> Result<PathBuf, RestoreError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut tries = 0..MAX_NAMES;
    loop {
        let path = parent.join(format!("offload-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries.next().is_some() => {}
            Err(cause) => return Err(RestoreError::Temporary { path, cause }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_directory_is_new_private_and_removed() {
        let store = TemporaryStore::new(&StoreDir::default()).unwrap();
        let other = TemporaryStore::new(&StoreDir::default()).unwrap();
        assert_ne!(store.path(), other.path());
        let path = store.path().to_owned();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o700);
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        drop(store);
        assert!(!path.exists() && other.path().exists());
    }

    #[test]
    fn a_name_that_exists_is_not_used() {
        let parent = tempfile::tempdir().unwrap();
        let first = make(parent.path()).unwrap();
        let number: u32 = first.to_str().unwrap().rsplit('-').next().unwrap().parse().unwrap();
        // Other tests take numbers at the same time.
        for next in number + 1..number + 50 {
            let name = format!("offload-{}-{next}", std::process::id());
            symlink("/nowhere", parent.path().join(name)).unwrap();
        }
        assert!(make(parent.path()).unwrap().is_dir());
    }

    #[test]
    fn a_store_that_can_be_written_needs_no_other_directory() {
        let store = tempfile::tempdir().unwrap();
        let store = StoreDir::new(store.path().to_str().unwrap()).unwrap();
        assert!(TemporaryStore::if_read_only(&store).unwrap().is_none());
    }
}
