//! The locks of outputs, as guix-daemon knows them.
//!
//! Who builds a derivation holds the lock of each of its outputs: a write lock of fcntl(2) on the whole file
//! `OUTPUT.lock` in the store. guix-daemon tries a lock that is taken again every five seconds. A lock file that is not
//! empty was deleted by its last holder, and does not count. Source: `libstore/pathlocks.cc` of the daemon.
//!
//! The locks here belong to an open file (`F_OFD_SETLK`) and not to the process. They exclude those of the daemon, and
//! threads of one process exclude each other. Not done here: waiting.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use thiserror::Error;

use super::hints;
use crate::store::path::StorePath;

/// The locks of the outputs of a derivation. Dropping them removes their files.
#[derive(Debug)]
pub struct OutputLocks(Vec<OutputLock>);

#[derive(Debug)]
struct OutputLock {
    output: StorePath,
    path: PathBuf,
    file: File,
}

/// A lock file of the store cannot be used.
#[derive(Debug, Error)]
#[error("cannot lock '{path}': {cause}{}", hints::of_store(cause))]
pub struct OutputLockError {
    pub path: PathBuf,
    pub cause: io::Error,
}

impl OutputLocks {
    /// Takes the locks of all `outputs`; `None` if one of them is taken. Never waits.
    pub fn try_take<'a>(
        outputs: impl IntoIterator<Item = &'a StorePath>,
    ) -> Result<Option<OutputLocks>, OutputLockError> {
        let mut locks = OutputLocks(Vec::new());
        for output in outputs {
            let path = PathBuf::from(format!("{output}.lock"));
            match try_lock(&path) {
                Ok(Some(file)) => locks.0.push(OutputLock { output: output.clone(), path, file }),
                Ok(None) => return Ok(None),
                Err(cause) => return Err(OutputLockError { path, cause }),
            }
        }
        Ok(Some(locks))
    }

    /// Returns no locks, for a process that cannot write to the store.
    pub fn none() -> OutputLocks {
        OutputLocks(Vec::new())
    }

    /// Releases the lock of one output, and leaves its file for the process that takes the lock next.
    pub fn hand_over(&mut self, output: &StorePath) {
        if let Some(index) = self.0.iter().position(|lock| lock.output == *output) {
            let OutputLock { file, .. } = self.0.swap_remove(index);
            drop(file);
        }
    }
}

impl Drop for OutputLocks {
    fn drop(&mut self) {
        for OutputLock { path, file, .. } in &mut self.0 {
            // A process that waits for this file must not think that it has the lock of the next one.
            let removed = fs::remove_file(&*path).and_then(|()| file.write_all(b"d"));
            if let Err(error) = removed {
                log::debug!("cannot remove '{}': {error}", path.display());
            }
        }
    }
}

/// Returns whether a process holds the lock of an output: guix-daemon, while it builds the derivation or has a hook build it.
/// Any user can see that, as far as `/proc` shows the process.
pub fn is_output_locked(output: &StorePath) -> io::Result<bool> {
    match fs::symlink_metadata(format!("{output}.lock")) {
        Ok(file) => Ok(lists_write_lock(&fs::read_to_string("/proc/locks")?, file.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns whether the text of `/proc/locks` (proc(5)) has a write lock of fcntl(2) on this inode. The device is not compared,
/// since some file systems show another one to stat(2).
fn lists_write_lock(locks: &str, inode: u64) -> bool {
    locks.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, kind, _, access, _, file, ..] = words[..] else { return false };
        let is_file = file.rsplit(':').next().and_then(|number| number.parse().ok()) == Some(inode);
        ["POSIX", "OFDLCK"].contains(&kind) && access == "WRITE" && is_file
    })
}

fn try_lock(path: &Path) -> io::Result<Option<File>> {
    loop {
        let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path)?;
        let whole = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)) {
            Ok(_) if file.metadata()?.len() == 0 => return Ok(Some(file)),
            Ok(_) => match fs::symlink_metadata(path) {
                // No holder writes to a file before it has deleted it.
                Ok(linked) if linked.ino() == file.metadata()?.ino() => {
                    return Err(io::Error::other("it is not empty, and no process holds it; remove it"));
                }
                // Its last holder has deleted it.
                _ => {}
            },
            Err(nix::Error::EAGAIN | nix::Error::EACCES) => return Ok(None),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;
    use crate::store::path::StoreDir;

    fn output(directory: &Path, letter: &str) -> StorePath {
        let store = StoreDir::new(directory.to_str().unwrap()).unwrap();
        StorePath::parse(&store, format!("{store}/{}-x", letter.repeat(32)).as_bytes()).unwrap()
    }

    #[test]
    fn all_outputs_are_locked_or_none() {
        let directory = tempfile::tempdir().unwrap();
        let [one, two] = ["1", "2"].map(|letter| output(directory.path(), letter));
        let held = OutputLocks::try_take([&two]).unwrap().unwrap();
        assert!(OutputLocks::try_take([&one, &two]).unwrap().is_none());
        // The lock of the other output was released.
        let other = OutputLocks::try_take([&one]).unwrap().unwrap();
        assert!(is_output_locked(&one).unwrap() && is_output_locked(&two).unwrap());
        drop((held, other));
        assert!(!is_output_locked(&one).unwrap());
        File::create(format!("{one}.lock")).unwrap();
        assert!(!is_output_locked(&one).unwrap());
        assert!(OutputLocks::try_take([&one, &two]).unwrap().is_some());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_write_locks_that_are_held_count() {
        let list = "1: FLOCK  ADVISORY  WRITE 7 00:2d:11 0 EOF\n\
                    2: POSIX  ADVISORY  READ 7 00:2d:12 128 128\n\
                    3: POSIX  ADVISORY  WRITE 7 00:2d:13 0 EOF\n\
                    3: -> POSIX  ADVISORY  WRITE 8 00:2d:14 0 EOF\n\
                    4: OFDLCK ADVISORY  WRITE -1 fe:00:15 0 EOF\n";
        let found: Vec<u64> = (10..17).filter(|&inode| lists_write_lock(list, inode)).collect();
        assert_eq!(found, [13, 15]);
    }

    #[test]
    fn a_deleted_lock_file_is_no_lock() {
        let directory = tempfile::tempdir().unwrap();
        let output = output(directory.path(), "1");
        let mut held = OutputLocks::try_take([&output]).unwrap().unwrap();
        let waiting = File::open(format!("{output}.lock")).unwrap();
        assert_eq!(waiting.metadata().unwrap().len(), 0);
        held.hand_over(&output);
        // The next holder finds the same file.
        let next = OutputLocks::try_take([&output]).unwrap().unwrap();
        drop(held);
        assert!(OutputLocks::try_take([&output]).unwrap().is_none());
        drop(next);
        assert_eq!(waiting.metadata().unwrap().len(), 1);
        // Like a daemon that was killed between the two steps of a deletion.
        fs::write(format!("{output}.lock"), "").unwrap();
        assert!(OutputLocks::try_take([&output]).unwrap().is_some());
        // Not a lock file of a daemon.
        fs::write(format!("{output}.lock"), "text").unwrap();
        let error = OutputLocks::try_take([&output]).unwrap_err().to_string();
        assert!(error.ends_with("x.lock': it is not empty, and no process holds it; remove it"), "{error}");
    }

    #[test]
    fn one_thread_at_a_time_holds_a_lock_whose_file_comes_and_goes() {
        let directory = tempfile::tempdir().unwrap();
        let output = output(directory.path(), "1");
        let holders = AtomicU32::new(0);
        let work = || {
            let mut taken = 0;
            while taken < 1000 {
                let Some(locks) = OutputLocks::try_take([&output]).unwrap() else {
                    thread::yield_now();
                    continue;
                };
                assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                thread::yield_now();
                holders.fetch_sub(1, Ordering::SeqCst);
                drop(locks);
                taken += 1;
            }
        };
        thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(work))));
    }
}
