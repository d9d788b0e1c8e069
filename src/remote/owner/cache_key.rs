//! Which connections are as good as a new one, and where they are found.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::message::PROTOCOL;
use super::{MAX_AGE, peer};
use crate::daemon::Options;
use crate::file_stamp::FileStamp;
use crate::machine::{Compressed, Machine};
use crate::permissions::files;
use crate::store::base16;
use crate::store::path::StoreDir;

/// The longest path that a socket can have, in bytes (`sun_path`, without the zero at its end).
const SOCKET_PATH_MAX: usize = 107;

/// Files of this machine that a connection depends on, as they were when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The private key that opens the account.
    pub private_key: Option<FileStamp>,
    /// The list of the keys whose signatures are accepted here.
    pub acl: Option<FileStamp>,
    /// Both halves of the key that signs here.
    pub signing_key: [Option<FileStamp>; 2],
}

/// Which connections are as good as a new one, and where they are found.
pub struct CacheKey {
    directory: PathBuf,
    /// What the names of all sockets of the machine begin with.
    machine: String,
    /// What the names of those begin with that are as good.
    pub(super) prefix: String,
    /// The name of streams to the daemon that are as good.
    pub(super) stream: String,
    /// The compression that is asked for.
    pub(super) compressed: Compressed,
    /// How many may wait.
    pub(super) most: usize,
}

impl CacheKey {
    /// Returns the key of sessions with `machine` that have this compression. With `options`, it also finds streams to the
    /// daemon that have these options. `None` if its sessions do not stay open: the machine file says so, or the path of a
    /// socket in `directory` would be too long.
    pub fn new(
        directory: PathBuf,
        machine: &Machine,
        compressed: Compressed,
        options: Option<&Options>,
        store: &StoreDir,
        files: &Files,
    ) -> Option<CacheKey> {
        let (address, settings) = (address(machine), settings(machine, store, files)?);
        let prefix = format!("{address}.{settings}.{}.", digest(&format!("{compressed:?}")));
        let stream = options.map_or_else(String::new, daemon_options);
        let longest = directory.as_os_str().len() + 1 + prefix.len() + "4194304-99999".len();
        let most = machine.parallel_builds as usize;
        let machine = format!("{address}.");
        let cache_key = CacheKey { directory, machine, prefix, stream, compressed, most };
        (longest <= SOCKET_PATH_MAX).then_some(cache_key)
    }

    /// What the names of sockets begin with, with their directory.
    pub(super) fn socket_prefix(&self) -> PathBuf {
        self.directory.join(&self.prefix)
    }

    /// Whether the machine has as many available sessions as it may have, with any settings. Sessions whose owners cannot
    /// serve do not count, and the sockets of killed owners are removed.
    pub fn is_full(&self) -> bool {
        self.has_sessions(self.most)
    }

    pub(super) fn has_sessions(&self, count: usize) -> bool {
        let mut sockets = sockets(&self.directory, &self.machine);
        sockets.retain(|socket| peer::can_serve(socket));
        sockets.len() >= count
    }

    /// The sockets of those that are as good as a new one.
    pub(super) fn sockets(&self) -> Vec<PathBuf> {
        sockets(&self.directory, &self.prefix)
    }
}

/// Returns the sockets whose names begin with `prefix`; none if the directory cannot be read.
pub(super) fn sockets(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    list_sockets(directory, prefix).unwrap_or_default()
}

/// Returns the same, or why the directory cannot be read. The name of a socket that is not ready begins with a dot.
pub(super) fn list_sockets(directory: &Path, prefix: &str) -> io::Result<Vec<PathBuf>> {
    let is_ours = |name: &str| !name.starts_with('.') && name.starts_with(prefix);
    let mut sockets = files::list(directory)?;
    sockets.retain(|socket| socket.file_name().is_some_and(|name| is_ours(&name.to_string_lossy())));
    Ok(sockets)
}

/// Returns how long a session with the machine stays open without use; `None` if it does not.
pub fn idle_timeout(machine: &Machine) -> Option<Duration> {
    Some(machine.keep_connection?.min(MAX_AGE))
}

/// The first part of the name of a socket: which machine.
pub(super) fn address(machine: &Machine) -> String {
    digest(&machine.address())
}

/// The second part: what the machine file and the files on this machine say. `None` if connections to the machine are not
/// kept.
///
/// That is the program, which may be another one tomorrow; the server and its keys, the account and what opens it, the
/// daemon; for how long connections are kept; and whose signatures count on either side, since a machine's daemon goes
/// on with the signing key that it had when it was connected to.
pub(super) fn settings(machine: &Machine, store: &StoreDir, files: &Files) -> Option<String> {
    let keys: Vec<&[u8]> = machine.host_keys.iter().map(|key| key.blob.as_slice()).collect();
    let Machine { user, private_key, daemon_socket, proxy_command, .. } = machine;
    let program = (PROTOCOL, env!("OFFLOAD_VERSION"));
    let server = (user, keys, private_key, daemon_socket, proxy_command, store.as_str());
    Some(digest(&format!("{:?}", (program, server, idle_timeout(machine)?, files))))
}

/// What a stream to the daemon is found by: options as far as they do not replace what was set before.
pub(super) fn daemon_options(options: &Options) -> String {
    // A limit that is given takes the place of the one before. One that is not leaves it.
    let given = |limit: Option<Duration>| limit.map(|_| Duration::ZERO);
    let (build_timeout, max_silent_time) = (given(options.build_timeout), given(options.max_silent_time));
    let options = Options { build_timeout, max_silent_time, ..options.clone() };
    digest(&format!("{options:?}"))
}

fn digest(text: &str) -> String {
    base16::encode(&Sha256::digest(text)[..6])
}
