//! Each SSH session has an owner: a small process, which hooks share.
//!
//! guix-daemon starts a hook for each build. Most of the time of a small build is the time to connect: the SSH server
//! starts processes for each connection, and the machine's daemon starts `guix authenticate` for the first signature on
//! each connection to itself. So sessions outlive hooks. A hook holds no session itself. It starts an *owner*, which
//! resolves the name, connects, checks the host key, reads the user's key, logs in, and then serves requests.
//!
//! **Process.** An owner is this executable, started by exec under the name [`PROCESS_NAME`], with a socket as its
//! standard input ([`serve_if_asked`]). It opens neither Lua nor a database nor a store. A program that embeds the
//! library and does not call that function owns its sessions itself, in a thread for each ([`OwnerSpawner`]).
//!
//! **Lifetime.** An owner ends when no hook is connected to it and no stream is open. A hook that builds asks it to
//! stay open for other hooks (`OwnerHandle::keep_open`). Then it ends after `keep_connection` without use, or at
//! SIGTERM. It *retires*, that is, accepts no new hooks, when the session reaches `MAX_AGE`, when the daemon that
//! started the hook ends, and when a hook finds that the machine file or a key file has changed ([`retire_outdated`]).
//! Streams in use stay open. They all fail when the link fails.
//!
//! **Socket.** An owner listens on a socket in the directory `persist` of the state directory, which only the daemon's
//! user may enter. The socket is called `MACHINE.SETTINGS.REQUEST.PID-0`. The first three parts are digests: of the
//! machine's address, of the settings in the machine file and the key files, and of the compression ([`CacheKey`]). The
//! last part is the process identifier of the owner. A machine has at most as many listening owners as build slots. A build
//! that finds only busy owners (`traffic`) makes another session, up to this number.
//!
//! **Status.** While no hook uses it, an owner probes the machine now and then (`status_probe`), so that the next build need
//! not.
//!
//! **Requests** are described in `message`. A hook connects (the *control* connection), checks that a process of its
//! own user listens (`peer`), and requests streams to a socket or a command of the machine. For each stream the hook
//! makes a pair of sockets. It can release a stream to the daemon after it has read the last reply. The stream then
//! waits for the next hook, under a digest of the daemon's options. When the stream ends, the machine's garbage
//! collector may delete the store items that the stream protected.
//!
//! **Unresponsive owners** are skipped: a killed one immediately, a stopped one (SIGSTOP) as soon as the kernel reports
//! that state, and any other after `OWNER_REPLY_TIMEOUT`.
//!
//! Not checked here: whether the daemon still answers. The first request of the hook shows that.

mod cache_key;
mod client;
mod clients;
mod handle;
mod listening_socket;
mod liveness;
mod message;
mod peer;
mod process;
mod serve;
mod server;
mod start;
mod status_probe;
mod streams;
mod traffic;

pub use cache_key::{CacheKey, Files, idle_timeout};
pub use client::{Acquired, Session, acquire, release, retire_outdated, sessions};
pub use message::Report;
pub use start::{OwnerSpawner, ProcessSpawner, SpawnedOwner, ThreadSpawner, serve_if_asked};

pub(super) use handle::OwnerHandle;
pub(super) use liveness::Liveness;
pub(super) use message::{CommandExit, Frames, Greeting, Release, Reply, send};

use std::ffi::CStr;
use std::time::Duration;

/// The name of an owner process: the first of its arguments.
pub const PROCESS_NAME: &str = "offload-session";

/// The name of an owner process in `/proc/PID/comm`, which `ps` prints. Equal to [`PROCESS_NAME`].
const COMM: &CStr = c"offload-session";

/// The longest time since login that a session accepts new hooks. With each build, its daemon protects more store items
/// from the garbage collector.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Time allowed for a client to send its first request after it has connected.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);

/// Time allowed for one owner to reply to a hook.
const OWNER_REPLY_TIMEOUT: Duration = Duration::from_millis(250);
/// Time allowed for all owners together that a hook tries.
const OWNER_SEARCH_TIMEOUT: Duration = Duration::from_secs(1);

/// Time allowed for an owner process to report about its session, to a person who waits.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
