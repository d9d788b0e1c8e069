//! The hook's side of a stream of a session ([`owner`](super::owner)).

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
use crate::cancel;
use crate::ssh::poll::poll;
use crate::ssh::{self, Cause, Output, Phase};

/// Time allowed for the owner to send the reason why a stream ended.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// A byte stream to a socket or a command of a machine.
///
/// The error of a read or a write contains [`DeadlinePassed`] if the deadline has passed, [`Error::OwnerEnded`] if the
/// owner has ended, and otherwise the error of the session or of the channel. A read returns 0 bytes if the other side
/// has closed the stream.
pub(super) struct SessionStream {
    data: UnixStream,
    status: Frames,
    owner: Arc<Liveness>,
    deadline: Option<Instant>,
    /// The reason why the stream ended, once it is known.
    end_reason: Option<EndReason>,
    is_resumed: bool,
    /// Whether the last check found that the owner is stopped.
    is_owner_stopped: bool,
}

/// The reason why a stream ended.
enum EndReason {
    /// The other side closed it.
    Closed { command: Option<CommandExit>, is_channel_timeout: bool },
    /// The session or the channel failed.
    Failed(ssh::Error),
    /// The owner has ended without a reason.
    OwnerEnded,
}

/// Ends a stream from another thread.
#[derive(Debug)]
pub struct StreamCloser(UnixStream);

impl StreamCloser {
    /// Ends the stream at once, also for a read or a write that waits.
    pub fn close(&self) {
        // If the stream has ended already, there is nothing to do.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// The deadline of a stream has passed. The read or write can be repeated.
#[derive(Debug)]
pub(super) struct DeadlinePassed;

impl fmt::Display for DeadlinePassed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time limit has passed")
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
        Ok(SessionStream { data, status, owner, deadline: None, end_reason: None, is_resumed, is_owner_stopped: false })
    }

    /// Returns a handle with which another thread ends the stream.
    pub(super) fn closer(&self) -> io::Result<StreamCloser> {
        Ok(StreamCloser(self.data.try_clone()?))
    }

    /// Returns whether another hook has used the stream before.
    pub(super) fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// Returns whether the owner has ended or is stopped, which is not a failure of the machine.
    pub(super) fn has_lost_owner(&self) -> bool {
        self.is_owner_stopped || matches!(self.end_reason, Some(EndReason::OwnerEnded))
    }

    /// Returns whether the SSH server closed the channel because it was idle.
    pub(super) fn is_channel_timeout(&self) -> bool {
        matches!(self.end_reason, Some(EndReason::Closed { is_channel_timeout: true, .. }))
    }

    /// Fails if the kernel reports that the owner is stopped.
    pub(super) fn check_owner(&mut self) -> Result<(), Error> {
        let checked = self.owner.check();
        self.is_owner_stopped = checked.is_err();
        checked
    }

    /// Sets the deadline of reads and writes. Default: none.
    pub(super) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Releases the stream to other hooks, under `name`. The daemon must have replied to every request.
    pub(super) fn release(self, name: &str, greeting: Greeting) {
        // If the owner has ended, the stream has ended with it.
        let _ = send(self.status.socket(), &Release { stream: name.to_owned(), greeting }, &[]);
    }

    /// Ends the input of the other side.
    pub(super) fn send_eof(&self) -> io::Result<()> {
        match self.data.shutdown(Shutdown::Write) {
            // The stream has ended.
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    /// Ends the input of a command, reads its output, and waits for its end. More than `max` bytes of output are an
    /// error.
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
        let CommandExit { stderr, status } = self.command_exit();
        Ok(Output { stdout, stderr: stderr.into_bytes(), status })
    }

    /// Returns the result of a command whose output has been read to its end. Empty if the owner has reported none.
    pub(super) fn command_exit(&mut self) -> CommandExit {
        match &mut self.end_reason {
            Some(EndReason::Closed { command, .. }) => command.take().unwrap_or_default(),
            _ => CommandExit::default(),
        }
    }

    /// Waits for events of the data socket, until the deadline.
    fn wait(&self, wanted: PollFlags) -> io::Result<()> {
        match poll(self.data.as_fd(), wanted, self.deadline)? {
            true => Ok(()),
            false => Err(io::Error::new(ErrorKind::TimedOut, DeadlinePassed)),
        }
    }

    /// Returns the reason why the stream ended, which the owner sends unless it was killed.
    fn end_reason(&mut self) -> &EndReason {
        let status = &mut self.status;
        self.end_reason.get_or_insert_with(|| {
            let timeout = status.socket().set_read_timeout(Some(END_TIMEOUT));
            match timeout.and_then(|()| status.receive()) {
                Ok(Some(Reply::Ended { error: Some(error), .. })) => EndReason::Failed(error),
                Ok(Some(Reply::Ended { error: None, command, is_channel_timeout })) => {
                    EndReason::Closed { command, is_channel_timeout }
                }
                _ => EndReason::OwnerEnded,
            }
        })
    }

    /// Returns the error of a read at the end of the stream; `None` if the other side has closed it.
    fn read_error(&mut self) -> Option<io::Error> {
        let ended = self.owner.ended_error();
        match self.end_reason() {
            EndReason::Closed { .. } => None,
            EndReason::Failed(error) => Some(error.copy().into_io(ErrorKind::UnexpectedEof)),
            EndReason::OwnerEnded => Some(ended.into_io(ErrorKind::UnexpectedEof)),
        }
    }

    /// Returns the error of a write to a stream that has ended.
    fn write_error(&mut self) -> io::Error {
        let ended = self.owner.ended_error();
        let closed = ssh::Error::of(self.owner.machine(), Phase::Transfer, Cause::ChannelClosed);
        match self.end_reason() {
            EndReason::Closed { .. } => closed.into_io(ErrorKind::BrokenPipe),
            EndReason::Failed(error) => error.copy().into_io(ErrorKind::BrokenPipe),
            EndReason::OwnerEnded => ended.into_io(ErrorKind::BrokenPipe),
        }
    }
}

impl Read for SessionStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        cancel::check()?;
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
        cancel::check()?;
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

    /// Does nothing, because writes are not buffered.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
