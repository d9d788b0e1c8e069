//! A byte stream through a session.

use std::io::{self, Read, Write};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::code::{again, code_of, is_again};
use super::deadline::Deadline;
use super::driver::{CallKind, Driver};
use super::error::{Cause, Error, Phase};

/// The length below which a read uses a buffer of [`READ_BUFFER_SIZE`] bytes. Each call of libssh2 costs a recv(2).
const SMALL_READ: usize = 16 << 10;
const READ_BUFFER_SIZE: usize = 64 << 10;
/// The receive window of a channel, in bytes, which libssh2 may have to store. With a round trip of 100 ms this window
/// allows 56 MiB/s, and the default window 15 MiB/s.
const RECEIVE_WINDOW: u32 = 8 << 20;

/// The receive window shrinks by this many bytes for each received byte that is not read yet.
const BACKLOG_FACTOR: u32 = 8;

/// The number of received bytes after which the window is widened.
const WINDOW_UPDATE_BYTES: u64 = 256 << 10;
const STDOUT: i32 = 0;
const STDERR: i32 = ssh2::EXTENDED_DATA_STDERR;
/// Time allowed for closing a channel.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(200);

/// A byte stream to a socket or a command on the machine.
///
/// Reads are buffered. A write sends one SSH packet of at most 32 KiB before it returns, so wrap the channel in a
/// [`BufWriter`](io::BufWriter) for small writes. A read returns 0 bytes at the end of the stream, and
/// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if the connection was lost. A write returns
/// [`BrokenPipe`](io::ErrorKind::BrokenPipe) in both cases. If no byte arrives for the machine's `stall_timeout`, the
/// error is [`TimedOut`](io::ErrorKind::TimedOut). [`Error::in_io`] returns the exact cause.
///
/// The channels of a session share one lock: a read that waits blocks the others. Use them from one thread.
pub struct Channel {
    // This field is before the driver, so that libssh2 frees the channel before the session.
    channel: ssh2::Channel,
    driver: Arc<Driver>,
    deadline: Option<Instant>,
    buffer: Vec<u8>,
    /// The position in the buffer of the first byte that was not returned yet.
    buffer_start: usize,
    received: u64,
    /// Whether this side has sent the end of its data, or the other side has closed the channel.
    is_write_closed: bool,
}

/// The result of a command.
#[derive(Debug)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// The exit status; `None` if a signal ended the command.
    pub status: Option<i32>,
}

impl Channel {
    pub(super) fn new(channel: ssh2::Channel, driver: Arc<Driver>) -> Channel {
        Channel {
            channel,
            driver,
            deadline: None,
            buffer: Vec::new(),
            buffer_start: 0,
            received: 0,
            is_write_closed: false,
        }
    }

    /// Sets the deadline after which reads and writes fail. `None`, the default: only the stall timeout applies.
    ///
    /// A read can be repeated after its deadline. A write that has passed its deadline makes the whole session
    /// unusable.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Sends the end of the data to the other side.
    pub fn send_eof(&mut self) -> Result<(), Error> {
        self.end_input().map_err(|cause| self.error(cause))
    }

    fn end_input(&mut self) -> Result<(), Cause> {
        if !self.is_write_closed {
            self.driver.run(CallKind::Request, self.limit(), || self.channel.send_eof())?;
            self.is_write_closed = true;
        }
        Ok(())
    }

    /// Ends the input of a command, reads its output, and waits for its end. Fails if its standard output or its
    /// standard error has more than `max` bytes.
    pub fn output(mut self, max: usize) -> Result<Output, Error> {
        self.end_input().map_err(|cause| self.error(cause))?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut piece = vec![0; SMALL_READ];
        loop {
            let (stream, read) = self.read_either(&mut piece).map_err(|cause| self.error(cause))?;
            if read == 0 {
                break;
            }
            self.driver.credit(read);
            let kept = if stream == STDOUT { &mut stdout } else { &mut stderr };
            kept.extend_from_slice(&piece[..read]);
            if kept.len() > max {
                return Err(self.error(Cause::TooMuchOutput(max)));
            }
        }
        self.driver
            .run(CallKind::Read, self.limit(), || self.channel.wait_close())
            .map_err(|cause| self.error(cause))?;
        let status = self.status();
        Ok(Output { stdout, stderr, status })
    }

    /// Reads from the first of the two streams that has data. Both share the window, so both must be read. Returns the
    /// stream and the number of bytes; 0 bytes if both have ended.
    fn read_either(&mut self, piece: &mut [u8]) -> Result<(i32, usize), Cause> {
        self.driver.run(CallKind::Read, self.limit(), || {
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

    /// Reads data that has arrived, without waiting; `None` if there is none. `is_error`: from the standard error of a
    /// command.
    pub fn try_read(&mut self, buffer: &mut [u8], is_error: bool) -> Result<Option<usize>, Error> {
        let read = self.widen_window().and_then(|()| {
            self.driver.try_run(CallKind::Read, || {
                let mut stream = self.channel.stream(if is_error { STDERR } else { STDOUT });
                stream.read(buffer).map_err(|error| code_of(&error, self.driver.ssh()))
            })
        });
        let read = read.map_err(|cause| self.error(cause))?;
        let count = read.unwrap_or_default();
        self.received += count as u64;
        self.driver.credit(count);
        Ok(read)
    }

    /// Receives the packets that have arrived, for any channel. libssh2 stores their data until it is read.
    pub fn receive_packets(&mut self) -> Result<(), Error> {
        self.driver.try_run(CallKind::Read, || self.channel.wait_eof()).map(drop).map_err(|cause| self.error(cause))
    }

    /// Writes all bytes. Waits for the link, and for the other side if its [`write_window`](Channel::write_window) is
    /// smaller.
    pub fn send(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let written = self.write_some(bytes).map_err(|cause| self.error(cause))?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Returns the number of bytes that can be written without waiting for the other side.
    pub fn write_window(&self) -> usize {
        if self.is_write_closed { 0 } else { self.channel.write_window().remaining as usize }
    }

    /// Returns whether the other side has closed the channel, which can happen after the end of its data. Does not
    /// wait.
    pub fn is_closed(&mut self) -> Result<bool, Error> {
        let closed = self.driver.try_run(CallKind::Read, || self.channel.wait_close());
        Ok(closed.map_err(|cause| self.error(cause))?.is_some())
    }

    /// Returns the exit status of a command after the channel [is closed](Channel::is_closed); `None` if a signal ended
    /// it. libssh2 returns 0 if the server sent no status.
    pub fn status(&self) -> Option<i32> {
        let is_killed = self.channel.exit_signal().is_ok_and(|signal| signal.exit_signal.is_some());
        if is_killed { None } else { self.channel.exit_status().ok() }
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.widen_window().map_err(|cause| self.error(cause).into_io(io::ErrorKind::UnexpectedEof))?;
        let read = self.driver.run(CallKind::Read, self.limit(), || {
            self.channel.read(buffer).map_err(|error| code_of(&error, self.driver.ssh()))
        });
        let count = read.map_err(|cause| self.error(cause).into_io(io::ErrorKind::UnexpectedEof))?;
        self.received += count as u64;
        self.driver.credit(count);
        Ok(count)
    }

    /// Widens the receive window to [`RECEIVE_WINDOW`] after [`WINDOW_UPDATE_BYTES`]. The window of libssh2 alone is
    /// between 1.5 and 2 MiB. A reader that is slower than the link needs a small window only, and unread bytes take memory.
    fn widen_window(&mut self) -> Result<(), Cause> {
        if self.received < WINDOW_UPDATE_BYTES {
            return Ok(());
        }
        let window = self.channel.read_window();
        let wanted = RECEIVE_WINDOW.saturating_sub(window.available.saturating_mul(BACKLOG_FACTOR));
        if window.remaining >= wanted / 4 * 3 || !self.driver.can_send()? {
            return Ok(());
        }
        let more = (wanted - window.remaining).into();
        self.driver.run(CallKind::Request, self.limit(), || self.channel.adjust_receive_window(more, true))?;
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
        if self.buffer_start == self.buffer.len() {
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
            self.buffer_start = 0;
            read?;
        }
        let available = &self.buffer[self.buffer_start..];
        let read = available.len().min(buffer.len());
        buffer[..read].copy_from_slice(&available[..read]);
        self.buffer_start += read;
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

    /// Does nothing, because writes are not buffered. (libssh2's flush discards received data.)
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Channel {
    /// Writes one packet. Returns the number of bytes in it.
    fn write_some(&mut self, bytes: &[u8]) -> Result<usize, Cause> {
        if self.is_write_closed {
            return Err(Cause::ChannelClosed);
        }
        let written = self.driver.run(CallKind::Write, self.limit(), || match self.channel.write(bytes) {
            Ok(0) => Err(again()),
            Ok(written) => Ok(written),
            Err(error) => match code_of(&error, self.driver.ssh()) {
                // The window is used up. libssh2 would wait for a reader even if it has closed the channel.
                error
                    if is_again(&error)
                        && is_window_full(&self.channel, &self.driver)
                        && self.channel.wait_eof().is_ok() =>
                {
                    Err(ssh2::Error::eof())
                }
                error => Err(error),
            },
        });
        self.is_write_closed |= matches!(written, Err(Cause::ChannelClosed));
        self.driver.credit(*written.as_ref().unwrap_or(&0));
        written
    }
}

/// Returns whether the window of the other side is used up, so that libssh2 is not in the middle of a packet.
fn is_window_full(channel: &ssh2::Channel, driver: &Driver) -> bool {
    !driver.is_sending() && channel.write_window().remaining == 0
}

impl Drop for Channel {
    fn drop(&mut self) {
        // This sends the closing, but does not wait for the reply.
        let result =
            self.driver.run(CallKind::Request, Some(Deadline::after(CLOSE_TIMEOUT)), || match self.channel.close() {
                Err(error) if is_again(&error) && !self.driver.is_sending() => Ok(false),
                result => result.map(|()| true),
            });
        if let Ok(false) = result {
            self.driver.close_later(self.channel.clone());
        }
    }
}
