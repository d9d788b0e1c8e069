//! The key under which sessions are shared. A session with the same key is equivalent to a new one.

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

/// The files of this machine that a session depends on, as they were when the session was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The private key for the login.
    pub private_key: Option<FileStamp>,
    /// The list of authorized keys, whose signatures this machine accepts.
    pub acl: Option<FileStamp>,
    /// The signing key of this machine: the private and the public file.
    pub signing_key: [Option<FileStamp>; 2],
}

/// The key of a session and of its streams to the daemon, with the directory of its sockets.
pub struct CacheKey {
    directory: PathBuf,
    /// The beginning of the names of all sockets of the machine.
    machine: String,
    /// The beginning of the names of the sockets with this key.
    pub(super) prefix: String,
    /// The name of idle streams to the daemon with this key.
    pub(super) stream: String,
    /// The requested compression.
    pub(super) compressed: Compressed,
    /// The build slots of the machine: the limit of its sessions, and of the idle streams of each.
    pub(super) build_slots: usize,
}

impl CacheKey {
    /// Returns the key of sessions with `machine` that request this compression, with this store directory. With `options`,
    /// it also finds their streams to the daemon that use these options. `None` if sessions do not stay open: the machine
    /// file disables `keep_connection`, or the path of a socket in `directory` would be too long.
    pub fn new(
        directory: PathBuf,
        machine: &Machine,
        compressed: Compressed,
        options: Option<&Options>,
        store: &StoreDir,
        files: &Files,
    ) -> Option<CacheKey> {
        let (address, settings) = (address_digest(machine), settings_digest(machine, store, files)?);
        let prefix = format!("{address}.{settings}.{}.", short_digest(&format!("{compressed:?}")));
        let stream = options.map_or_else(String::new, options_digest);
        let path_length = directory.as_os_str().len() + 1 + prefix.len() + "4194304-99999".len();
        let build_slots = machine.parallel_builds as usize;
        let machine = format!("{address}.");
        let cache_key = CacheKey { directory, machine, prefix, stream, compressed, build_slots };
        (path_length <= SOCKET_PATH_MAX).then_some(cache_key)
    }

    /// Returns the beginning of the paths of the sockets with this key.
    pub(super) fn socket_path_prefix(&self) -> PathBuf {
        self.directory.join(&self.prefix)
    }

    /// Returns whether the machine has as many open sessions as build slots, with any settings. Sessions whose owners
    /// cannot serve do not count. Removes the sockets of killed owners.
    pub fn is_full(&self) -> bool {
        self.has_sessions(self.build_slots)
    }

    /// Returns whether the machine has at least `count` open sessions.
    pub(super) fn has_sessions(&self, count: usize) -> bool {
        let mut sockets = sockets(&self.directory, &self.machine);
        sockets.retain(|socket| peer::can_serve(socket));
        sockets.len() >= count
    }

    /// Returns the sockets of the sessions with this key.
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

/// Returns the longest time that an unused session stays open; `None` if it does not stay open.
pub fn idle_timeout(machine: &Machine) -> Option<Duration> {
    Some(machine.keep_connection?.min(MAX_AGE))
}

/// Returns the first part of the name of a socket, which identifies the machine.
pub(super) fn address_digest(machine: &Machine) -> String {
    short_digest(&machine.address())
}

/// Returns the second part, which identifies the settings. `None` if sessions with the machine do not stay open.
///
/// The settings are the version of this program, which can change; the host keys, the name
/// and port to connect to, the account and its private key; the
/// daemon's socket and the store; `keep_connection`; and the stamps of the key files. The signing key is among them
/// because a machine's daemon uses the key that it read when it was connected to.
pub(super) fn settings_digest(machine: &Machine, store: &StoreDir, files: &Files) -> Option<String> {
    let keys: Vec<&[u8]> = machine.host_keys.iter().map(|key| key.blob.as_slice()).collect();
    let Machine { contact, user, private_key, daemon_socket, proxy_command, .. } = machine;
    let program = (PROTOCOL, env!("OFFLOAD_VERSION"));
    let server = (contact, user, keys, private_key, daemon_socket, proxy_command, store.as_str());
    Some(short_digest(&format!("{:?}", (program, server, idle_timeout(machine)?, files))))
}

/// Returns the name of idle streams to a daemon that has these options. Options that replace the ones that were set
/// before do not count.
pub(super) fn options_digest(options: &Options) -> String {
    // A limit that is set replaces the one before, with any value. An unset limit keeps the one before.
    let given = |limit: Option<Duration>| limit.map(|_| Duration::ZERO);
    let (build_timeout, max_silent_time) = (given(options.build_timeout), given(options.max_silent_time));
    let options = Options { build_timeout, max_silent_time, ..options.clone() };
    short_digest(&format!("{options:?}"))
}

fn short_digest(text: &str) -> String {
    base16::encode(&Sha256::digest(text)[..6])
}
