//! The build log: bytes for the daemon's log file and for its client, on descriptor 4.
//!
//! The daemon notices the end of a hook by end of file on descriptors 1 and 2 only, and then throws away whatever is
//! still in the log pipe, but for one read. So a hook must not exit before that pipe is empty, which the write end can
//! find out: `FIONREAD` works on both ends of a pipe.
//!
//! Trace lines are events that the daemon passes on to its client unread. `@ build-remote DRV HOST` tells clients where a
//! derivation is built. A client sees it only when the whole line stands at the start of one chunk, so it is written with a
//! single call.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use log::debug;

use crate::store::path::StorePath;

/// What appends to a log.
pub type Sink = Box<dyn FnMut(&[u8]) + Send>;

/// How long guix-daemon may read nothing from the log pipe before the rest of the log is dropped.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest pause between two checks of the log pipe, while the daemon reads it.
const POLL_INTERVAL_MAX: Duration = Duration::from_millis(10);

/// Where the output of the builder goes.
#[derive(Debug)]
pub struct BuildLog {
    output: File,
}

impl BuildLog {
    /// A log that goes to `output`: the daemon's pipe, or standard error where the hook is run by hand.
    pub fn new(output: File) -> BuildLog {
        BuildLog { output }
    }

    /// A function that appends to the log. If the daemon is gone, which is about to end this process, it does nothing.
    pub fn sink(&self) -> io::Result<Sink> {
        let mut output = self.output.try_clone()?;
        Ok(Box::new(move |bytes| {
            if let Err(error) = output.write_all(bytes) {
                debug!("cannot write the build log: {error}");
            }
        }))
    }

    /// Waits until the daemon has read everything. Returns the number of bytes it has left unread: 0, unless it read
    /// nothing at all for a minute.
    pub fn drain(&self) -> u64 {
        let mut unread = self.unread();
        let mut since = Instant::now();
        let mut pause = Duration::from_micros(100);
        while unread > 0 && since.elapsed() < DRAIN_TIMEOUT {
            thread::sleep(pause);
            // A daemon that has let this wait for long has many hooks, all of which look.
            pause = (pause * 2).min(POLL_INTERVAL_MAX.max(since.elapsed() / 16));
            let now = self.unread();
            if now != unread {
                unread = now;
                since = Instant::now();
            }
        }
        unread
    }

    /// 0 for what is not a pipe: nothing can be lost there.
    fn unread(&self) -> u64 {
        match rustix::fs::fstat(&self.output) {
            Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo => {
                rustix::io::ioctl_fionread(self.output.as_fd()).unwrap_or(0)
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
