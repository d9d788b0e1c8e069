//! The hook's side: finding an owner, and retiring those that nobody is to use any more.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::time::Instant;

use log::debug;
use rustix::process::{Uid, geteuid};

use super::cache_key::{Files, address, daemon_options, list_sockets, settings, sockets};
use super::handle::Owner;
use super::message::{Greeting, Report, Request, send};
use super::{CacheKey, OWNER_REPLY_TIMEOUT, OWNER_SEARCH_TIMEOUT, REPORT_TIMEOUT, peer};
use crate::daemon::{Client, Options};
use crate::machine::Machine;
use crate::permissions::files;
use crate::remote::timeouts::reused_greeting_timeout;
use crate::remote::{Connection, DaemonStream};
use crate::store::path::StoreDir;

/// A session that is open.
pub struct Acquired {
    pub connection: Connection,
    /// A daemon that was greeted over it before, if one waits. Whether it still answers shows with the first request.
    pub client: Option<Client<DaemonStream>>,
}

/// Finds a session with `machine` that is open.
pub fn acquire(cache_key: &CacheKey, machine: &Machine, store: &StoreDir) -> Option<Acquired> {
    let until = Instant::now() + OWNER_SEARCH_TIMEOUT;
    let mut sockets = cache_key.sockets();
    if !sockets.is_empty() {
        // So that those who come at the same time try different ones first.
        let first = process::id() as usize % sockets.len();
        sockets.rotate_left(first);
    }
    let found = sockets.iter().filter_map(|socket| {
        let asked = ask(socket, cache_key, machine, store, until);
        asked.inspect_err(|error| debug!("{}: {error}", socket.display())).ok()
    });
    let mut found = found.peekable();
    // One over which the daemon has been greeted is the better one.
    let mut first = None;
    found
        .find_map(|acquired| match acquired.client {
            Some(_) => Some(acquired),
            None => {
                first.get_or_insert(acquired);
                None
            }
        })
        .or(first)
}

fn ask(
    socket: &Path,
    cache_key: &CacheKey,
    machine: &Machine,
    store: &StoreDir,
    until: Instant,
) -> io::Result<Acquired> {
    let left = until.saturating_duration_since(Instant::now()).min(OWNER_REPLY_TIMEOUT);
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    let owner = Arc::new(Owner::found(peer::connect(socket)?, machine.address()));
    let (resumed, compressed) = owner.resume(&cache_key.stream, left).map_err(io::Error::other)?;
    let connection = Connection::found(owner, machine, cache_key.compressed, compressed);
    let client = resumed.map(|(stream, Greeting { version, round_trip })| {
        let limit = reused_greeting_timeout(machine, round_trip);
        let stream = DaemonStream::resumed(stream, connection.clone(), limit);
        DaemonStream::followed(Client::resume(stream, store.clone(), version, round_trip))
    });
    Ok(Acquired { connection, client })
}

/// Leaves the stream of a client, whose last reply has been read, for another hook that tells the daemon such options.
pub fn release(client: Client<DaemonStream>, options: &Options) {
    let greeting = Greeting { version: client.version(), round_trip: client.round_trip() };
    if let Some(stream) = client.into_stream().filter(DaemonStream::is_between_replies) {
        stream.into_session_stream().release(&daemon_options(options), greeting);
    }
}

/// Retires the owners below `directory` of sessions with machines that are not among `machines`, or whose entries or
/// files have changed since. `files`: those that a session with a machine depends on.
pub fn end_outdated(directory: &Path, machines: &[&Machine], store: &StoreDir, files: impl Fn(&Machine) -> Files) {
    let sockets = sockets(directory, "");
    if sockets.is_empty() {
        return;
    }
    let count = sockets.len();
    let addresses: Vec<(String, &Machine)> = machines.iter().map(|machine| (address(machine), *machine)).collect();
    for socket in sockets {
        let name = socket.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // What has another name is another program's.
        let [of, found, _, _] = name.split('.').collect::<Vec<_>>()[..] else { continue };
        let same = addresses.iter().filter(|(address, _)| address == of);
        let mut wanted = same.filter_map(|(_, machine)| settings(machine, store, &files(machine)));
        if wanted.any(|wanted| wanted == found) {
            if count > 1 {
                // One that is never tried, beside another, would stay for ever.
                peer::can_serve(&socket);
            }
        } else {
            match retire(&socket) {
                Ok(()) => debug!("{}: ended, since it is outdated", socket.display()),
                Err(error) => debug!("{}: outdated: {error}", socket.display()),
            }
        }
    }
}

fn retire(socket: &Path) -> io::Result<()> {
    send(&peer::connect(socket)?, &Request::Retire, &[])
}

/// Returns the open sessions below `directory`, or those with one machine. Sessions that end meanwhile are left out. An
/// error if the directory cannot be read; a missing one has no sessions.
pub fn sessions(directory: &Path, machine: Option<&Machine>) -> io::Result<Vec<Session>> {
    let prefix = machine.map_or_else(String::new, address);
    // Root's hook may work for the state of another user.
    let users = [geteuid(), Uid::from_raw(files::user_of(directory).uid)];
    match list_sockets(directory, &prefix) {
        Ok(sockets) => Ok(sockets.iter().filter_map(|socket| Session::at(socket, &users)).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// An open session.
pub struct Session {
    owner: Owner,
    pub report: Report,
}

impl Session {
    fn at(socket: &Path, users: &[Uid]) -> Option<Session> {
        let owner = Owner::found(peer::connect_to(socket, users).ok()?, String::new());
        let report = owner.report(REPORT_TIMEOUT).ok()?;
        Some(Session { owner, report })
    }

    /// Returns the process that owns it.
    pub fn process(&self) -> Option<u32> {
        self.owner.process()
    }

    /// Ends the session as soon as no stream is in use. No new stream is opened. Returns false if it has ended already.
    pub fn end(&self) -> bool {
        self.owner.retire().is_ok()
    }
}
