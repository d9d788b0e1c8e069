//! A byte stream through a session.

use std::io::{self, Read, Write};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::code::{again, code_of, is_again};
use super::deadline::Deadline;
use super::driver::{Driver, Kind};
use super::error::{Cause, Error, Phase};

/// Reads smaller than this are served from a buffer of [`READ_BUFFER_SIZE`] bytes: each call of libssh2 costs a recv(2).
const SMALL_READ: usize = 16 << 10;
const READ_BUFFER_SIZE: usize = 64 << 10;
/// What the other side may send ahead, and so what libssh2 may have to keep: with 100 ms round trips
/// 56 MiB/s get through, rather than 15.
const RECEIVE_WINDOW: u32 = 8 << 20;

/// The receive window shrinks by this many bytes for each received byte that is not read yet.
const BACKLOG_FACTOR: u32 = 8;
/// Received bytes from which on the window is widened.
const WINDOW_UPDATE_BYTES: u64 = 256 << 10;
const STDOUT: i32 = 0;
const STDERR: i32 = ssh2::EXTENDED_DATA_STDERR;
/// Time allowed for closing a channel.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(200);

/// A byte stream to a socket or a command on the other side.
///
/// Reads are buffered; a write is one SSH packet of at most 32 KiB, sent before the call returns, so wrap it in a
/// [`BufWriter`](io::BufWriter) where small pieces are written. Reading gives 0 bytes at the end of the stream, and
/// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if the connection was lost; writing gives
/// [`BrokenPipe`](io::ErrorKind::BrokenPipe) for both. A link that brings nothing for the machine's `stall_timeout`
/// gives
/// [`TimedOut`](io::ErrorKind::TimedOut). [`Error::in_io`] tells the exact cause.
///
/// The channels of a session take turns: a read that waits keeps the others waiting. Use them from one thread.
pub struct Channel {
    // Before the link: libssh2 frees a channel while it still has the session.
    channel: ssh2::Channel,
    driver: Arc<Driver>,
    deadline: Option<Instant>,
    buffer: Vec<u8>,
    taken: usize,
    received: u64,
    is_finished: bool,
}

/// What a command left behind.
#[derive(Debug)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// The exit status, unless a signal ended the command.
    pub status: Option<i32>,
}

impl Channel {
    pub(super) fn new(channel: ssh2::Channel, driver: Arc<Driver>) -> Channel {
        Channel { channel, driver, deadline: None, buffer: Vec::new(), taken: 0, received: 0, is_finished: false }
    }

    /// From now on, reads and writes fail once this moment has passed. `None`: no limit but the stall timeout.
    ///
    /// A read can be repeated after that; a write that was given up puts the whole session out of use.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Tells the other side that nothing more will be written.
    pub fn send_eof(&mut self) -> Result<(), Error> {
        self.finish().map_err(|cause| self.error(cause))
    }

    fn finish(&mut self) -> Result<(), Cause> {
        if !self.is_finished {
            self.driver.run(Kind::Request, self.limit(), || self.channel.send_eof())?;
            self.is_finished = true;
        }
        Ok(())
    }

    /// Gives a command no more input, reads all that it prints, each stream at most `max` bytes, and waits for its end.
    pub fn output(mut self, max: usize) -> Result<Output, Error> {
        self.finish().map_err(|cause| self.error(cause))?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut piece = vec![0; SMALL_READ];
        loop {
            let (stream, read) = self.read_either(&mut piece).map_err(|cause| self.error(cause))?;
            if read == 0 {
                break;
            }
            self.driver.moved(read);
            let kept = if stream == STDOUT { &mut stdout } else { &mut stderr };
            kept.extend_from_slice(&piece[..read]);
            if kept.len() > max {
                return Err(self.error(Cause::TooMuchOutput(max)));
            }
        }
        self.driver.run(Kind::Read, self.limit(), || self.channel.wait_close()).map_err(|cause| self.error(cause))?;
        let status = self.status();
        Ok(Output { stdout, stderr, status })
    }

    /// Reads from whichever stream has something; both share the window, so both have to be emptied. 0 bytes: both are
    /// at their end.
    fn read_either(&mut self, piece: &mut [u8]) -> Result<(i32, usize), Cause> {
        self.driver.run(Kind::Read, self.limit(), || {
            let mut is_end = true;
            for stream in [STDOUT, STDERR] {
                match self.channel.stream(stream).read(piece) {
                    Ok(0) => {}
                    Ok(read) => return Ok((stream, read)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => is_end = false,
                    Err(error) => return Err(code_of(&error, self.driver.ssh())),
                }
            }
            if is_end { Ok((STDOUT, 0)) } else { Err(again()) }
        })
    }

    /// Reads what has arrived, without waiting: `None` if nothing has. `is_error`: from the standard error of a command.
    pub fn try_read(&mut self, buffer: &mut [u8], is_error: bool) -> Result<Option<usize>, Error> {
        let read = self.widen().and_then(|()| {
            self.driver.attempt(Kind::Read, || {
                let mut stream = self.channel.stream(if is_error { STDERR } else { STDOUT });
                stream.read(buffer).map_err(|error| code_of(&error, self.driver.ssh()))
            })
        });
        let read = read.map_err(|cause| self.error(cause))?;
        let count = read.unwrap_or_default();
        self.received += count as u64;
        self.driver.moved(count);
        Ok(read)
    }

    /// Takes in what has arrived, for any channel, without reading it.
    pub fn take_in(&mut self) -> Result<(), Error> {
        self.driver.attempt(Kind::Read, || self.channel.wait_eof()).map(drop).map_err(|cause| self.error(cause))
    }

    /// Writes all bytes. Waits for the link, and for the other side where there is not [`room`](Channel::room) for all.
    pub fn send(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let written = self.write_some(bytes).map_err(|cause| self.error(cause))?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Returns how many bytes the other side takes without a wait.
    pub fn room(&self) -> usize {
        if self.is_finished { 0 } else { self.channel.write_window().remaining as usize }
    }

    /// Returns whether the other side has closed the channel, which it may do after the end of its data. Does not wait.
    pub fn is_closed(&mut self) -> Result<bool, Error> {
        let closed = self.driver.attempt(Kind::Read, || self.channel.wait_close());
        Ok(closed.map_err(|cause| self.error(cause))?.is_some())
    }

    /// Returns how a command ended, once the channel [is closed](Channel::is_closed): its exit status, unless a signal
    /// ended it. libssh2 gives 0 where the server sent no status.
    pub fn status(&self) -> Option<i32> {
        let is_killed = self.channel.exit_signal().is_ok_and(|signal| signal.exit_signal.is_some());
        if is_killed { None } else { self.channel.exit_status().ok() }
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.widen().map_err(|cause| self.error(cause).into_io(io::ErrorKind::UnexpectedEof))?;
        let read = self.driver.run(Kind::Read, self.limit(), || {
            self.channel.read(buffer).map_err(|error| code_of(&error, self.driver.ssh()))
        });
        let count = read.map_err(|cause| self.error(cause).into_io(io::ErrorKind::UnexpectedEof))?;
        self.received += count as u64;
        self.driver.moved(count);
        Ok(count)
    }

    /// Keeps the receive window at [`RECEIVE_WINDOW`] once it is clear that much is coming. libssh2 by itself keeps it between
    /// 1.5 and 2 MiB. A reader that is slower than the link needs a small window only, and what is not read takes memory.
    fn widen(&mut self) -> Result<(), Cause> {
        if self.received < WINDOW_UPDATE_BYTES {
            return Ok(());
        }
        let window = self.channel.read_window();
        let wanted = RECEIVE_WINDOW.saturating_sub(window.available.saturating_mul(BACKLOG_FACTOR));
        if window.remaining >= wanted / 4 * 3 || !self.driver.can_send()? {
            return Ok(());
        }
        let more = (wanted - window.remaining).into();
        self.driver.run(Kind::Request, self.limit(), || self.channel.adjust_receive_window(more, true))?;
        Ok(())
    }

    fn limit(&self) -> Option<Deadline> {
        self.deadline.map(Deadline::at)
    }

    fn error(&self, cause: Cause) -> Error {
        self.driver.error(Phase::Transfer, cause)
    }
}

impl Read for Channel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.buffer.len() {
            if buffer.is_empty() {
                return Ok(0);
            }
            if buffer.len() >= SMALL_READ {
                return self.read_some(buffer);
            }
            let mut own = mem::take(&mut self.buffer);
            own.resize(READ_BUFFER_SIZE, 0);
            let read = self.read_some(&mut own);
            own.truncate(*read.as_ref().unwrap_or(&0));
            self.buffer = own;
            self.taken = 0;
            read?;
        }
        let available = &self.buffer[self.taken..];
        let read = available.len().min(buffer.len());
        buffer[..read].copy_from_slice(&available[..read]);
        self.taken += read;
        Ok(read)
    }
}

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        self.write_some(bytes).map_err(|cause| self.error(cause).into_io(io::ErrorKind::BrokenPipe))
    }

    /// Does nothing: what was written is on its way. (libssh2's flush discards what was received.)
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Channel {
    /// Writes a packet.
    fn write_some(&mut self, bytes: &[u8]) -> Result<usize, Cause> {
        if self.is_finished {
            return Err(Cause::ChannelClosed);
        }
        let written = self.driver.run(Kind::Write, self.limit(), || match self.channel.write(bytes) {
            Ok(0) => Err(again()),
            Ok(written) => Ok(written),
            Err(error) => match code_of(&error, self.driver.ssh()) {
                // The window is used up. libssh2 would go on waiting for a reader that has closed its end.
                error
                    if is_again(&error) && is_full(&self.channel, &self.driver) && self.channel.wait_eof().is_ok() =>
                {
                    Err(ssh2::Error::eof())
                }
                error => Err(error),
            },
        });
        self.is_finished |= matches!(written, Err(Cause::ChannelClosed));
        self.driver.moved(*written.as_ref().unwrap_or(&0));
        written
    }
}

/// Whether the other side lets us send nothing more, so that libssh2 is not in the middle of a packet.
fn is_full(channel: &ssh2::Channel, driver: &Driver) -> bool {
    !driver.is_sending() && channel.write_window().remaining == 0
}

impl Drop for Channel {
    fn drop(&mut self) {
        // The other side hears of it now; its answer is not waited for.
        let result =
            self.driver.run(Kind::Request, Some(Deadline::after(CLOSE_TIMEOUT)), || match self.channel.close() {
                Err(error) if is_again(&error) && !self.driver.is_sending() => Ok(false),
                result => result.map(|()| true),
            });
        if let Ok(false) = result {
            self.driver.part_with(self.channel.clone());
        }
    }
}
