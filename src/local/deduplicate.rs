//! Equal files of the store as one.
//!
//! `.links` in the store has an entry for each regular file of 8 KiB or more: a hard link named after the SHA-256, in base
//! 32, of the nar of that file alone, so that an executable and its like that is none stay apart. A file whose
//! contents are there already is replaced by another link to it; one whose contents are new gets an entry. Sources:
//! `optimisePath_` in the daemon's `libstore/optimise-store.cc`, `guix/store/deduplication.scm`.
//!
//! Entries that nothing else links to are removed by the garbage collector, maybe between two steps here: then the file
//! stays as it is. So it does where the file system has no more links or room to offer.

use std::ffi::{CStr, CString};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, Stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::dump::Dump;
use super::files;
use super::store::{Store, file_name};
use crate::store::base32;
use crate::store::path::StorePath;

/// Smaller files are left alone, in bytes.
const MINIMUM: i64 = 8192;
const LINKS: &CStr = c".links";

/// Deduplicates the files of an item that is at its place and complete. Returns how many were replaced.
pub fn deduplicate(store: &Store, path: &StorePath) -> Result<u64, DeduplicateError> {
    let deduplicate = || {
        let links = match files::make_directory(store.fd(), LINKS, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => files::open_directory(store.fd(), LINKS)?,
            other => other?,
        };
        let deduplicator = Deduplicator { store: store.fd(), links };
        deduplicator.node(store.fd(), &file_name(path, "")?)
    };
    deduplicate().map_err(|cause| DeduplicateError { path: path.clone(), cause })
}

struct Deduplicator<'a> {
    store: BorrowedFd<'a>,
    links: OwnedFd,
}

impl Deduplicator<'_> {
    fn node(&self, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<u64> {
        let status = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => self.directory(files::open_directory(parent, name)?),
            FileType::RegularFile if status.st_size >= MINIMUM => self.file(parent, name, &status).map(u64::from),
            _ => Ok(0),
        }
    }

    fn directory(&self, directory: OwnedFd) -> io::Result<u64> {
        let mut replaced = 0;
        // Entries can only be replaced by someone who may write to the directory, unless that is root.
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o755))?;
        for name in files::names(&directory)? {
            replaced += self.node(directory.as_fd(), &name)?;
        }
        files::seal(&directory)?;
        Ok(replaced)
    }

    /// Whether the file was replaced.
    fn file(&self, parent: BorrowedFd<'_>, name: &CStr, status: &Stat) -> io::Result<bool> {
        let entry = entry_name(parent, name)?;
        match rustix::fs::linkat(parent, name, &self.links, &entry, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOSPC | Errno::MLINK) => return Ok(false),
            Err(Errno::EXIST) => (),
            Err(error) => return Err(error.into()),
        }
        match rustix::fs::statat(&self.links, &entry, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(known) if known.st_ino != status.st_ino && known.st_size == status.st_size => (),
            // This file itself, a damaged one, or none any more.
            Ok(_) | Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = CString::new(format!(".tmp-link-{}-{count}", std::process::id()))?;
        let link = || {
            rustix::fs::linkat(&self.links, &entry, self.store, &temporary, AtFlags::empty())?;
            rustix::fs::renameat(self.store, &temporary, parent, name)
        };
        match link() {
            Ok(()) => Ok(true),
            Err(error) => {
                let _ = rustix::fs::unlinkat(self.store, &temporary, AtFlags::empty());
                match error {
                    Errno::NOENT | Errno::MLINK | Errno::NOSPC => Ok(false),
                    other => Err(other.into()),
                }
            }
        }
    }
}

/// The name of the entry for a file.
fn entry_name(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<CString> {
    let mut hasher = Sha256::new();
    let mut nar = Dump::new(parent, name)?;
    let mut chunk = vec![0; 128 << 10];
    loop {
        match nar.read(&mut chunk)? {
            0 => break,
            count => hasher.update(&chunk[..count]),
        }
    }
    Ok(CString::new(base32::encode(&hasher.finalize()))?)
}

/// Why an item could not be deduplicated. It is complete all the same.
#[derive(Debug, Error)]
#[error("cannot deduplicate '{path}': {cause}")]
pub struct DeduplicateError {
    pub path: StorePath,
    pub cause: io::Error,
}

#[cfg(test)]
mod tests;
