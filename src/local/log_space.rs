//! Room on the file system of build logs: the hook copies a log only while a reserve stays free.
//!
//! guix-daemon writes the log of its hook to a file below its log directory, usually compressed, and does not check the free
//! space. By default its own limit (`build-max-log-size`) is off. So the hook checks the free space after the first 16 MiB of
//! a log, and again after each 16 MiB, or earlier if less is free. The reserve is that of the store
//! ([`disk_space`](super::disk_space)). A short log causes no check.
//!
//! The check ignores the savings of compression, and data that others write between two checks. A directory that cannot be
//! examined counts as one with enough room.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::disk_space::{CHECK_EVERY_BYTES, free_and_reserve};

/// The bytes that have not reached the file yet, in the daemon's pipe and in its compressor.
const UNWRITTEN_BYTES: u64 = 256 << 10;

/// The part of a build log that may still be copied.
pub struct LogReserve {
    directory: PathBuf,
    /// The bytes that may pass before the next check.
    left: u64,
}

/// A build log does not fit.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "the build log does not fit: {} KiB are free in the file system of '{}', and {} KiB are reserved",
    free >> 10, directory.display(), reserve >> 10
)]
pub struct LogFull {
    directory: PathBuf,
    free: u64,
    reserve: u64,
}

/// The remedy for [`LogFull`].
pub const LOG_FULL_HINT: &str = "free some space there, or make the build print less; guix-daemon takes the directory from \
     GUIX_LOG_DIRECTORY";

impl LogReserve {
    /// Returns the reserve for a log below `directory`, the daemon's log directory.
    pub fn new(directory: &Path) -> LogReserve {
        LogReserve { directory: directory.to_owned(), left: CHECK_EVERY_BYTES }
    }

    /// Checks that `size` more bytes may be copied.
    pub fn take(&mut self, size: u64) -> Result<(), LogFull> {
        if self.left < size {
            // The log files may be on a file system of their own.
            let files = self.directory.join("drvs");
            let found = free_and_reserve(&files).or_else(|_| free_and_reserve(&self.directory));
            self.left = match found {
                Ok(Some((free, reserve))) => self.room(size, free, reserve)?,
                Ok(None) | Err(_) => CHECK_EVERY_BYTES.max(size),
            };
        }
        self.left -= size;
        Ok(())
    }

    /// Returns the bytes that may pass before the next check.
    fn room(&self, size: u64, free: u64, reserve: u64) -> Result<u64, LogFull> {
        let usable = free.saturating_sub(reserve);
        if usable < size.max(UNWRITTEN_BYTES) {
            return Err(LogFull { directory: self.directory.clone(), free, reserve });
        }
        Ok(usable.min(CHECK_EVERY_BYTES.max(size)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_reserve_stays_free_for_a_log() {
        let log = LogReserve::new(Path::new("/logs"));
        assert_eq!(log.room(100, 1000 * MIB, 10 * MIB), Ok(16 * MIB));
        assert_eq!(log.room(100, 15 * MIB, 10 * MIB), Ok(5 * MIB));
        let error = log.room(100, 10 * MIB + UNWRITTEN_BYTES - 1, 10 * MIB).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the build log does not fit: 10495 KiB are free in the file system of '/logs', and 10240 KiB are reserved"
        );
        assert!(log.room(6 * MIB, 15 * MIB, 10 * MIB).is_err());
    }

    #[test]
    fn a_directory_that_is_not_there_has_room() {
        let mut log = LogReserve::new(Path::new("/nowhere"));
        for _ in 0..3 {
            log.take(CHECK_EVERY_BYTES).unwrap();
        }
    }
}
