//! Connections that are kept between hook processes.
//!
//! guix-daemon starts a hook for each build, and what a small build costs is nearly all the way there: the SSH server's
//! processes for a connection, and `guix authenticate`, which the machine's daemon starts for the first signature on
//! each connection to itself. So a hook that has built leaves a *keeper* behind: a process that holds the SSH session
//! and the connection to the daemon for a while, and lends the latter to one hook at a time.
//!
//! **The keeper** is a fork of the hook ([`persist`]), for a session of libssh2 cannot be handed to another program. It
//! closes every descriptor but the session's socket, and touches nothing but that session. It ends when nobody has
//! borrowed for `keep_connection`, when it is `MAX_AGE`, when the machine closes the connection or the link is dead,
//! and when a borrower ends without giving it back. With the connection ends what it protected from the machine's
//! garbage collector.
//!
//! **Where it is found**: it listens on a socket in the directory `kept` of the state, which only the daemon's user
//! may enter. `MACHINE.TERMS.PID-N` is its name: a digest of the machine's address, one of all that makes one
//! connection as good as another ([`CacheKey`]), the keeper's process identifier, and a number that is another one each
//! time. It exists while the connection is there to be borrowed. No more wait for the same machine than it has build
//! slots.
//!
//! **Lending**: the borrower connects (the *control* connection) and sends one byte with a descriptor, an end of a
//! pair of sockets that carries the worker protocol from then on. The keeper answers with what is known of the daemon
//! (`Handshake`), or closes if another one was faster. To give it back, at the end of a reply, the borrower sends
//! `RELEASE` over the control connection, and then closes both. Where the way to the daemon breaks, the keeper
//! says why over the control connection, and ends.
//!
//! Not checked here: whether the daemon still answers. The borrower's first request tells.

mod client;
mod ffi;
mod holder;

pub use client::acquire;
pub use holder::persist;

use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::daemon::{Options, Version};
use crate::machine::{Compressed, Machine};
use crate::permissions::files;
use crate::store::base16;
use crate::store::path::StoreDir;

/// How old a connection may be when it is lent. What its daemon protects from the garbage collector grows with each build.
const MAX_AGE: Duration = Duration::from_secs(600);

/// How long either side waits for the other's part of the greeting.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a borrower sends that gives the connection back.
pub(super) const RELEASE: u8 = b'R';

/// The longest path that a socket can have, in bytes (`sun_path`, without the zero at its end).
const SOCKET_PATH_MAX: usize = 107;

/// Which connections are as good as a new one, and where they are found.
pub struct CacheKey {
    directory: PathBuf,
    /// What the names of all sockets of the machine begin with.
    machine: String,
    /// What the names of those begin with that are as good.
    prefix: String,
    /// The compression that is asked for.
    compressed: Compressed,
    /// For how long they wait to be borrowed.
    idle: Duration,
    /// How many may wait.
    most: usize,
}

impl CacheKey {
    /// Those of connections to `machine` for which this compression is asked, over which the daemon, with this store, is
    /// told these options. `None` if its connections are not kept: where the machine file says so, a program carries
    /// them that belongs to the hook, or no socket could be made in `directory`.
    pub fn new(
        directory: PathBuf,
        machine: &Machine,
        compressed: Compressed,
        options: &Options,
        store: &StoreDir,
    ) -> Option<CacheKey> {
        let idle = machine.keep_connection.filter(|_| machine.proxy_command.is_none())?.min(MAX_AGE);
        let address = digest(&machine.address());
        let prefix = format!("{address}.{}.", digest(&cache_key_text(machine, compressed, options, store)));
        let longest = directory.as_os_str().len() + 1 + prefix.len() + "4194304-99999".len();
        let most = machine.parallel_builds as usize;
        let cache_key = CacheKey { directory, machine: format!("{address}."), prefix, compressed, idle, most };
        (longest <= SOCKET_PATH_MAX).then_some(cache_key)
    }

    /// A name that no other socket has: the `number`th of this process.
    fn own_socket(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{}{}-{number}", self.prefix, process::id()))
    }

    /// How many wait for the machine, on whatever terms.
    fn waiting(&self) -> usize {
        let mut sockets = self.sockets(&self.machine);
        // A keeper that was killed leaves its socket behind.
        sockets.retain(|socket| !is_outdated(socket) || files::remove(socket).is_err());
        sockets.len()
    }

    /// The sockets whose names begin in this way.
    fn sockets(&self, prefix: &str) -> Vec<PathBuf> {
        let mut sockets = files::list(&self.directory).unwrap_or_default();
        sockets.retain(|socket| socket.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
        sockets
    }
}

/// Whether nobody can be behind a socket any more.
fn is_outdated(socket: &Path) -> bool {
    let age = files::modified(socket).ok().and_then(|time| time.elapsed().ok());
    age.is_some_and(|age| age > 2 * MAX_AGE)
}

fn digest(text: &str) -> String {
    base16::encode(&Sha256::digest(text)[..8])
}

/// What a connection depends on: the program, which may be another one tomorrow; the server and its keys, the account,
/// the daemon, the compression; and options, as far as they do not replace what was set before.
fn cache_key_text(machine: &Machine, compressed: Compressed, options: &Options, store: &StoreDir) -> String {
    let keys: Vec<&[u8]> = machine.host_keys.iter().map(|key| key.blob.as_slice()).collect();
    let Machine { user, private_key, daemon_socket, .. } = machine;
    // A limit that is given takes the place of the one before. One that is not leaves it.
    let given = |limit: Option<Duration>| limit.map(|_| Duration::ZERO);
    let (build_timeout, max_silent_time) = (given(options.build_timeout), given(options.max_silent_time));
    let options = Options { build_timeout, max_silent_time, ..options.clone() };
    let program = env!("OFFLOAD_VERSION");
    let server = (machine.address(), user, keys, private_key, daemon_socket);
    format!("{:?}", (program, server, store.as_str(), compressed, options))
}

/// What a keeper says of the daemon and the way there: 14 bytes, numbers little-endian.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Handshake {
    version: Version,
    /// What the server agreed to compress.
    compressed: Compressed,
    /// How long a round trip takes.
    round_trip: Duration,
}

impl Handshake {
    const LENGTH: usize = 14;

    fn to_bytes(self) -> [u8; Handshake::LENGTH] {
        let [a, b, c, d] = self.version.0.to_le_bytes();
        let Compressed { sending, receiving } = self.compressed;
        let micros = u64::try_from(self.round_trip.as_micros()).unwrap_or(u64::MAX);
        let mut bytes = [a, b, c, d, sending.into(), receiving.into(), 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[6..].copy_from_slice(&micros.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; Handshake::LENGTH]) -> Handshake {
        let [a, b, c, d, sending, receiving, micros @ ..] = bytes;
        Handshake {
            version: Version(u32::from_le_bytes([a, b, c, d])),
            compressed: Compressed { sending: sending != 0, receiving: receiving != 0 },
            round_trip: Duration::from_micros(u64::from_le_bytes(micros)),
        }
    }
}

#[cfg(test)]
mod tests;
