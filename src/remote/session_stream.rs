//! A stream of a session, as those see it who do not own the session ([`owner`](super::owner)).

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::error::Error;
use super::owner::{CommandExit, Frames, Greeting, Liveness, Release, Reply, send};
use crate::ssh::poll::poll;
use crate::ssh::{self, Cause, Output, Phase};

/// Time allowed for the owner to send the reason why a stream ended.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// A byte stream to a socket or a command of a machine.
///
/// Reads and writes end with [`DeadlinePassed`] inside the error once the deadline has passed; with [`Error::OwnerEnded`]
/// when the owner is gone; and with what happened to the session or to its channel otherwise. Reading gives 0 bytes where
/// the other side has ended the stream.
pub(super) struct SessionStream {
    data: UnixStream,
    status: Frames,
    owner: Arc<Liveness>,
    deadline: Option<Instant>,
    /// Why it has ended, once that has come.
    end: Option<End>,
    is_resumed: bool,
    /// Whether the owner was found stopped, and given up.
    is_stopped: bool,
}

enum End {
    /// The other side ended it.
    Closed {
        command: Option<CommandExit>,
        is_channel_timeout: bool,
    },
    /// The session or the channel failed.
    Failed(ssh::Error),
    OwnerEnded,
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

impl SessionStream {
    pub(super) fn new(
        data: UnixStream,
        status: Frames,
        owner: Arc<Liveness>,
        is_resumed: bool,
    ) -> io::Result<SessionStream> {
        data.set_nonblocking(true)?;
        Ok(SessionStream { data, status, owner, deadline: None, end: None, is_resumed, is_stopped: false })
    }

    /// Whether another hook has had it before.
    pub(super) fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// Whether the owner has ended, or is stopped, which is none of the machine's doing.
    pub(super) fn has_lost_owner(&self) -> bool {
        self.is_stopped || matches!(self.end, Some(End::OwnerEnded))
    }

    /// Whether the SSH server closed the channel because nothing moved on it.
    pub(super) fn is_channel_timeout(&self) -> bool {
        matches!(self.end, Some(End::Closed { is_channel_timeout: true, .. }))
    }

    /// Whether the owner is alive as far as the kernel knows.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        let checked = self.owner.check();
        self.is_stopped = checked.is_err();
        checked
    }

    pub(super) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Leaves it for another hook. The daemon must have replied to all that it was asked.
    pub(super) fn release(self, name: &str, greeting: Greeting) {
        // If the owner is gone there is nobody to take it.
        let _ = send(self.status.socket(), &Release { stream: name.to_owned(), greeting }, &[]);
    }

    /// Says that nothing more will be written.
    pub(super) fn send_eof(&self) -> io::Result<()> {
        match self.data.shutdown(Shutdown::Write) {
            // It has ended.
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    /// Gives a command no more input, reads all that it prints, at most `max` bytes, and waits for its end.
    pub(super) fn output(mut self, max: usize) -> Result<Output, Error> {
        let phase = |owner: &Liveness, cause| Error::Ssh(ssh::Error::of(owner.machine(), Phase::Transfer, cause));
        self.send_eof().map_err(|error| phase(&self.owner, error.into()))?;
        let mut stdout = Vec::new();
        let mut piece = vec![0; 16 << 10];
        loop {
            match self.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => stdout.extend_from_slice(&piece[..count]),
                Err(error) if error.get_ref().is_some_and(|error| error.is::<DeadlinePassed>()) => {
                    return Err(phase(&self.owner, Cause::Deadline));
                }
                Err(error) => return Err(Error::from_io(error, |error| phase(&self.owner, error.into()))),
            }
            if stdout.len() > max {
                return Err(phase(&self.owner, Cause::TooMuchOutput(max)));
            }
        }
        let CommandExit { stderr, status } = self.ended();
        Ok(Output { stdout, stderr: stderr.into_bytes(), status })
    }

    /// How a command has ended whose output has been read to its end.
    pub(super) fn ended(&mut self) -> CommandExit {
        match &mut self.end {
            Some(End::Closed { command, .. }) => command.take().unwrap_or_default(),
            _ => CommandExit::default(),
        }
    }

    fn wait(&self, wanted: PollFlags) -> io::Result<()> {
        match poll(self.data.as_fd(), wanted, self.deadline)? {
            true => Ok(()),
            false => Err(io::Error::new(ErrorKind::TimedOut, DeadlinePassed)),
        }
    }

    /// Why it has ended; nobody says so where the owner was killed.
    fn end(&mut self) -> &End {
        let status = &mut self.status;
        self.end.get_or_insert_with(|| {
            let timeout = status.socket().set_read_timeout(Some(END_TIMEOUT));
            match timeout.and_then(|()| status.receive()) {
                Ok(Some(Reply::Ended { error: Some(error), .. })) => End::Failed(error),
                Ok(Some(Reply::Ended { error: None, command, is_channel_timeout })) => {
                    End::Closed { command, is_channel_timeout }
                }
                _ => End::OwnerEnded,
            }
        })
    }

    /// What to say when nothing more can be read; `None` if the other side has ended it.
    fn read_error(&mut self) -> Option<io::Error> {
        let ended = self.owner.ended_error();
        match self.end() {
            End::Closed { .. } => None,
            End::Failed(error) => Some(error.copy().into_io(ErrorKind::UnexpectedEof)),
            End::OwnerEnded => Some(ended.into_io(ErrorKind::UnexpectedEof)),
        }
    }

    /// What to say when nothing more can be written.
    fn write_error(&mut self) -> io::Error {
        let ended = self.owner.ended_error();
        let closed = ssh::Error::of(self.owner.machine(), Phase::Transfer, Cause::ChannelClosed);
        match self.end() {
            End::Closed { .. } => closed.into_io(ErrorKind::BrokenPipe),
            End::Failed(error) => error.copy().into_io(ErrorKind::BrokenPipe),
            End::OwnerEnded => ended.into_io(ErrorKind::BrokenPipe),
        }
    }
}

impl Read for SessionStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.data.read(buffer) {
                Ok(0) if !buffer.is_empty() => return self.read_error().map_or(Ok(0), Err),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return self.read_error().map_or(Ok(0), Err);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::IN)?,
                read => return read,
            }
        }
    }
}

impl Write for SessionStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.data.write(bytes) {
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    return Err(self.write_error());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                written => return written,
            }
        }
    }

    /// Does nothing: what was written is on its way.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
