//! The borrower's side: finding a kept connection.

use std::io::{self, ErrorKind, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process;
use std::time::Instant;

use log::debug;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::{CacheKey, HANDSHAKE_TIMEOUT, Handshake};
use crate::daemon::Client;
use crate::machine::Machine;
use crate::permissions::files;
use crate::remote::persisted_stream::PersistedStream;
use crate::remote::timeouts::reused_greeting_timeout;
use crate::remote::{Connection, DaemonStream};
use crate::store::path::StoreDir;

/// Borrows a connection to the daemon of `machine`, if one is kept. Whether the daemon still answers shows with the
/// first request.
pub fn acquire(cache_key: &CacheKey, machine: &Machine, store: &StoreDir) -> Option<Client<DaemonStream>> {
    let until = Instant::now() + HANDSHAKE_TIMEOUT;
    let mut sockets = cache_key.sockets(&cache_key.prefix);
    if !sockets.is_empty() {
        // So that those who come at the same time try different ones first.
        let first = process::id() as usize % sockets.len();
        sockets.rotate_left(first);
    }
    sockets.iter().find_map(|socket| match ask(socket, machine, until) {
        Ok((persisted, Handshake { version, compressed, round_trip })) => {
            let connection = Connection::beside(machine, cache_key.compressed, compressed);
            let stream = DaemonStream::persisted(persisted, connection, reused_greeting_timeout(machine, round_trip));
            Some(DaemonStream::followed(Client::resume(stream, store.clone(), version, round_trip)))
        }
        Err(error) => {
            debug!("{}: {error}", socket.display());
            if error.kind() == ErrorKind::ConnectionRefused {
                // Its keeper was killed. Whoever removes it first has removed it.
                let _ = files::remove(socket);
            }
            None
        }
    })
}

fn ask(socket: &Path, machine: &Machine, until: Instant) -> io::Result<(PersistedStream, Handshake)> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    let mut control = files::connect(socket)?;
    let (ours, theirs) = UnixStream::pair()?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [theirs.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(&control, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)?;
    control.set_read_timeout(Some(left))?;
    let mut answer = [0; Handshake::LENGTH];
    control.read_exact(&mut answer)?;
    Ok((PersistedStream::new(ours, control, machine.address())?, Handshake::from_bytes(answer)))
}
