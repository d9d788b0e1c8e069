//! Connections that are kept between hook processes.
//!
//! guix-daemon starts a hook for each build, and what a small build costs is nearly all the way there: the SSH server's
//! processes for a connection, and `guix authenticate`, which the machine's daemon starts for the first signature on
//! each connection to itself. So a hook that has built leaves a *holder* behind: a process that holds the SSH session
//! and the connection to the daemon for a while, and lends the latter to one hook at a time.
//!
//! **The holder** is a fork of the hook ([`persist`]), for a session of libssh2 cannot be handed to another program. It
//! closes every descriptor but the session's socket, and touches nothing but that session. It ends when nobody has
//! borrowed for `keep_connection`, when it is `MAX_AGE`, when the machine closes the connection or the link is dead,
//! when a client ends without giving it back, with the daemon whose hook it was, at SIGTERM, and when somebody finds
//! that the machine file or a file of keys has changed since ([`end_outdated`]). With the connection ends what it
//! protected from the machine's garbage collector.
//!
//! **Where it is found**: it listens on a socket in the directory `kept` of the state, which only the daemon's user
//! may enter. `MACHINE.SETTINGS.REQUEST.PID-N` is its name: digests of the machine's address, of what the machine file
//! and the files of keys say of the machine, and of what else makes one connection as good as another ([`CacheKey`]); the
//! holder's process identifier, and a number that is another one each time. It exists while the connection is there to
//! be borrowed. No more wait for the same machine than it has build slots.
//!
//! **Lending**: the client connects (the *control* connection), makes sure that a process of its own user listens
//! (`peer`), and sends a request with a descriptor, an end of a pair of sockets that carries the worker protocol from
//! then on (`message`). The holder answers with what is known of the daemon (`Handshake`), or closes if another one was
//! faster. To give it back, at the end of a reply, the client sends `RELEASE` over the control connection, and
//! then closes both. Where the way to the daemon breaks, the holder says why over the control connection, and ends.
//!
//! **Who does not answer** is passed over: one that was killed at once, one that is stopped (SIGSTOP) as soon as the
//! kernel has said so, and any other after `HOLDER_REPLY_TIMEOUT`. The socket of the last is removed, so that nobody waits for
//! it again; it makes another when it goes on.
//!
//! Not checked here: whether the daemon still answers. The client's first request tells.

mod cache_key;
mod client;
mod ffi;
mod holder;
mod message;
mod peer;

pub use cache_key::{CacheKey, Files};
pub use client::{acquire, end_outdated};
pub use holder::persist;

pub(super) use message::{CHANNEL_CUT, RELEASE};
pub(super) use peer::is_stopped;

use std::time::Duration;

/// The greatest age, since login, of a connection that is reused. What its daemon protects from the garbage collector
/// grows with each build.
const MAX_AGE: Duration = Duration::from_secs(600);

/// How long a holder waits for the request of a client that has connected.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a client waits for the reply of one holder.
const HOLDER_REPLY_TIMEOUT: Duration = Duration::from_millis(250);
/// How long a client waits for all holders that it tries.
const HOLDER_SEARCH_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
