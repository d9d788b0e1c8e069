//! The build log: bytes for the daemon's log file and for its client, on descriptor 4.
//!
//! The daemon notices the end of a hook only by the end of file on descriptors 1 and 2. Then it reads once more from the log
//! pipe, and discards the rest. So a hook must not exit before that pipe is empty. The write end can check this, because
//! `FIONREAD` works on both ends of a pipe.
//!
//! Trace lines are events that the daemon passes to its client without interpreting them. `@ build-remote DRV HOST` tells clients
//! where a derivation is built. A client recognizes the line only if it is whole, and at the start of one chunk. So it is written
//! with a single call.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::debug;

use crate::store::path::StorePath;

/// A function that writes to the destination of a log.
type WriteFn = Box<dyn FnMut(&[u8]) -> io::Result<()> + Send>;

/// A function that appends to a log.
pub type Sink = Box<dyn FnMut(&[u8]) + Send>;

/// How long guix-daemon may read nothing from the log pipe before the rest of the log is dropped.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest pause between two checks of the log pipe, while the daemon reads it.
const POLL_INTERVAL_MAX: Duration = Duration::from_millis(10);

/// The destination of the builder's output.
pub struct BuildLog {
    output: Output,
}

enum Output {
    File(File),
    /// A writer of an embedding program.
    Writer(Arc<Mutex<dyn Write + Send>>),
}

impl BuildLog {
    /// Returns a log that writes to `output`: the daemon's pipe, or standard error if the hook is run by hand.
    pub fn new(output: File) -> BuildLog {
        BuildLog { output: Output::File(output) }
    }

    /// Returns a log that writes to a writer of an embedding program.
    pub fn of_writer(writer: impl Write + Send + 'static) -> BuildLog {
        BuildLog { output: Output::Writer(Arc::new(Mutex::new(writer))) }
    }

    /// Returns a function that appends to the log. It ignores errors: if the daemon has ended, this process ends soon too.
    pub fn sink(&self) -> io::Result<Sink> {
        let mut write: WriteFn = match &self.output {
            Output::File(output) => {
                let mut output = output.try_clone()?;
                Box::new(move |bytes| output.write_all(bytes))
            }
            Output::Writer(writer) => {
                let writer = Arc::clone(writer);
                Box::new(move |bytes| writer.lock().unwrap_or_else(PoisonError::into_inner).write_all(bytes))
            }
        };
        Ok(Box::new(move |bytes| {
            if let Err(error) = write(bytes) {
                debug!("cannot write the build log: {error}");
            }
        }))
    }

    /// Waits until the daemon has read the whole log. If the daemon reads nothing for `DRAIN_TIMEOUT`, returns the number of
    /// unread bytes; otherwise 0.
    pub fn drain(&self) -> u64 {
        let mut unread = self.unread();
        let mut since = Instant::now();
        let mut pause = Duration::from_micros(100);
        while unread > 0 && since.elapsed() < DRAIN_TIMEOUT {
            thread::sleep(pause);
            // If the daemon is slow, it has many hooks, and each of them polls. So the pause grows with the wait.
            pause = (pause * 2).min(POLL_INTERVAL_MAX.max(since.elapsed() / 16));
            let now = self.unread();
            if now != unread {
                unread = now;
                since = Instant::now();
            }
        }
        unread
    }

    /// Returns the number of unread bytes in the pipe. A file that is not a pipe loses nothing, so it has 0.
    fn unread(&self) -> u64 {
        let Output::File(output) = &self.output else { return 0 };
        match rustix::fs::fstat(output) {
            Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo => {
                rustix::io::ioctl_fionread(output.as_fd()).unwrap_or(0)
            }
            _ => 0,
        }
    }
}

/// Announces that `derivation` is now built on the machine `host`.
pub fn build_remote(output: &mut impl Write, derivation: &StorePath, host: &str) -> io::Result<()> {
    output.write_all(format!("@ build-remote {derivation} {host}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn drain_waits_for_the_reader() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let log = BuildLog::new(File::from(writer));
        log.sink().unwrap()(&[b'x'; 40_000]);
        let reader = thread::spawn(move || {
            let mut reader = File::from(reader);
            let mut total = 0;
            let mut chunk = [0; 4096];
            while total < 40_000 {
                thread::sleep(Duration::from_millis(1));
                total += reader.read(&mut chunk).unwrap();
            }
            total
        });
        assert_eq!(log.drain(), 0);
        assert_eq!(reader.join().unwrap(), 40_000);
    }

    #[test]
    fn a_file_needs_no_draining() {
        let log = BuildLog::new(tempfile::tempfile().unwrap());
        log.sink().unwrap()(b"text");
        assert_eq!(log.drain(), 0);
    }
}
