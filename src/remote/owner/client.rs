//! The hook's side: finds open sessions, and retires outdated ones.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::time::Instant;

use log::debug;
use rustix::process::{Uid, geteuid};

use super::cache_key::{Files, address_digest, list_sockets, options_digest, settings_digest, sockets};
use super::handle::OwnerHandle;
use super::message::{Greeting, Report, Request, send};
use super::{CacheKey, OWNER_REPLY_TIMEOUT, OWNER_SEARCH_TIMEOUT, REPORT_TIMEOUT, peer};
use crate::daemon::{Client, Options};
use crate::machine::Machine;
use crate::permissions::files;
use crate::remote::timeouts::reused_greeting_timeout;
use crate::remote::{Connection, DaemonStream};
use crate::store::path::StoreDir;

/// An open session that a hook has found.
pub struct Acquired {
    pub connection: Connection,
    /// The client of an idle stream to the daemon, if there is one. Not checked: whether the daemon still answers.
    pub client: Option<Client<DaemonStream>>,
}

/// Finds an open session with `machine` that has this key. Prefers a session with an idle stream to the daemon. With
/// `unless_busy`, skips sessions whose owners are busy. Returns `None` if no owner replies in time.
pub fn acquire(cache_key: &CacheKey, machine: &Machine, store: &StoreDir, unless_busy: bool) -> Option<Acquired> {
    let until = Instant::now() + OWNER_SEARCH_TIMEOUT;
    let mut sockets = cache_key.sockets();
    if !sockets.is_empty() {
        // Hooks that start at the same time begin with different sockets.
        let first = process::id() as usize % sockets.len();
        sockets.rotate_left(first);
    }
    let found = sockets.iter().filter_map(|socket| {
        let tried = try_owner(socket, (cache_key, unless_busy), machine, store, until);
        tried.inspect_err(|error| debug!("{}: {error}", socket.display())).ok()
    });
    let mut found = found.peekable();
    // A session with an idle stream to the daemon is better than one without.
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

/// Connects to the owner at `socket` and resumes a stream, before the time `until`.
fn try_owner(
    socket: &Path,
    (cache_key, unless_busy): (&CacheKey, bool),
    machine: &Machine,
    store: &StoreDir,
    until: Instant,
) -> io::Result<Acquired> {
    let left = until.saturating_duration_since(Instant::now()).min(OWNER_REPLY_TIMEOUT);
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    let owner = Arc::new(OwnerHandle::from_control(peer::connect(socket)?, machine.address()));
    let (resumed, compressed) = owner.resume(&cache_key.stream, unless_busy, left).map_err(io::Error::other)?;
    let connection = Connection::reused(owner, machine, cache_key.compressed, compressed);
    let client = resumed.map(|(stream, Greeting { version, round_trip })| {
        let limit = reused_greeting_timeout(machine, round_trip);
        let stream = DaemonStream::resumed(stream, connection.clone(), limit);
        DaemonStream::count_requests(Client::resume(stream, store.clone(), version, round_trip))
    });
    Ok(Acquired { connection, client })
}

/// Releases the stream of a client to other hooks whose daemon options are equivalent. Closes the stream instead if a
/// reply has not been read to its end.
pub fn release(client: Client<DaemonStream>, options: &Options) {
    let greeting = Greeting { version: client.version(), round_trip: client.round_trip() };
    if let Some(stream) = client.into_stream().filter(DaemonStream::is_between_replies) {
        stream.into_session_stream().release(&options_digest(options), greeting);
    }
}

/// Retires the owners in `directory` whose sessions are outdated: the machine is not among `machines`, or its settings
/// or key files have changed. `files` returns the key files for a machine.
pub fn retire_outdated(directory: &Path, machines: &[&Machine], store: &StoreDir, files: impl Fn(&Machine) -> Files) {
    let sockets = sockets(directory, "");
    if sockets.is_empty() {
        return;
    }
    let count = sockets.len();
    let addresses: Vec<(String, &Machine)> =
        machines.iter().map(|machine| (address_digest(machine), *machine)).collect();
    for socket in sockets {
        let name = socket.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // A socket with any other name belongs to another program.
        let [of, found, _, _] = name.split('.').collect::<Vec<_>>()[..] else { continue };
        let same = addresses.iter().filter(|(address, _)| address == of);
        let mut wanted = same.filter_map(|(_, machine)| settings_digest(machine, store, &files(machine)));
        if wanted.any(|wanted| wanted == found) {
            if count > 1 {
                // This removes the socket of a killed owner. `acquire` may never try it if another owner replies.
                peer::can_serve(&socket);
            }
        } else {
            match retire(&socket) {
                Ok(()) => debug!("{}: retired, because the session is outdated", socket.display()),
                Err(error) => debug!("{}: cannot retire the outdated session: {error}", socket.display()),
            }
        }
    }
}

/// Retires the owner at `socket`.
fn retire(socket: &Path) -> io::Result<()> {
    send(&peer::connect(socket)?, &Request::Retire, &[])
}

/// Returns the open sessions below `directory`, or those with one machine, whose owners reply within a second. An error if
/// the directory cannot be read; a missing one has no sessions.
pub fn sessions(directory: &Path, machine: Option<&Machine>) -> io::Result<Vec<Session>> {
    let prefix = machine.map_or_else(String::new, address_digest);
    // The hook of root may work for the state of another user.
    let users = [geteuid(), Uid::from_raw(files::user_of(directory).uid)];
    match list_sockets(directory, &prefix) {
        Ok(sockets) => Ok(sockets.iter().filter_map(|socket| Session::query(socket, &users)).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// An open session, with its status.
pub struct Session {
    owner: OwnerHandle,
    pub report: Report,
}

impl Session {
    /// Requests a report from the owner at `socket`, which must be a process of one of these users.
    fn query(socket: &Path, users: &[Uid]) -> Option<Session> {
        let owner = OwnerHandle::from_control(peer::connect_to(socket, users).ok()?, String::new());
        let report = owner.report(REPORT_TIMEOUT).ok()?;
        Some(Session { owner, report })
    }

    /// Returns the process that owns it.
    pub fn process(&self) -> Option<u32> {
        self.owner.process()
    }

    /// Retires the session: it ends when no stream is in use. Returns false if it has ended already.
    pub fn retire(&self) -> bool {
        self.owner.retire().is_ok()
    }
}
