//! Each SSH session has an owner: a small process, which hooks share.
//!
//! guix-daemon starts a hook for each build, and what a small build costs is nearly all the way there: the SSH server's
//! processes for a connection, and `guix authenticate`, which the machine's daemon starts for the first signature on
//! each connection to itself. So sessions outlive hooks, and a hook holds none: it has an *owner* make it, which
//! resolves, connects, checks the host key, reads the user's key and logs in, and serves requests then.
//!
//! **The owner** is this executable, started by exec under the name [`NAME`], with a socket as its standard input
//! ([`serve_if_asked`]). It has neither Lua nor a database nor a store. Programs that embed the library and do not call
//! that function own their sessions themselves, in a thread for each ([`SessionOwner`]). An owner ends when nobody is
//! connected to it and no stream is open; but a hook that builds asks it to stay for others ([`Owner::keep`]). Then it
//! ends when nobody has used it for `keep_connection`, and at SIGTERM. It takes no new hooks any more when the session
//! is [`MAX_AGE`], when the daemon has ended whose hook it was, and when somebody finds that the machine file or a file
//! of keys has changed since ([`end_outdated`]); streams in use go on. It loses all of them with the link.
//!
//! **Where it is found**: it listens on a socket in the directory `persist` of the state, which only the daemon's user
//! may enter. `MACHINE.SETTINGS.REQUEST.PID-0` is its name: digests of the machine's address, of what the machine file
//! and the files of keys say of the machine, and of the compression ([`CacheKey`]); and the owner's process identifier.
//! No more than the machine has build slots are there for the same machine.
//!
//! **What is asked of it** stands in `message`. A hook connects (the *control* connection), makes sure that a process of
//! its own user listens (`peer`), and asks for streams: to a socket or a command of the machine. Each is a pair of
//! sockets that the hook makes. A stream to the daemon whose last reply has been read can be released; it waits, under a
//! digest of the daemon's options, for the next hook. With it ends what it protected from the machine's garbage collector.
//!
//! **Who does not answer** is passed over: an owner that was killed at once, one that is stopped (SIGSTOP) as soon as the
//! kernel has said so, and any other after `OWNER_REPLY_TIMEOUT`.
//!
//! Not checked here: whether the daemon still answers. The hook's first request tells.

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
mod streams;

pub use cache_key::{CacheKey, Files, idle_timeout};
pub use client::{Acquired, Session, acquire, end_outdated, release, sessions};
pub use message::Report;
pub use start::{OwnProcess, OwnThread, Owned, SessionOwner, serve_if_asked};

pub(super) use handle::Owner;
pub(super) use liveness::Liveness;
pub(super) use message::{Ended, Frames, Greeting, Release, Reply, send};

use std::ffi::CStr;
use std::time::Duration;

/// The name that an owner is started under.
pub const NAME: &str = "offload-session";

/// The same, for lists of processes.
const NAME_IN_LISTS: &CStr = c"offload-session";

/// The greatest age, since login, of a session that takes new hooks. What its daemon protects from the garbage collector
/// grows with each build.
const MAX_AGE: Duration = Duration::from_secs(600);

/// How long an owner waits for the first request of somebody who has connected.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a hook waits for the reply of one owner.
const OWNER_REPLY_TIMEOUT: Duration = Duration::from_millis(250);
/// How long a hook waits for all owners that it tries.
const OWNER_SEARCH_TIMEOUT: Duration = Duration::from_secs(1);

/// Time allowed for an owner process to report about its session, to a person who waits.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
