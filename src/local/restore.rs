//! Staged outputs: restored in a temporary place, checked by the caller, then moved into the store.
//!
//! An output is restored in `<output>.chroot/item`. The garbage collector skips a name that is a temporary root with
//! `.chroot` after it. While a hook runs, the daemon that started it holds all outputs of the derivation as temporary
//! roots. So neither the staged tree nor the one at its final path can be deleted, and the files of a killed hook
//! become garbage as soon as its daemon ends. No other process writes to either place, because that daemon also holds
//! the lock of every output.
//!
//! Files get the metadata of the store at once (0444 or 0555, modified one second after the epoch). Directories get it
//! when they are complete, the topmost one after the move: without root's powers, a directory can be moved only while
//! its owner may write to it. Each file is created new (`O_EXCL`) in a directory that this process opened, one name at
//! a time.
//!
//! A file that does not fit is not begun ([`disk_space`](super::disk_space)).
//!
//! Not done here: registering in the database. A tree at its final path that is not registered is invalid, and the next
//! build or garbage collection deletes it.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use thiserror::Error;

use super::database::{Database, DatabaseError};
use super::directory_walk::DirectoryWalk;
use super::disk_space::DiskReserve;
use super::dump::Dump;
use super::files::{self, EXECUTABLE_MODE, FILE_MODE};
use super::hints;
use super::remove::remove;
use super::store::{Store, file_name};
use crate::failpoints::{Failpoint, failpoint, half};
use crate::store::nar::{NarPath, Visitor};
use crate::store::path::StorePath;

/// The name of an output while it is staged.
const STAGED_ITEM_NAME: &CStr = c"item";
/// The end of the name of its directory.
const STAGED_SUFFIX: &str = ".chroot";
/// The bytes of a file that are copied at a time.
const COPY_CHUNK: usize = 128 << 10;

/// A staged output. Dropping it removes its files.
pub struct Staging<'a> {
    store: &'a Store,
    output: StorePath,
    fd: OwnedFd,
    is_kept: bool,
}

/// Returns the place of an output that was restored and kept in the directory `parent`.
pub fn staged_item(parent: &Path, output: &StorePath) -> PathBuf {
    parent.join(format!("{}{STAGED_SUFFIX}", output.base_name())).join("item")
}

impl<'a> Staging<'a> {
    /// Creates the place for `output`, and removes the files of an earlier attempt.
    pub fn new(store: &'a Store, output: &StorePath) -> Result<Staging<'a>, RestoreError> {
        let make = || -> io::Result<OwnedFd> {
            let name = file_name(output, STAGED_SUFFIX)?;
            remove(store.fd(), &name)?;
            Ok(files::make_directory(store.fd(), &name, Mode::RWXU)?)
        };
        match make() {
            Ok(fd) => Ok(Staging { store, output: output.clone(), fd, is_kept: false }),
            Err(cause) => Err(RestoreError::Stage { path: output.clone(), cause }),
        }
    }

    pub fn output(&self) -> &StorePath {
        &self.output
    }

    /// Returns the visitor that restores a nar into it. Call it only once.
    pub fn restore(&self) -> Restore<'_> {
        Restore { root: self.fd.as_fd(), open: None, room: DiskReserve::default(), chunk: vec![0; COPY_CHUNK] }
    }

    /// Leaves the files where they are ([`staged_item`]).
    pub fn keep(mut self) {
        self.is_kept = true;
    }

    /// Reads the restored files, as a nar.
    pub fn dump(&self) -> io::Result<Dump> {
        Dump::new(&self.fd, STAGED_ITEM_NAME)
    }

    /// Opens the output if it is a regular file that is not executable.
    pub(super) fn plain_file(&self) -> io::Result<Option<File>> {
        let status = rustix::fs::statat(&self.fd, STAGED_ITEM_NAME, AtFlags::SYMLINK_NOFOLLOW)?;
        let plain = FileType::from_raw_mode(status.st_mode) == FileType::RegularFile
            && !Mode::from_raw_mode(status.st_mode).contains(Mode::XUSR);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        plain.then(|| Ok(rustix::fs::openat(&self.fd, STAGED_ITEM_NAME, flags, Mode::empty())?.into())).transpose()
    }

    /// Moves the output into the store, where an invalid tree of that name is removed first. Returns false, and does
    /// nothing, if it is valid there already.
    pub fn install(self, database: &Database) -> Result<bool, RestoreError> {
        if database.is_valid(&self.output)? {
            return Ok(false);
        }
        let install = || -> io::Result<()> {
            let name = file_name(&self.output, "")?;
            remove(self.store.fd(), &name)?;
            failpoint(Failpoint::PlaceCleared);
            rustix::fs::renameat(&self.fd, STAGED_ITEM_NAME, self.store.fd(), &name)?;
            failpoint(Failpoint::Moved);
            match files::open_directory(self.store.fd(), &name) {
                Ok(directory) => Ok(files::seal(&directory)?),
                // A file or a link is complete already.
                Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => Ok(()),
                Err(cause) => Err(cause.into()),
            }
        };
        match install() {
            Ok(()) => Ok(true),
            Err(cause) => Err(RestoreError::Install { path: self.output.clone(), cause }),
        }
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        // Files that cannot be removed now become garbage later.
        if !self.is_kept
            && let Ok(name) = file_name(&self.output, STAGED_SUFFIX)
        {
            let _ = remove(self.store.fd(), &name);
        }
    }
}

/// Creates files as a nar is read.
pub struct Restore<'a> {
    root: BorrowedFd<'a>,
    /// The current directory, which is the topmost of the output or below it.
    open: Option<DirectoryWalk>,
    room: DiskReserve,
    chunk: Vec<u8>,
}

impl Restore<'_> {
    /// Returns the directory of an entry, and its name there.
    fn place(&self, path: &NarPath) -> io::Result<(BorrowedFd<'_>, CString)> {
        let parent = self.open.as_ref().map_or(self.root, DirectoryWalk::current);
        let name = path.name().map_or(Ok(STAGED_ITEM_NAME.to_owned()), CString::new);
        Ok((parent, name.map_err(io::Error::other)?))
    }
}

impl Visitor for Restore<'_> {
    fn directory(&mut self, path: &NarPath) -> io::Result<()> {
        self.room.for_node(self.root, 0)?;
        let (parent, name) = self.place(path)?;
        let directory = files::make_directory(parent, &name, Mode::from_raw_mode(0o755))?;
        match &mut self.open {
            Some(open) => Ok(open.enter(directory)?),
            None => {
                self.open = Some(DirectoryWalk::new(directory));
                Ok(())
            }
        }
    }

    fn leave_directory(&mut self, _: &NarPath) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        match open.leave()? {
            Some(directory) => Ok(files::seal(directory)?),
            // The topmost is sealed after the move.
            None => {
                self.open = None;
                Ok(())
            }
        }
    }

    fn file(&mut self, path: &NarPath, executable: bool, size: u64, contents: &mut dyn Read) -> io::Result<()> {
        self.room.for_node(self.root, size)?;
        let (parent, name) = self.place(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(parent, &name, flags, Mode::RUSR | Mode::WUSR)?);
        let mut left = size;
        while left > 0 {
            let count = contents.read(&mut self.chunk)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.room.for_bytes(self.root, count as u64, left)?;
            file.write_all(&self.chunk[..count])?;
            left = left.saturating_sub(count as u64);
            half(Failpoint::FileHalf, size - left, size);
        }
        rustix::fs::fchmod(&file, if executable { EXECUTABLE_MODE } else { FILE_MODE })?;
        Ok(rustix::fs::futimens(&file, &files::canonical_times())?)
    }

    fn symlink(&mut self, path: &NarPath, target: &[u8]) -> io::Result<()> {
        self.room.for_node(self.root, 0)?;
        let (parent, name) = self.place(path)?;
        rustix::fs::symlinkat(target, parent, &name)?;
        let times = files::canonical_times();
        Ok(rustix::fs::utimensat(parent, &name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// The reason why an output could not be restored or moved.
#[derive(Debug, Error)]
pub enum RestoreError {
    #[error("cannot prepare a place for '{path}' in the store: {cause}{}", hints::of_store(cause))]
    Stage { path: StorePath, cause: io::Error },
    #[error("cannot write '{path}': {cause}{}", hints::of_store(cause))]
    Write { path: StorePath, cause: io::Error },
    #[error("cannot move '{path}' into the store: {cause}{}", hints::of_store(cause))]
    Install { path: StorePath, cause: io::Error },
    #[error("cannot make the directory '{}': {cause}{}", path.display(), hints::of_temporary())]
    Temporary { path: PathBuf, cause: io::Error },
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

#[cfg(test)]
mod tests;
