//! Errors between a client and a daemon.

use std::io::{self, ErrorKind};

use thiserror::Error;

use super::version::{OLDEST, VERSION, Version};

/// The reason why an operation failed. The variants distinguish the link, the daemon and this side, because the
/// reaction differs: retry on another machine, report the daemon's error, report a local fault.
#[derive(Debug, Error)]
pub enum Error {
    /// The stream failed or ended. The client cannot be used any more.
    #[error("{operation}: the connection to the daemon failed: {cause}")]
    Link { operation: &'static str, cause: io::Error },

    /// The daemon sent data that the protocol does not allow, or more than the limits. The client cannot be used any
    /// more.
    #[error("{operation}: unexpected answer from the daemon, at byte {position}: {what}")]
    Protocol {
        operation: &'static str,
        /// The bytes read since the connection began.
        position: u64,
        what: String,
    },

    /// The daemon speaks a version of the protocol that this client does not.
    #[error("{operation}: the daemon speaks protocol version {version}; {OLDEST} to {VERSION} are understood")]
    OtherVersion { operation: &'static str, version: Version },

    /// The daemon's own error. The client stays usable, unless the daemon closes the connection after it.
    #[error("{operation}: the daemon says: {message}")]
    Daemon {
        operation: &'static str,
        /// The daemon's message, without white space at its end, at most 16 KiB, escaped for a terminal.
        message: String,
        /// For `BuildPaths` 100 (a build failed), 101 (a time limit) or 1 (other); otherwise 1.
        status: u32,
    },

    /// The data to send could not be read. The client stays usable after a failed import, but not after `AddToStore`.
    #[error("{operation}: cannot read what is to be sent: {cause}")]
    Source { operation: &'static str, cause: io::Error },

    /// An earlier error left the connection in an unknown state.
    #[error("{operation}: the connection to the daemon broke earlier")]
    Broken { operation: &'static str },
}

impl Error {
    /// Returns whether the other side has closed the connection.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Error::Link { cause, .. } if matches!(cause.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset))
    }
}

/// The reason why `Client::export_path` failed: the transfer, or the function that consumed the item.
#[derive(Debug, Error)]
pub enum ExportError<E> {
    #[error(transparent)]
    Daemon(#[from] Error),
    /// The rest of the item was not read, so the client cannot be used any more.
    #[error("{0}")]
    Consumer(E),
}
