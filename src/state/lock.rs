//! Lock files: flock, through fs4.
//!
//! A lock belongs to an open file. The kernel releases it when the last descriptor of that file is closed, however the
//! process ends. A locked file is never removed: otherwise two processes could lock two files of the same name.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use fs4::{FileExt, TryLockError};
use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::io::Errno;

use super::StateError;
use crate::cancel;
use crate::failpoints::{Failpoint, failpoint};
use crate::permissions::files;

/// The limit for files that are read; all files of the state directory are smaller.
const MAX_RECORD_FILE: u64 = 64 * 1024;

/// The size of most files or more: they are read in one piece.
const FIRST_READ: usize = 4096;

/// How long a process waits for a lock that others hold only while they change a file.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a process retries a lock that only readers hold. Each holds it for microseconds, but may be suspended just
/// then.
const READER_TIMEOUT: Duration = Duration::from_millis(100);

/// Locks `path`, which is created if needed. `None`: another process holds the lock. Shared locks of readers do not
/// count.
pub(super) fn try_lock(path: &Path) -> Result<Option<File>, StateError> {
    let failed = |cause| StateError { path: path.to_owned(), cause };
    let file = files::open_or_make_all(path).map_err(failed)?;
    let start = Instant::now();
    loop {
        if locked(|| FileExt::try_lock(&file)).map_err(failed)? {
            return Ok(Some(file));
        }
        if !locked(|| FileExt::try_lock_shared(&file)).map_err(failed)? || start.elapsed() > READER_TIMEOUT {
            return Ok(None);
        }
        FileExt::unlock(&file).map_err(failed)?;
        thread::sleep(Duration::from_micros(20));
    }
}

/// Locks an open file together with others that lock it so. `false`: a process has it for itself.
pub(super) fn try_shared(file: &File) -> io::Result<bool> {
    locked(|| FileExt::try_lock_shared(file))
}

/// Locks an open file for this process alone. `false`: another process has it.
pub(super) fn try_exclusive(file: &File) -> io::Result<bool> {
    locked(|| FileExt::try_lock(file))
}

/// Releases a lock before its file is closed.
pub(super) fn unlock(file: &File) -> io::Result<()> {
    FileExt::unlock(file)
}

/// Returns whether a process holds the lock of `path`. Readers that check it do not exclude each other.
pub(super) fn is_locked(path: &Path) -> Result<bool, StateError> {
    let failed = |cause| StateError { path: path.to_owned(), cause };
    match files::open(path) {
        Ok(file) => Ok(!locked(|| FileExt::try_lock_shared(&file)).map_err(failed)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// Locks `path` for a short change. Other processes hold it only briefly, unless one was stopped during a change: then
/// this is an error after [`LOCK_TIMEOUT`].
pub(super) fn lock_briefly(path: &Path) -> Result<File, StateError> {
    let start = Instant::now();
    loop {
        if let Some(file) = try_lock(path)? {
            return Ok(file);
        }
        if start.elapsed() > LOCK_TIMEOUT {
            let cause = io::Error::new(io::ErrorKind::TimedOut, "another process does not release the lock");
            return Err(StateError { path: path.to_owned(), cause });
        }
        thread::sleep(Duration::from_micros(500));
    }
}

fn locked(mut lock: impl FnMut() -> Result<(), TryLockError>) -> io::Result<bool> {
    loop {
        match lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// A wait for a lock by a thread in the kernel, which needs no processor time. Once this is dropped, the lock is released as
/// soon as it is granted.
#[derive(Debug)]
pub struct LockWait {
    path: PathBuf,
    granted: Receiver<io::Result<File>>,
    /// Readable once the lock is granted (eventfd(2)).
    event: Arc<OwnedFd>,
}

impl LockWait {
    /// Waits for the lock of `path`, which is created if needed.
    pub(super) fn exclusive(path: &Path) -> Result<LockWait, StateError> {
        LockWait::start(path, FileExt::lock)
    }

    /// Waits until no process holds the lock of `path`, which is created if needed. Nothing is locked afterwards, so that a
    /// process that does not look at the result for a while keeps the lock from nobody.
    pub(super) fn release(path: &Path) -> Result<LockWait, StateError> {
        LockWait::start(path, |file| FileExt::lock_shared(file).and_then(|()| FileExt::unlock(file)))
    }

    fn start(path: &Path, lock: fn(&File) -> io::Result<()>) -> Result<LockWait, StateError> {
        let failed = |cause| StateError { path: path.to_owned(), cause };
        let file = files::open_or_make_all(path).map_err(failed)?;
        let (sender, granted) = mpsc::channel();
        let event = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let event = Arc::new(event);
        let granted_event = Arc::clone(&event);
        let wait = move || {
            let locked = loop {
                match lock(&file) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    locked => break locked,
                }
            };
            let _ = sender.send(locked.map(|()| file));
            let _ = rustix::io::write(&granted_event, &1_u64.to_ne_bytes());
        };
        thread::Builder::new().name("lock".to_owned()).spawn(wait).map_err(failed)?;
        Ok(LockWait { path: path.to_owned(), granted, event })
    }

    /// Waits until the wait has ended, and returns the file. `None` if the time `until` comes first, or the build is
    /// cancelled; then it can be called again.
    pub fn wait(&self, until: Instant) -> Result<Option<File>, StateError> {
        let failed = |cause| StateError { path: self.path.clone(), cause };
        match cancel::poll(self.event.as_fd(), PollFlags::IN, Some(until)) {
            Ok(false) | Err(Errno::CANCELED) => Ok(None),
            Ok(true) => {
                let granted = self.granted.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
                granted.map(Some).map_err(failed)
            }
            Err(error) => Err(failed(error.into())),
        }
    }
}

/// Replaces a file as a whole, through `PATH.new`: a reader sees the old or the new one, also after a kill. The caller
/// holds a lock that excludes other writers.
pub(super) fn replace(path: &Path, contents: &[u8]) -> Result<(), StateError> {
    let failed = |cause| StateError { path: path.to_owned(), cause };
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    let make = || {
        files::make_new(new)?.write_all(contents)?;
        failpoint(Failpoint::RecordWritten);
        files::rename(new, path)
    };
    make().map_err(failed)
}

/// Overwrites a small file, which is created if needed. A reader may see the old contents, the new ones, or, for a
/// moment or after a kill, a mixture. The caller holds a lock that excludes other writers.
///
/// This is for records of little value. Replacing a file costs ten times as much, since ext4 writes the new one to the
/// disk at once. It costs far more if many files were removed in the last minute, since ext4 looks for an inode that
/// was not among them.
pub(super) fn overwrite(path: &Path, contents: &[u8]) -> Result<(), StateError> {
    let write = || {
        let file = files::open_or_make(path)?;
        file.write_all_at(contents, 0)?;
        failpoint(Failpoint::RecordWritten);
        file.set_len(contents.len() as u64)
    };
    write().map_err(|cause| StateError { path: path.to_owned(), cause })
}

/// Appends to a file, which is created if needed, in one write.
pub(super) fn append(path: &Path, contents: &[u8]) -> Result<(), StateError> {
    let write = || {
        let file = files::open_or_make(path)?;
        let end = file.metadata()?.len();
        file.write_all_at(contents, end)
    };
    write().map_err(|cause| StateError { path: path.to_owned(), cause })
}

/// Returns the contents of a file; `None` if it does not exist, cannot be read or is too long.
pub(super) fn contents(path: &Path) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(FIRST_READ);
    files::open(path).ok()?.take(MAX_RECORD_FILE + 1).read_to_end(&mut text).ok()?;
    (text.len() as u64 <= MAX_RECORD_FILE).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::Mode;
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn reading_neither_follows_links_nor_waits() {
        let directory = tempfile::tempdir().unwrap();
        let [file, link, pipe] = ["file", "link", "pipe"].map(|name| directory.path().join(name));
        fs::write(&file, "here").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert_eq!(contents(&file).unwrap(), b"here");
        assert!(contents(&link).is_none() && is_locked(&link).is_err());
        assert!(contents(&pipe).is_none() && is_locked(&pipe).is_err() && try_lock(&pipe).is_err());
    }

    #[test]
    fn checking_does_not_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0");
        assert!(!is_locked(&path).unwrap());
        assert!(!path.exists());
        let lock = try_lock(&path).unwrap().unwrap();
        assert!(is_locked(&path).unwrap() && try_lock(&path).unwrap().is_none());
        drop(lock);
        assert!(!is_locked(&path).unwrap() && try_lock(&path).unwrap().is_some());
    }

    #[test]
    fn checking_processes_do_not_prevent_locking() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0");
        drop(try_lock(&path).unwrap());
        let is_over = AtomicBool::new(false);
        let missed = thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        is_locked(&path).unwrap();
                        thread::sleep(Duration::from_micros(20));
                    }
                });
            }
            let missed = (0..2000).filter(|_| try_lock(&path).unwrap().is_none()).count();
            is_over.store(true, Ordering::Relaxed);
            missed
        });
        // Usually none; a checking process may have been suspended for as long as a lock is retried.
        assert!(missed < 20, "{missed}");
    }

    #[test]
    fn a_lock_that_stays_held_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = lock_briefly(&path).unwrap();
        let error = lock_briefly(&path).unwrap_err();
        assert!(error.to_string().ends_with("does not release the lock"), "{error}");
        drop(held);
        lock_briefly(&path).unwrap();
    }

    #[test]
    fn a_wait_ends_with_the_lock_and_an_abandoned_one_releases_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let soon = || Instant::now() + Duration::from_millis(20);
        let later = || Instant::now() + Duration::from_secs(60);
        let held = try_lock(&path).unwrap().unwrap();
        let abandoned = LockWait::exclusive(&path).unwrap();
        assert!(abandoned.wait(soon()).unwrap().is_none());
        drop(abandoned);
        let [unseen, first, second] = [(); 3].map(|()| LockWait::release(&path).unwrap());
        assert!(first.wait(soon()).unwrap().is_none());
        drop(held);
        assert!(first.wait(later()).unwrap().is_some() && second.wait(later()).unwrap().is_some());
        let held = lock_briefly(&path).unwrap();
        let last = LockWait::exclusive(&path).unwrap();
        assert!(last.wait(soon()).unwrap().is_none());
        drop((held, unseen));
        assert!(last.wait(later()).unwrap().is_some());
    }

    #[test]
    fn a_file_that_is_too_long_has_no_contents() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record");
        assert_eq!(contents(&path), None);
        replace(&path, b"text").unwrap();
        assert_eq!(contents(&path).unwrap(), b"text");
        replace(&path, &vec![b' '; MAX_RECORD_FILE as usize + 1]).unwrap();
        assert_eq!(contents(&path), None);
    }
}
