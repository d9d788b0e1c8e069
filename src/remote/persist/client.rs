//! The client's side: finding a kept connection, and ending those that nobody will borrow any more.

use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process;
use std::time::Instant;

use log::debug;

use super::cache_key::{Files, address, settings, sockets};
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

/// Ends the connections that are kept below `directory` to machines which are not among `machines`, or whose entries or
/// files have changed since. `files`: those that a connection to a machine depends on.
pub fn end_outdated(directory: &Path, machines: &[&Machine], store: &StoreDir, files: impl Fn(&Machine) -> Files) {
    let sockets = sockets(directory, "");
    if sockets.is_empty() {
        return;
    }
    let addresses: Vec<(String, &Machine)> = machines.iter().map(|machine| (address(machine), *machine)).collect();
    for socket in sockets {
        let name = socket.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // What has another name is another program's.
        let [of, found, _, _] = name.split('.').collect::<Vec<_>>()[..] else { continue };
        let same = addresses.iter().filter(|(address, _)| address == of);
        let mut wanted = same.filter_map(|(_, machine)| settings(machine, store, &files(machine)));
        if !wanted.any(|wanted| wanted == found) {
            end(&socket);
        }
    }
}

fn end(socket: &Path) {
    match peer::connect(socket).and_then(|control| Request::<UnixStream>::End.send(&control)) {
        Ok(()) => debug!("{}: ended, since it is outdated", socket.display()),
        Err(error) => debug!("{}: outdated: {error}", socket.display()),
    }
}
