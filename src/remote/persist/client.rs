//! The borrower's side: finding a kept connection.

use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process;
use std::time::Instant;

use log::debug;

use super::message::{Handshake, Request};
use super::{CacheKey, HOLDER_REPLY_TIMEOUT, HOLDER_SEARCH_TIMEOUT, peer};
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
    let until = Instant::now() + HOLDER_SEARCH_TIMEOUT;
    let mut sockets = cache_key.sockets();
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
            None
        }
    })
}

fn ask(socket: &Path, machine: &Machine, until: Instant) -> io::Result<(PersistedStream, Handshake)> {
    let left = until.saturating_duration_since(Instant::now()).min(HOLDER_REPLY_TIMEOUT);
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    let control = peer::connect(socket)?;
    let (ours, theirs) = UnixStream::pair()?;
    Request::Lend(theirs).send(&control)?;
    control.set_read_timeout(Some(left))?;
    let mut answer = [0; Handshake::LENGTH];
    if let Err(error) = (&control).read_exact(&mut answer) {
        if error.kind() == ErrorKind::WouldBlock {
            // Nobody else is to wait for it. If it was only slow it makes another socket.
            let _ = files::remove(socket);
        }
        return Err(error);
    }
    let unknown = || io::Error::new(ErrorKind::InvalidData, "it answers in another version of the protocol");
    let answer = Handshake::from_bytes(answer).ok_or_else(unknown)?;
    Ok((PersistedStream::new(ours, control, machine.address())?, answer))
}
