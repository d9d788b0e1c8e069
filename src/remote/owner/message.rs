//! What hooks and the owner of a session say to each other: frames over sockets of this machine.
//!
//! A frame is the version of the protocol, a byte; the length of what follows, four bytes, the least significant first;
//! and a JSON text, at most [`FRAME_MAX`] bytes. The descriptors that belong to it are sent with its first byte
//! (`SCM_RIGHTS`), at most two.
//!
//! | socket | from the hook | from the owner |
//! |---|---|---|
//! | *control*, a connection to the owner | [`Request`] | before the session is open, to the hook that started it: [`StartReply`]; afterwards what a `proxy_command` prints, there too; at the end why the session was lost |
//! | *status*, one for each request that is answered | [`Release`], once | [`Reply`]: what came of the request, and at the end of a stream why it has ended |
//! | *data*, one for each stream | bytes | bytes |

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::daemon::Version;
use crate::file_stamp::FileStamp;
use crate::machine::{Compressed, HostKey, Machine};
use crate::ssh::{self, Target};

/// The version of the protocol. It is also part of the names of sockets, so that different ones do not meet.
pub(super) const PROTOCOL: u8 = 2;

/// The longest text of a frame, in bytes.
const FRAME_MAX: usize = 512 << 10;

const HEADER: usize = 5;

/// How many descriptors a frame may have.
const DESCRIPTORS_MAX: usize = 2;

/// What is wanted of an owner.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// The first one, of the hook that has started it: the session that it is to own.
    Start(Box<Start>),
    /// A new stream, opened within this time. Descriptors: data, status.
    Open { target: Target, limit: Duration },
    /// A stream to the daemon that another hook has released under this name. Descriptors: data, status.
    Resume { stream: String },
    /// To be there for other hooks as well. A descriptor, if it is to end with a process: that one's (pidfd_open(2)).
    Keep(Keep),
    /// How the session is doing. A descriptor: status.
    Report,
    /// No new streams any more. It ends with the last of those that there are.
    Retire,
}

/// What a session is made from: what the machine file says of the way to the machine.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    name: String,
    port: u16,
    user: String,
    host_keys: Vec<HostKey>,
    private_key: Option<PathBuf>,
    proxy_command: Option<Vec<String>>,
    connect_timeout: Duration,
    stall_timeout: Duration,
    keepalive_interval: Duration,
    pub compressed: Compressed,
    /// What the hook logs: a level, as a number.
    pub log: usize,
}

impl Start {
    pub fn new(machine: &Machine, compressed: Compressed) -> Start {
        let machine = machine.clone();
        Start {
            name: machine.name,
            port: machine.port,
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

    /// The machine, as far as a session depends on it.
    pub fn into_machine(self) -> Machine {
        Machine {
            port: self.port,
            private_key: self.private_key,
            proxy_command: self.proxy_command,
            connect_timeout: self.connect_timeout,
            stall_timeout: self.stall_timeout,
            keepalive_interval: self.keepalive_interval,
            ..Machine::new(&self.name, &self.user, Vec::new(), self.host_keys)
        }
    }
}

/// On which terms an owner is there for other hooks.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Keep {
    /// What the name of its socket begins with; the number of its process follows.
    pub socket: PathBuf,
    /// For how long, when nobody uses it.
    pub idle: Duration,
    /// How many streams to the daemon may wait to be used again.
    pub streams: usize,
    /// Whether there is a descriptor.
    pub has_daemon: bool,
}

/// What comes of [`Request::Start`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum StartReply {
    Connected(Connected),
    Failed(ssh::Error),
    /// To be logged by the hook.
    Log {
        level: usize,
        target: String,
        text: String,
    },
}

/// A session that is open.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::remote) struct Connected {
    /// Of the file of the private key that opened it.
    pub key: FileStamp,
    /// What the server agreed to compress.
    pub compressed: Compressed,
}

/// What an owner says over a status socket.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::remote) enum Reply {
    /// The stream is open.
    Opened,
    Refused(ssh::Error),
    Resumed {
        greeting: Greeting,
        compressed: Compressed,
    },
    /// No stream of that name waits; others can be opened.
    NoStream {
        compressed: Compressed,
    },
    /// The stream has ended: with an error, or because the other side ended it.
    Ended {
        error: Option<ssh::Error>,
        command: Option<Ended>,
        /// Whether the SSH server closed the channel because nothing moved on it.
        is_cut: bool,
    },
    Report(Report),
}

/// How a command has ended.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(in crate::remote) struct Ended {
    /// The beginning of its standard error.
    pub stderr: String,
    /// Its exit status, unless a signal ended it.
    pub status: Option<i32>,
}

/// What is known of a daemon that has been greeted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::remote) struct Greeting {
    /// Of its protocol.
    pub version: Version,
    /// How long a round trip takes.
    pub round_trip: Duration,
}

/// A stream to the daemon that another hook may go on with: all that was asked for has been answered.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::remote) struct Release {
    /// The name by which it is found.
    pub stream: String,
    pub greeting: Greeting,
}

/// How a session is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// `NAME:PORT`.
    pub machine: String,
    /// Seconds since login.
    pub age: u64,
    /// Streams in use.
    pub streams: usize,
    /// Streams to the daemon that wait to be used again.
    pub idle: usize,
    /// Bytes that have been passed on to the machine, and from there.
    pub sent: u64,
    pub received: u64,
}

fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// Sends a frame. The socket must have room for it if it does not block.
pub(in crate::remote) fn send(
    socket: &UnixStream,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).ok().filter(|length| *length as usize <= FRAME_MAX);
    let length = length.ok_or_else(|| invalid("too long a message"))?;
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

/// Takes frames out of what a socket receives.
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

    /// The next descriptor that came with a frame.
    pub fn descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }

    /// The next frame; `None` at the end. The limit is that of the socket, and where that does not block the error is
    /// [`ErrorKind::WouldBlock`] until there is one.
    pub fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(text) = self.take()? {
                return Ok(Some(serde_json::from_slice(&text)?));
            }
            if self.read()? == 0 {
                return if self.bytes.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    fn take(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(([protocol, length @ ..], rest)) = self.bytes.split_first_chunk::<HEADER>() else {
            return match self.bytes.first() {
                Some(protocol) if *protocol != PROTOCOL => Err(invalid("another version of the protocol")),
                _ => Ok(None),
            };
        };
        let length = u32::from_le_bytes(*length) as usize;
        match () {
            () if *protocol != PROTOCOL => Err(invalid("another version of the protocol")),
            () if length > FRAME_MAX => Err(invalid("too long a message")),
            () if rest.len() < length => Ok(None),
            () => {
                let text = rest[..length].to_vec();
                self.bytes.drain(..HEADER + length);
                Ok(Some(text))
            }
        }
    }

    fn read(&mut self) -> io::Result<usize> {
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
