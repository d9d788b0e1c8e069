//! The owner's side of streams: it passes bytes between a hook's socket and a channel of the session.
//!
//! OpenSSH's `ChannelTimeout` closes a channel on which no data has moved for a number of seconds, and leaves the
//! connection open. It sends the end of the data (EOF) and the closing of the channel together. When the daemon ends,
//! the server sends only EOF, and the channel stays open. That distinguishes the two cases. For a command that has
//! ended the server sends the exit status first. Source: `channel_force_close` in OpenSSH's `channels.c`.

use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::message::{CommandExit, Frames, Greeting, Release, Reply, send};
use crate::ssh::{self, Channel};

/// The most bytes that are passed on at once.
pub(super) const BUFFER_SIZE: usize = 64 << 10;

/// The most buffers that one stream passes on before the other streams do.
const BUFFERS_PER_ROUND: usize = 8;

/// The longest beginning of a command's standard error that is reported, in bytes.
const STDERR_MAX: usize = 64 << 10;

/// Time allowed for a hook to read the last bytes of its stream.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// The shortest `ChannelTimeout` of a server. A channel that moved data within this time was closed for another reason.
const CHANNEL_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// Time allowed for the closing of a channel to arrive after the end of its data.
const CLOSE_WAIT: Duration = Duration::from_millis(500);

/// A stream in use.
pub(super) struct Stream {
    channel: Channel,
    data: UnixStream,
    status: Frames,
    is_command: bool,
    /// Bytes for the hook. It has read those before `pending_start`.
    pending: Vec<u8>,
    pending_start: usize,
    /// The beginning of a command's standard error, at most [`STDERR_MAX`] bytes.
    stderr: Vec<u8>,
    /// Whether the hook has closed its side for writing.
    input_ended: bool,
    /// Whether the other side has closed its standard output and its standard error.
    output_ended: [bool; 2],
    /// The last time at which data moved.
    last_moved: Instant,
    /// The time at which the other side closed all of its output.
    output_ended_at: Option<Instant>,
}

/// The state of a stream.
pub(super) enum StreamState {
    Open,
    /// The hook has closed it.
    Abandoned,
    /// The hook has released it to other hooks.
    Released(Release),
    /// The other side has closed it. `is_channel_timeout`: the SSH server closed the channel because it was idle.
    Ended {
        command: Option<CommandExit>,
        is_channel_timeout: bool,
    },
    /// Its channel has failed, but not the session.
    Failed(ssh::Error),
}

/// A stream to a daemon that another hook can resume.
pub(super) struct IdleStream {
    /// The name under which it was released.
    pub name: String,
    pub greeting: Greeting,
    pub channel: Channel,
    is_command: bool,
}

impl IdleStream {
    /// Returns whether the stream is open and no byte has arrived. Nothing was requested, so a byte would be invalid.
    pub fn is_usable(&mut self) -> bool {
        matches!(self.channel.try_read(&mut [0], false), Ok(None))
    }

    /// Connects the stream to the sockets of a hook.
    pub fn into_stream(self, data: UnixStream, status: Frames) -> io::Result<Stream> {
        Stream::new(self.channel, self.is_command, data, status)
    }
}

impl Stream {
    /// Connects a channel to the sockets of a hook.
    pub fn new(channel: Channel, is_command: bool, data: UnixStream, status: Frames) -> io::Result<Stream> {
        data.set_nonblocking(true)?;
        status.socket().set_nonblocking(true)?;
        Ok(Stream {
            channel,
            data,
            status,
            is_command,
            pending: Vec::new(),
            pending_start: 0,
            stderr: Vec::new(),
            input_ended: false,
            output_ended: [false, !is_command],
            last_moved: Instant::now(),
            output_ended_at: None,
        })
    }

    pub fn data(&self) -> &UnixStream {
        &self.data
    }

    pub fn status(&self) -> &UnixStream {
        self.status.socket()
    }

    /// Returns the events to wait for on the data socket.
    pub fn poll_events(&self) -> PollFlags {
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, !self.input_ended && self.channel.write_window() > 0);
        events.set(PollFlags::OUT, self.has_pending());
        events
    }

    fn has_pending(&self) -> bool {
        self.pending_start < self.pending.len()
    }

    /// Reads a release by the hook from the status socket, and returns the state after it.
    pub fn read_release(&mut self) -> StreamState {
        match self.status.receive::<Release>() {
            Ok(Some(release)) if !self.has_pending() && !self.output_ended[0] => StreamState::Released(release),
            Err(error) if error.kind() == ErrorKind::WouldBlock => StreamState::Open,
            _ => StreamState::Abandoned,
        }
    }

    /// Sends bytes of the hook to the other side, as far as the channel has room. Returns their number.
    pub fn send(&mut self, events: PollFlags, buffer: &mut [u8]) -> Result<(StreamState, usize), ssh::Error> {
        let mut sent = 0;
        for _ in 0..BUFFERS_PER_ROUND {
            let room = self.channel.write_window().min(buffer.len());
            if self.input_ended || room == 0 {
                break;
            }
            match self.data.read(&mut buffer[..room]) {
                Ok(0) => {
                    self.input_ended = true;
                    self.channel.send_eof()?;
                }
                Ok(count) => {
                    self.channel.send(&buffer[..count])?;
                    self.last_moved = Instant::now();
                    sent += count;
                    if count < room {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Ok((StreamState::Abandoned, sent)),
            }
        }
        // If no byte can be read, only this event shows that the hook has closed its socket.
        let is_abandoned = events.contains(PollFlags::HUP) && (self.input_ended || self.channel.write_window() == 0);
        Ok((if is_abandoned { StreamState::Abandoned } else { StreamState::Open }, sent))
    }

    /// Passes bytes of the other side to the hook, as far as its socket has room. Returns their number.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<(StreamState, usize), ssh::Error> {
        let mut received = 0;
        for _ in 0..BUFFERS_PER_ROUND {
            if !self.flush() {
                return Ok((StreamState::Abandoned, received));
            }
            if self.has_pending() {
                // The packets may have data for other streams, and they show that the link is alive.
                self.channel.receive_packets()?;
                return Ok((StreamState::Open, received));
            }
            if self.output_ended[0] {
                break;
            }
            match self.channel.try_read(buffer, false)? {
                None => break,
                Some(0) => self.output_ended[0] = true,
                Some(count) => {
                    received += count;
                    if !self.deliver(&buffer[..count]) {
                        return Ok((StreamState::Abandoned, received));
                    }
                }
            }
        }
        received += self.receive_stderr(buffer)?;
        if received > 0 {
            self.last_moved = Instant::now();
        }
        let is_over = self.output_ended == [true; 2] && !self.has_pending();
        Ok((if is_over { self.state_after_output()? } else { StreamState::Open }, received))
    }

    /// Returns the state after the end of all output.
    fn state_after_output(&mut self) -> Result<StreamState, ssh::Error> {
        let ended = *self.output_ended_at.get_or_insert_with(Instant::now);
        if !self.is_command && ended - self.last_moved < CHANNEL_TIMEOUT_MIN {
            return Ok(StreamState::Ended { command: None, is_channel_timeout: false });
        }
        if !self.channel.is_closed()? {
            let is_over = self.close_deadline().is_some_and(|time| time <= Instant::now());
            return Ok(if is_over {
                StreamState::Ended { command: None, is_channel_timeout: false }
            } else {
                StreamState::Open
            });
        }
        let status = self.channel.status();
        // libssh2 returns 0 if the server sent no status.
        let is_channel_timeout = ended - self.last_moved >= CHANNEL_TIMEOUT_MIN && status == Some(0);
        let stderr = String::from_utf8_lossy(&mem::take(&mut self.stderr)).into_owned();
        Ok(StreamState::Ended {
            command: self.is_command.then_some(CommandExit { stderr, status }),
            is_channel_timeout,
        })
    }

    /// Returns the time by which the closing of the channel must arrive after the end of its data. `None` before that
    /// end, and for commands.
    pub fn close_deadline(&self) -> Option<Instant> {
        self.output_ended_at.filter(|_| !self.is_command).map(|time| time + CLOSE_WAIT)
    }

    /// Returns the state after a failure of the channel that is not a failure of the session.
    pub fn state_after_failure(&mut self, error: ssh::Error) -> StreamState {
        let is_closed =
            self.last_moved.elapsed() >= CHANNEL_TIMEOUT_MIN && self.channel.is_closed().is_ok_and(|closed| closed);
        match is_closed && self.channel.status() == Some(0) {
            true => StreamState::Ended { command: None, is_channel_timeout: true },
            false => StreamState::Failed(error),
        }
    }

    /// Reads the standard error of a command, which shares the receive window with its output.
    fn receive_stderr(&mut self, buffer: &mut [u8]) -> Result<usize, ssh::Error> {
        let mut received = 0;
        while !self.output_ended[1] && received < BUFFERS_PER_ROUND * BUFFER_SIZE {
            match self.channel.try_read(buffer, true)? {
                None => break,
                Some(0) => self.output_ended[1] = true,
                Some(count) => {
                    received += count;
                    let room = STDERR_MAX.saturating_sub(self.stderr.len());
                    self.stderr.extend_from_slice(&buffer[..count.min(room)]);
                }
            }
        }
        Ok(received)
    }

    /// Writes the bytes to the hook, and stores those for which its socket has no room. Returns false if the hook has
    /// ended.
    fn deliver(&mut self, mut bytes: &[u8]) -> bool {
        match write_some(&self.data, &mut bytes) {
            Ok(()) => {
                self.pending.clear();
                self.pending_start = 0;
                self.pending.extend_from_slice(bytes);
                true
            }
            Err(_) => false,
        }
    }

    /// Writes stored bytes to the hook. Returns false if the hook has ended.
    fn flush(&mut self) -> bool {
        let mut rest = &self.pending[self.pending_start..];
        let before = rest.len();
        let written = write_some(&self.data, &mut rest);
        self.pending_start += before - rest.len();
        if !self.has_pending() && !self.pending.is_empty() {
            // This frees the memory of streams that move no data.
            (self.pending, self.pending_start) = (Vec::new(), 0);
        }
        written.is_ok()
    }

    /// Turns the stream into an idle one, which another hook can resume.
    pub fn into_idle(self, release: Release) -> IdleStream {
        let Release { stream: name, greeting } = release;
        IdleStream { name, greeting, channel: self.channel, is_command: self.is_command }
    }

    /// Writes the last bytes of the stream, and then sends the reason why it ended.
    pub fn end(self, reply: &Reply) {
        let rest = &self.pending[self.pending_start..];
        if !rest.is_empty() && self.data.set_nonblocking(false).is_ok() {
            let _ = self.data.set_write_timeout(Some(LAST_WRITE_TIMEOUT));
            let _ = (&self.data).write_all(rest);
        }
        // The hook may have ended.
        let _ = send(self.status.socket(), reply, &[]);
    }
}

/// Writes as many bytes as the socket has room for, and removes them from `bytes`.
fn write_some(mut data: &UnixStream, bytes: &mut &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match data.write(bytes) {
            Ok(written) => *bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
