//! The owner's side of streams: bytes between a hook's socket and a channel of the session.
//!
//! OpenSSH's `ChannelTimeout` closes a channel on which nothing has moved for a number of seconds, and leaves the
//! connection open. It sends the end of the data and the closing of the channel together. When the daemon ends, its socket
//! gives an end of the data alone, and the channel stays open: so the two can be told apart. A command that has ended
//! gives its exit status first. Source: `channel_force_close` in OpenSSH's `channels.c`.

use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::message::{Ended, Frames, Greeting, Release, Reply, send};
use crate::ssh::{self, Channel};

/// The most bytes that are passed on at a time.
pub(super) const BUFFER_SIZE: usize = 64 << 10;

/// The number of buffers that one stream may pass on before the others have their turn.
const ROUNDS: usize = 8;

/// The length of a command's standard error that is kept, in bytes.
const STDERR_MAX: usize = 64 << 10;

/// Time allowed for a hook to take the last bytes of its stream.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// A channel that moved data within this time was not closed for its silence. Servers count whole seconds.
const CUT_SILENCE: Duration = Duration::from_secs(1);

/// Time allowed for the closing of a channel to arrive after the end of its data.
const CLOSE_WAIT: Duration = Duration::from_millis(500);

/// A stream in use.
pub(super) struct Stream {
    channel: Channel,
    data: UnixStream,
    status: Frames,
    is_command: bool,
    /// The bytes that the hook has not taken yet.
    pending: Vec<u8>,
    taken: usize,
    stderr: Vec<u8>,
    /// Whether the hook has ended its input.
    is_written: bool,
    /// Whether the other side has ended its standard output and its standard error.
    is_read: [bool; 2],
    /// The time at which data moved last.
    moved: Instant,
    /// The time at which the other side ended all of its output.
    ended: Option<Instant>,
}

/// The state of a stream.
pub(super) enum StreamState {
    Open,
    /// The hook has left it.
    Left,
    /// The hook has left it to other hooks.
    Released(Release),
    /// The other side has ended it. `is_cut`: the SSH server closed the channel for its silence.
    Ended {
        command: Option<Ended>,
        is_cut: bool,
    },
    /// Its channel has failed, and the session has not.
    Failed(ssh::Error),
}

/// A stream to a daemon that waits for another hook.
pub(super) struct IdleStream {
    pub name: String,
    pub greeting: Greeting,
    pub channel: Channel,
    is_command: bool,
}

impl IdleStream {
    /// Returns whether the stream is unchanged. Any byte that arrives was not requested, so the stream is not used again.
    pub fn is_usable(&mut self) -> bool {
        matches!(self.channel.try_read(&mut [0], false), Ok(None))
    }

    pub fn into_stream(self, data: UnixStream, status: Frames) -> io::Result<Stream> {
        Stream::new(self.channel, self.is_command, data, status)
    }
}

impl Stream {
    pub fn new(channel: Channel, is_command: bool, data: UnixStream, status: Frames) -> io::Result<Stream> {
        data.set_nonblocking(true)?;
        status.socket().set_nonblocking(true)?;
        Ok(Stream {
            channel,
            data,
            status,
            is_command,
            pending: Vec::new(),
            taken: 0,
            stderr: Vec::new(),
            is_written: false,
            is_read: [false, !is_command],
            moved: Instant::now(),
            ended: None,
        })
    }

    pub fn data(&self) -> &UnixStream {
        &self.data
    }

    pub fn status(&self) -> &UnixStream {
        self.status.socket()
    }

    /// Returns the events to wait for at the socket of the data.
    pub fn wanted(&self) -> PollFlags {
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, !self.is_written && self.channel.room() > 0);
        wanted.set(PollFlags::OUT, self.has_pending());
        wanted
    }

    fn has_pending(&self) -> bool {
        self.taken < self.pending.len()
    }

    /// Reads what the hook says about the stream.
    pub fn hear(&mut self) -> StreamState {
        match self.status.receive::<Release>() {
            Ok(Some(release)) if !self.has_pending() && !self.is_read[0] => StreamState::Released(release),
            Err(error) if error.kind() == ErrorKind::WouldBlock => StreamState::Open,
            _ => StreamState::Left,
        }
    }

    /// Passes on the bytes of the hook that the other side takes now. Returns their number.
    pub fn send(&mut self, events: PollFlags, buffer: &mut [u8]) -> Result<(StreamState, usize), ssh::Error> {
        let mut sent = 0;
        for _ in 0..ROUNDS {
            let room = self.channel.room().min(buffer.len());
            if self.is_written || room == 0 {
                break;
            }
            match self.data.read(&mut buffer[..room]) {
                Ok(0) => {
                    self.is_written = true;
                    self.channel.send_eof()?;
                }
                Ok(count) => {
                    self.channel.send(&buffer[..count])?;
                    self.moved = Instant::now();
                    sent += count;
                    if count < room {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Ok((StreamState::Left, sent)),
            }
        }
        // In that case nobody reads, either.
        let is_left = events.contains(PollFlags::HUP) && (self.is_written || self.channel.room() == 0);
        Ok((if is_left { StreamState::Left } else { StreamState::Open }, sent))
    }

    /// Passes on the bytes of the other side that the hook takes now. Returns their number.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<(StreamState, usize), ssh::Error> {
        let mut received = 0;
        for _ in 0..ROUNDS {
            if !self.flush() {
                return Ok((StreamState::Left, received));
            }
            if self.has_pending() {
                // Other streams may have data, and the link must show that it is alive.
                self.channel.take_in()?;
                return Ok((StreamState::Open, received));
            }
            if self.is_read[0] {
                break;
            }
            match self.channel.try_read(buffer, false)? {
                None => break,
                Some(0) => self.is_read[0] = true,
                Some(count) => {
                    received += count;
                    if !self.pass_on(&buffer[..count]) {
                        return Ok((StreamState::Left, received));
                    }
                }
            }
        }
        received += self.receive_errors(buffer)?;
        if received > 0 {
            self.moved = Instant::now();
        }
        let is_over = self.is_read == [true; 2] && !self.has_pending();
        Ok((if is_over { self.ending()? } else { StreamState::Open }, received))
    }

    /// Returns the state after the end of all output.
    fn ending(&mut self) -> Result<StreamState, ssh::Error> {
        let ended = *self.ended.get_or_insert_with(Instant::now);
        if !self.is_command && ended - self.moved < CUT_SILENCE {
            return Ok(StreamState::Ended { command: None, is_cut: false });
        }
        if !self.channel.is_closed()? {
            let is_over = self.close_by().is_some_and(|time| time <= Instant::now());
            return Ok(if is_over { StreamState::Ended { command: None, is_cut: false } } else { StreamState::Open });
        }
        let status = self.channel.status();
        // libssh2 gives 0 where the server sent no status.
        let is_cut = ended - self.moved >= CUT_SILENCE && status == Some(0);
        let stderr = String::from_utf8_lossy(&mem::take(&mut self.stderr)).into_owned();
        Ok(StreamState::Ended { command: self.is_command.then_some(Ended { stderr, status }), is_cut })
    }

    /// Returns the time by which the closing of the channel arrives, if the server closes it.
    pub fn close_by(&self) -> Option<Instant> {
        self.ended.filter(|_| !self.is_command).map(|time| time + CLOSE_WAIT)
    }

    /// Returns the state after a failure of the channel alone.
    pub fn failed(&mut self, error: ssh::Error) -> StreamState {
        let is_closed = self.moved.elapsed() >= CUT_SILENCE && self.channel.is_closed().is_ok_and(|closed| closed);
        match is_closed && self.channel.status() == Some(0) {
            true => StreamState::Ended { command: None, is_cut: true },
            false => StreamState::Failed(error),
        }
    }

    /// Reads the standard error of a command, which shares the receive window with its output.
    fn receive_errors(&mut self, buffer: &mut [u8]) -> Result<usize, ssh::Error> {
        let mut received = 0;
        while !self.is_read[1] && received < ROUNDS * BUFFER_SIZE {
            match self.channel.try_read(buffer, true)? {
                None => break,
                Some(0) => self.is_read[1] = true,
                Some(count) => {
                    received += count;
                    let room = STDERR_MAX.saturating_sub(self.stderr.len());
                    self.stderr.extend_from_slice(&buffer[..count.min(room)]);
                }
            }
        }
        Ok(received)
    }

    /// Writes the bytes, and stores those that the hook does not take now. Returns false if the hook is gone.
    fn pass_on(&mut self, mut bytes: &[u8]) -> bool {
        match write_some(&self.data, &mut bytes) {
            Ok(()) => {
                self.pending.clear();
                self.taken = 0;
                self.pending.extend_from_slice(bytes);
                true
            }
            Err(_) => false,
        }
    }

    fn flush(&mut self) -> bool {
        let mut rest = &self.pending[self.taken..];
        let before = rest.len();
        let written = write_some(&self.data, &mut rest);
        self.taken += before - rest.len();
        if !self.has_pending() && !self.pending.is_empty() {
            // A stream that waits needs no memory.
            (self.pending, self.taken) = (Vec::new(), 0);
        }
        written.is_ok()
    }

    /// Turns the stream into one that waits for another hook.
    pub fn into_idle(self, release: Release) -> IdleStream {
        let Release { stream: name, greeting } = release;
        IdleStream { name, greeting, channel: self.channel, is_command: self.is_command }
    }

    /// Sends the reason why the stream ended, after its last bytes.
    pub fn end(self, reply: &Reply) {
        let rest = &self.pending[self.taken..];
        if !rest.is_empty() && self.data.set_nonblocking(false).is_ok() {
            let _ = self.data.set_write_timeout(Some(LAST_WRITE_TIMEOUT));
            let _ = (&self.data).write_all(rest);
        }
        // The hook may be gone.
        let _ = send(self.status.socket(), reply, &[]);
    }
}

/// Writes the bytes that the socket takes now.
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
