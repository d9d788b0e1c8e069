//! What can go wrong between a client and a daemon.

use std::io;

use thiserror::Error;

use super::version::{OLDEST, VERSION, Version};

/// Why an operation failed. The variants tell the link, the other side and this side apart, because they are answered
/// differently: another machine, the daemon's own word, a fault here.
#[derive(Debug, Error)]
pub enum Error {
    /// The stream failed or ended. The client is of no more use.
    #[error("{operation}: the connection to the daemon failed: {cause}")]
    Link { operation: &'static str, cause: io::Error },

    /// The daemon sent what the protocol does not allow, or more than the bounds do. The client is of no more use.
    #[error("{operation}: unexpected answer from the daemon, at byte {position}: {what}")]
    Protocol {
        operation: &'static str,
        /// How far had been read: bytes since the connection began.
        position: u64,
        what: String,
    },

    /// The daemon speaks a version of the protocol that this client does not.
    #[error("{operation}: the daemon speaks protocol version {version}; {OLDEST} to {VERSION} are understood")]
    OtherVersion { operation: &'static str, version: Version },

    /// The daemon's own word. The client stays usable, except where the daemon closes the connection after it.
    #[error("{operation}: the daemon says: {message}")]
    Daemon {
        operation: &'static str,
        /// The daemon's message, without white space at its end; 16 KiB of it at the most, fit for a terminal.
        message: String,
        /// For `BuildPaths` 100 (a build failed), 101 (a time-out) or 1 (all else); otherwise 1.
        status: u32,
    },

    /// What was to be sent could not be read. The client stays usable after a failed import, not after `AddToStore`.
    #[error("{operation}: cannot read what is to be sent: {cause}")]
    Source { operation: &'static str, cause: io::Error },

    /// An earlier error left the connection in an unknown state.
    #[error("{operation}: the connection to the daemon broke earlier")]
    Broken { operation: &'static str },
}

/// Why `Client::export_path` failed: on the way, or in the function that consumed the item.
#[derive(Debug, Error)]
pub enum ExportError<E> {
    #[error(transparent)]
    Daemon(#[from] Error),
    /// The rest of the item was not read, so the client is of no more use.
    #[error("{0}")]
    Consumer(E),
}
