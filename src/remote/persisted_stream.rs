//! A stream to a machine's daemon that is borrowed from a holder ([`persist`](super::persist)).

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::error::Error;
use super::persist::{self, CHANNEL_CUT, RELEASE};
use crate::ssh::poll::{self, Ready};
use crate::text::printable;

/// Time allowed for the holder to send the reason why a stream ended.
const ERROR_TIMEOUT: Duration = Duration::from_secs(1);
/// How much of that is taken, in bytes.
const MAX_ERROR: u64 = 4 << 10;

/// Reads and writes end with [`DeadlinePassed`] inside the error once the deadline has passed, and with [`Error::ReusedConnectionLost`] or
/// [`Error::HolderDied`] when the holder is gone.
pub(super) struct PersistedStream {
    data: UnixStream,
    control: UnixStream,
    /// `NAME:PORT`.
    machine: String,
    deadline: Option<Instant>,
    /// What the holder said at the end, once it has come.
    last_words: Option<String>,
    /// Whether it was found stopped, and given up.
    is_stopped: bool,
}

/// The deadline has passed. What was to be done can be done another time.
#[derive(Debug)]
pub(super) struct DeadlinePassed;

impl fmt::Display for DeadlinePassed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time allowed for this is over")
    }
}

impl std::error::Error for DeadlinePassed {}

impl PersistedStream {
    pub(super) fn new(data: UnixStream, control: UnixStream, machine: String) -> io::Result<PersistedStream> {
        data.set_nonblocking(true)?;
        Ok(PersistedStream { data, control, machine, deadline: None, last_words: None, is_stopped: false })
    }

    /// Whether the holder has ended without a word, or is stopped, which is none of the machine's doing.
    pub(super) fn has_lost_holder(&self) -> bool {
        self.is_stopped || self.last_words.as_ref().is_some_and(String::is_empty)
    }

    /// Whether the holder found that the server closed the channel for the silence on it.
    pub(super) fn was_closed_by_server(&self) -> bool {
        self.last_words.as_ref().is_some_and(|words| words == CHANNEL_CUT)
    }

    /// Whether the holder is alive as far as the kernel knows. One that is stopped passes nothing on, and says nothing.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        self.is_stopped = persist::is_stopped(&self.control);
        if self.is_stopped { Err(Error::HolderStopped { machine: self.machine.clone() }) } else { Ok(()) }
    }

    pub(super) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Gives the connection back. The daemon must have replied to all that it was asked.
    pub(super) fn release(mut self) {
        // If the holder is gone there is nobody to take it.
        let _ = self.control.write_all(&[RELEASE]);
    }

    fn wait(&self, wanted: PollFlags) -> io::Result<()> {
        match poll::poll(self.data.as_fd(), wanted, None, self.deadline)? {
            Ready::Nothing => Err(io::Error::new(ErrorKind::TimedOut, DeadlinePassed)),
            Ready::Link | Ready::Beside => Ok(()),
        }
    }

    /// The holder's last words; without any it was killed.
    fn listen(&self) -> String {
        let mut words = Vec::new();
        let _ = self.control.set_read_timeout(Some(ERROR_TIMEOUT));
        let _ = (&self.control).take(MAX_ERROR).read_to_end(&mut words);
        printable(&String::from_utf8_lossy(&words), words.len())
    }

    /// What to say when the other side is gone.
    fn lost(&mut self, kind: ErrorKind) -> io::Error {
        let words = match self.last_words.take() {
            Some(words) => words,
            None => self.listen(),
        };
        let machine = self.machine.clone();
        let error = match words.is_empty() {
            true => Error::HolderDied { machine },
            false => Error::ReusedConnectionLost { machine, cause: words.clone() },
        };
        self.last_words = Some(words);
        io::Error::new(kind, error)
    }
}

impl Read for PersistedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::IN)?;
            match self.data.read(buffer) {
                Ok(0) if !buffer.is_empty() => return Err(self.lost(ErrorKind::UnexpectedEof)),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return Err(self.lost(ErrorKind::UnexpectedEof));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }
}

impl Write for PersistedStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.data.write(bytes) {
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    return Err(self.lost(ErrorKind::BrokenPipe));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
