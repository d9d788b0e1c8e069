//! A directory outside of the store, in which outputs are restored.
//!
//! Where the store is mounted read-only, as on Guix System and beside an unprivileged guix-daemon, only the daemon and
//! its hooks see a store that can be written. Other programs restore outputs here, and import them through the daemon.
//! Outputs that must not enter the store are restored here, too.
//!
//! The directory is below `TMPDIR`, by default `/tmp`, which no other user than root may control: root would follow a name
//! that the other one has replaced. Only its owner can access it, and it is removed when it is dropped. After a kill it
//! remains.

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use rustix::process::geteuid;

use super::remove::remove;
use super::restore::RestoreError;
use super::store::Store;
use crate::permissions::ownership::{Control, control};
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
        let parent = std::env::temp_dir();
        check_control(&parent).map_err(|cause| RestoreError::Temporary { path: parent.clone(), cause })?;
        let path = make(&parent)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => Ok(TemporaryStore { store: Store::in_directory(directory, fd), path }),
            Err(cause) => Err(RestoreError::Temporary { path, cause: cause.into() }),
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

/// Fails if another user than root and this one could replace directories in `parent`, while outputs are restored there by
/// their paths.
fn check_control(parent: &Path) -> io::Result<()> {
    match control(parent)? {
        Control::Root => Ok(()),
        Control::User { uid, .. } if uid == geteuid().as_raw() => Ok(()),
        Control::User { path, .. } | Control::Others { path } => {
            let message = format!("another user controls '{}'", path.display());
            Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
        }
    }
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
    fn a_directory_of_another_user_is_not_used() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("of-user");
        std::fs::create_dir(&path).unwrap();
        let set_mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        for (mode, is_used) in [(0o700, true), (0o1777, true), (0o777, false)] {
            set_mode(mode);
            assert_eq!(check_control(&path).is_ok(), is_used, "{mode:o}");
        }
        set_mode(0o1777);
        std::os::unix::fs::chown(&path, Some(995), None).unwrap();
        assert!(check_control(&path).unwrap_err().to_string().ends_with("/of-user'"));
    }

    #[test]
    fn a_store_that_can_be_written_needs_no_other_directory() {
        let store = tempfile::tempdir().unwrap();
        let store = StoreDir::new(store.path().to_str().unwrap()).unwrap();
        assert!(TemporaryStore::if_read_only(&store).unwrap().is_none());
    }
}
