//! What a client and a holder say to each other.
//!
//! Both begin with the version of this protocol, a byte. A client goes on with a byte that says what it wants, and with
//! the descriptor that it has to send for that. Numbers are little-endian.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use crate::daemon::Version;
use crate::machine::Compressed;

/// The version of the protocol. It is also part of the names of sockets, so that different ones do not meet.
pub(super) const PROTOCOL: u8 = 1;

/// What a client sends that gives the connection back.
pub(in crate::remote) const RELEASE: u8 = b'R';

/// A holder's last words where the SSH server has closed the channel for the silence on it.
pub(in crate::remote) const CHANNEL_CUT: &str = "its SSH server has closed the channel";

const LEND: u8 = b'L';
const END: u8 = b'E';

/// What somebody wants of a holder.
pub(super) enum Request<S> {
    /// The connection, over this socket.
    Lend(S),
    /// That it ends, since its connection must not be used any more.
    End,
}

impl<S: AsFd> Request<S> {
    pub(super) fn send(&self, control: &UnixStream) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors;
        let kind = match self {
            Request::Lend(data) => {
                descriptors = [data.as_fd()];
                ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
                LEND
            }
            Request::End => END,
        };
        sendmsg(control, &[IoSlice::new(&[PROTOCOL, kind])], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

impl Request<UnixStream> {
    /// What comes as one message. The timeout is that of `control`.
    pub(super) fn receive(control: &UnixStream) -> io::Result<Request<UnixStream>> {
        let invalid = |what| io::Error::new(ErrorKind::InvalidData, what);
        let mut bytes = [0; 2];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(control, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        let descriptor = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        match (bytes, descriptor) {
            _ if received.bytes < bytes.len() => Err(invalid("no request")),
            ([PROTOCOL, LEND], Some(descriptor)) => Ok(Request::Lend(descriptor.into())),
            ([PROTOCOL, LEND], None) => Err(invalid("no descriptor")),
            ([PROTOCOL, END], _) => Ok(Request::End),
            _ => Err(invalid("an unknown request")),
        }
    }
}

/// What a holder says of the daemon and the way there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Handshake {
    /// Of the daemon's protocol.
    pub version: Version,
    /// What the server agreed to compress.
    pub compressed: Compressed,
    /// How long a round trip takes.
    pub round_trip: Duration,
}

impl Handshake {
    pub const LENGTH: usize = 15;

    pub fn to_bytes(self) -> [u8; Handshake::LENGTH] {
        let [a, b, c, d] = self.version.0.to_le_bytes();
        let Compressed { sending, receiving } = self.compressed;
        let micros = u64::try_from(self.round_trip.as_micros()).unwrap_or(u64::MAX);
        let mut bytes = [PROTOCOL, a, b, c, d, sending.into(), receiving.into(), 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[7..].copy_from_slice(&micros.to_le_bytes());
        bytes
    }

    /// `None` if it is of another version of the protocol.
    pub fn from_bytes(bytes: [u8; Handshake::LENGTH]) -> Option<Handshake> {
        let [protocol, a, b, c, d, sending, receiving, micros @ ..] = bytes;
        (protocol == PROTOCOL).then_some(Handshake {
            version: Version(u32::from_le_bytes([a, b, c, d])),
            compressed: Compressed { sending: sending != 0, receiving: receiving != 0 },
            round_trip: Duration::from_micros(u64::from_le_bytes(micros)),
        })
    }
}
