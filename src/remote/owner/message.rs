//! The protocol between hooks and the owner of a session: frames over Unix sockets of this machine.
//!
//! A frame has three parts: the version of the protocol (one byte), the length of the text (four bytes, little-endian),
//! and a JSON text of at most [`FRAME_MAX`] bytes. At most two descriptors are sent with its first byte (`SCM_RIGHTS`).
//!
//! | socket | from the hook | from the owner |
//! |---|---|---|
//! | *control*, a connection to the owner | [`Request`] | [`StartReply`]: to the hook that started the owner, until the session is open and for each line that a `proxy_command` prints; to every hook, the reason why the session was lost |
//! | *status*, one for each request with a reply | [`Release`], once | [`Reply`]: the result of the request, and at the end of a stream the reason |
//! | *data*, one for each stream | bytes | bytes |

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cancel;
use crate::daemon::Version;
use crate::file_stamp::FileStamp;
use crate::machine::{Compressed, HostKey, Machine};
use crate::ssh::{self, Target};

/// The version of the protocol. It is part of the names of sockets, so that programs of different versions do not
/// connect.
pub(super) const PROTOCOL: u8 = 5;

/// The longest text of a frame, in bytes.
const FRAME_MAX: usize = 512 << 10;

/// The length of the version and the length field of a frame, in bytes.
const HEADER: usize = 5;

/// The most descriptors that a frame may have.
const DESCRIPTORS_MAX: usize = 2;

/// A request of a hook to an owner.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Opens the session. The hook that has started the owner sends this as its first request.
    Start(Box<Start>),
    /// Opens a new stream within this time. Descriptors: data, status.
    Open { target: Target, limit: Duration },
    /// Resumes a stream to the daemon that another hook has released under this name. With `unless_busy`, a busy owner
    /// replies [`Reply::Busy`]. Descriptors: data, status.
    Resume { stream: String, unless_busy: bool },
    /// Keeps the session open for other hooks. Optional descriptor: a process (pidfd_open(2)); the owner retires when
    /// that process ends.
    KeepOpen(KeepOpen),
    /// Requests a [`Report`]. Descriptor: status.
    Report,
    /// Requests the output of the last probe of an idle owner. Descriptor: status.
    LastProbe,
    /// Accepts no new hooks any more. The owner ends when its last client and its last stream have ended.
    Retire,
}

/// The settings of a session: the fields of the machine file that a session depends on.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    name: String,
    port: u16,
    contact: Option<(String, u16)>,
    user: String,
    host_keys: Vec<HostKey>,
    private_key: Option<PathBuf>,
    proxy_command: Option<Vec<String>>,
    connect_timeout: Duration,
    stall_timeout: Duration,
    keepalive_interval: Duration,
    pub compressed: Compressed,
    /// The log level of the hook, as a number.
    pub log: usize,
}

impl Start {
    pub fn new(machine: &Machine, compressed: Compressed) -> Start {
        let machine = machine.clone();
        Start {
            name: machine.name,
            port: machine.port,
            contact: machine.contact,
            user: machine.user,
            host_keys: machine.host_keys,
            private_key: machine.private_key,
            proxy_command: machine.proxy_command,
            connect_timeout: machine.connect_timeout,
            stall_timeout: machine.stall_timeout,
            keepalive_interval: machine.keepalive_interval,
            compressed,
            log: log::max_level() as usize,
        }
    }

    /// Returns a machine with these settings. Fields that a session does not depend on have their defaults.
    pub fn into_machine(self) -> Machine {
        Machine {
            port: self.port,
            contact: self.contact,
            private_key: self.private_key,
            proxy_command: self.proxy_command,
            connect_timeout: self.connect_timeout,
            stall_timeout: self.stall_timeout,
            keepalive_interval: self.keepalive_interval,
            ..Machine::new(&self.name, &self.user, Vec::new(), self.host_keys)
        }
    }
}

/// The settings of an owner that stays open for other hooks.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeepOpen {
    /// The beginning of the path of its socket. The owner appends its process identifier.
    pub socket: PathBuf,
    /// The longest time that it stays open without use.
    pub idle_timeout: Duration,
    /// The most idle streams to the daemon.
    pub streams: usize,
    /// The command of the probe.
    pub probe: String,
    /// Whether the request has a descriptor.
    pub has_daemon: bool,
}

/// A message on the control connection from the owner.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum StartReply {
    Connected(Connected),
    /// The session could not be opened, or was lost.
    Failed(ssh::Error),
    /// A message that the hook logs.
    Log {
        level: usize,
        target: String,
        text: String,
    },
}

/// The properties of a session after login.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::remote) struct Connected {
    /// The stamp of the private key file that was used for the login.
    pub key_stamp: FileStamp,
    /// The directions that are compressed.
    pub compressed: Compressed,
}

/// A message of the owner on a status socket.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::remote) enum Reply {
    /// The stream is open.
    Opened,
    /// The stream could not be opened.
    Refused(ssh::Error),
    /// An idle stream of the requested name now belongs to the hook.
    Resumed {
        greeting: Greeting,
        compressed: Compressed,
    },
    /// No idle stream has the requested name. The hook can open a new one.
    NoStream {
        compressed: Compressed,
    },
    /// The owner is busy with other streams.
    Busy,
    /// The stream has ended.
    Ended {
        /// The error that ended it; `None` if the other side closed it.
        error: Option<ssh::Error>,
        command: Option<CommandExit>,
        /// Whether the SSH server closed the channel because it was idle (OpenSSH's `ChannelTimeout`).
        is_channel_timeout: bool,
    },
    Report(Report),
    /// The output of the last probe, if there is one.
    LastProbe(Option<ProbeOutput>),
}

/// The result of a command.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(in crate::remote) struct CommandExit {
    /// The beginning of its standard error.
    pub stderr: String,
    /// Its exit status; `None` if a signal ended it.
    pub status: Option<i32>,
}

/// The facts that an earlier greeting of a daemon has shown.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::remote) struct Greeting {
    /// The version of its protocol.
    pub version: Version,
    /// The time of a round trip.
    pub round_trip: Duration,
}

/// Releases a stream to the daemon, so that another hook can resume it. The daemon has replied to every request on it.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::remote) struct Release {
    /// The name of the stream, which [`Request::Resume`] gives.
    pub stream: String,
    pub greeting: Greeting,
}

/// The status of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// `NAME:PORT`.
    pub machine: String,
    /// Seconds since login.
    pub age: u64,
    /// The number of streams in use.
    pub streams: usize,
    /// The number of idle streams to the daemon.
    pub idle: usize,
    /// Bytes sent to the machine over all streams.
    pub sent: u64,
    /// Bytes received from the machine over all streams.
    pub received: u64,
}

/// The output of a probe.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::remote) struct ProbeOutput {
    /// The time since the probe began.
    pub age: Duration,
    pub text: String,
}

/// Returns the error for data that is not of the protocol.
fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// Sends a frame. If the socket is non-blocking and its buffer is full, the error is [`ErrorKind::WouldBlock`], and
/// part of the frame may have been sent.
pub(in crate::remote) fn send(
    socket: &UnixStream,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).ok().filter(|length| *length as usize <= FRAME_MAX);
    let length = length.ok_or_else(|| invalid("message too long"))?;
    let frame = [&[PROTOCOL][..], &length.to_le_bytes(), &text].concat();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let sent = sendmsg(socket, &[IoSlice::new(&frame)], &mut ancillary, SendFlags::NOSIGNAL)?;
    let mut rest = &frame[sent..];
    while !rest.is_empty() {
        let sent = rustix::net::send(socket, rest, SendFlags::NOSIGNAL)?;
        rest = &rest[sent..];
    }
    Ok(())
}

/// Reads frames from a socket.
#[derive(Debug)]
pub(in crate::remote) struct Frames {
    socket: UnixStream,
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Frames {
    pub fn new(socket: UnixStream) -> Frames {
        Frames { socket, bytes: Vec::new(), descriptors: VecDeque::new() }
    }

    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Returns the next descriptor that arrived with a frame.
    pub fn next_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }

    /// Returns the next frame; `None` if the other side has closed the socket. Waits as long as the read timeout of the
    /// socket. If the socket is non-blocking and has no whole frame, the error is [`ErrorKind::WouldBlock`].
    pub fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(text) = self.next_frame()? {
                return Ok(Some(serde_json::from_slice(&text)?));
            }
            if self.read()? == 0 {
                return if self.bytes.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// Returns the text of the next frame, if all of it has been read.
    fn next_frame(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(([protocol, length @ ..], rest)) = self.bytes.split_first_chunk::<HEADER>() else {
            return match self.bytes.first() {
                Some(protocol) if *protocol != PROTOCOL => Err(invalid("unknown version of the protocol")),
                _ => Ok(None),
            };
        };
        let length = u32::from_le_bytes(*length) as usize;
        match () {
            () if *protocol != PROTOCOL => Err(invalid("unknown version of the protocol")),
            () if length > FRAME_MAX => Err(invalid("message too long")),
            () if rest.len() < length => Ok(None),
            () => {
                let text = rest[..length].to_vec();
                self.bytes.drain(..HEADER + length);
                Ok(Some(text))
            }
        }
    }

    /// Reads bytes and descriptors from the socket. Returns the number of bytes. Fails if the work of this thread is
    /// cancelled.
    fn read(&mut self) -> io::Result<usize> {
        if cancel::has_scope() {
            let until = self.socket.read_timeout()?.and_then(|limit| Instant::now().checked_add(limit));
            if !cancel::poll(self.socket.as_fd(), PollFlags::IN, until)? {
                return Err(ErrorKind::WouldBlock.into());
            }
        }
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(self.socket.as_fd(), &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)
        })?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if self.descriptors.len() > 2 * DESCRIPTORS_MAX {
            return Err(invalid("too many descriptors"));
        }
        self.bytes.extend_from_slice(&bytes[..received.bytes]);
        Ok(received.bytes)
    }
}
