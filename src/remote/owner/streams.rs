//! The owner's side of streams: bytes between a hook's socket and a channel of the session.

use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::PollFlags;

use super::message::{Ended, Frames, Greeting, Release, Reply, send};
use crate::ssh::{self, Channel};

/// How much is passed on at a time, in bytes.
pub(super) const BUFFER: usize = 64 << 10;

/// How often in a row one stream may pass on so much before others have their turn.
const ROUNDS: usize = 8;

/// How much of a command's standard error is kept, in bytes.
const STDERR_MAX: usize = 64 << 10;

/// Time allowed for a hook to take what came before its stream ended.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// A stream in use.
pub(super) struct Stream {
    channel: Channel,
    data: UnixStream,
    status: Frames,
    is_command: bool,
    /// What the hook has not taken yet.
    pending: Vec<u8>,
    taken: usize,
    stderr: Vec<u8>,
    /// Whether the hook writes nothing more.
    is_written: bool,
    /// Whether the other side does not, on standard output and error.
    is_read: [bool; 2],
}

/// What has become of a stream.
pub(super) enum StreamState {
    Open,
    /// The hook has left it.
    Left,
    /// The hook has left it, to be used again.
    Released(Release),
    /// The other side has ended it.
    Ended(Option<Ended>),
    /// Its channel has failed, and the session has not.
    Failed(ssh::Error),
}

/// A stream to a daemon that waits to be used again.
pub(super) struct IdleStream {
    pub name: String,
    pub greeting: Greeting,
    pub channel: Channel,
    is_command: bool,
}

impl IdleStream {
    /// Whether it is as it was. Whatever comes over it was not asked for, and is the end of its use.
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
        })
    }

    pub fn data(&self) -> &UnixStream {
        &self.data
    }

    pub fn status(&self) -> &UnixStream {
        self.status.socket()
    }

    /// What the socket of the data is waited for.
    pub fn wanted(&self) -> PollFlags {
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, !self.is_written && self.channel.room() > 0);
        wanted.set(PollFlags::OUT, self.has_pending());
        wanted
    }

    fn has_pending(&self) -> bool {
        self.taken < self.pending.len()
    }

    /// What the hook says about the stream.
    pub fn hear(&mut self) -> StreamState {
        match self.status.receive::<Release>() {
            Ok(Some(release)) if !self.has_pending() && !self.is_read[0] => StreamState::Released(release),
            Err(error) if error.kind() == ErrorKind::WouldBlock => StreamState::Open,
            _ => StreamState::Left,
        }
    }

    /// Passes on what the hook has written, as far as the other side takes it. Tells how many bytes that was.
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
        // Then nobody is there to read, either.
        let is_left = events.contains(PollFlags::HUP) && (self.is_written || self.channel.room() == 0);
        Ok((if is_left { StreamState::Left } else { StreamState::Open }, sent))
    }

    /// Passes on what the other side has sent, as far as the hook takes it. Tells how many bytes that was.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<(StreamState, usize), ssh::Error> {
        let mut received = 0;
        for _ in 0..ROUNDS {
            if !self.flush() {
                return Ok((StreamState::Left, received));
            }
            if self.has_pending() {
                // Others may have something, and the link must be seen to live.
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
        let is_over = self.is_read == [true; 2] && !self.has_pending();
        let state = match (is_over, self.is_command) {
            (false, _) => StreamState::Open,
            (true, false) => StreamState::Ended(None),
            (true, true) => match self.channel.try_status()? {
                None => StreamState::Open,
                Some(status) => {
                    let stderr = String::from_utf8_lossy(&mem::take(&mut self.stderr)).into_owned();
                    StreamState::Ended(Some(Ended { stderr, status }))
                }
            },
        };
        Ok((state, received))
    }

    /// Takes what a command says on its standard error, which shares the window with its output.
    fn receive_errors(&mut self, buffer: &mut [u8]) -> Result<usize, ssh::Error> {
        let mut received = 0;
        while !self.is_read[1] && received < ROUNDS * BUFFER {
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

    /// Writes what comes, and keeps what the hook does not take now. False if nobody is there.
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
            // Memory for streams that wait is not kept.
            (self.pending, self.taken) = (Vec::new(), 0);
        }
        written.is_ok()
    }

    /// What waits to be used again.
    pub fn into_idle(self, release: Release) -> IdleStream {
        let Release { stream: name, greeting } = release;
        IdleStream { name, greeting, channel: self.channel, is_command: self.is_command }
    }

    /// Says how it has ended, behind what came before that.
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

/// Writes as much as a socket takes now.
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
