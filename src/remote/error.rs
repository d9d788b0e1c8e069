//! The errors of connections to build machines and to their daemons.

use std::io;
use std::time::Duration;

use crate::ssh;

/// The reason why a build machine or its daemon cannot be reached. `machine` is `NAME:PORT`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The SSH session failed.
    #[error(transparent)]
    Ssh(#[from] ssh::Error),
    /// The machine responds, but nothing accepts connections on its daemon's socket.
    #[error("{machine}: no daemon answers on '{socket}': {reason}")]
    NoDaemon { machine: String, socket: String, reason: String },
    /// Neither forwarding to the daemon's socket nor the relay works. The daemon may run.
    #[error(
        "{machine}: cannot reach the daemon's socket '{socket}': forwarding refused ({reason}), relay failed: {relay}"
    )]
    NoRoute { machine: String, socket: String, reason: String, relay: String },
    /// The owner process has ended, which is not a failure of the machine.
    #[error("{machine}: the process that owns the connection to it has ended")]
    OwnerEnded { machine: String },
    /// The owner process is stopped, which is not a failure of the machine.
    #[error("{machine}: the process that owns the connection to it is stopped")]
    OwnerStopped { machine: String },
    /// The owner process did not reply in time, which is not a failure of the machine.
    #[error("{machine}: the process that owns the connection to it does not answer")]
    OwnerSilent { machine: String },
    /// The session carries so much that a new one is better, which is not a failure of the machine.
    #[error("{machine}: the connection to it is busy")]
    OwnerBusy { machine: String },
    /// No owner process could be started, which is not a failure of the machine.
    #[error("{machine}: cannot start a process that owns the connection to it: {error}")]
    NoOwner { machine: String, error: io::Error },
    /// The SSH session is alive, but the daemon did not send its whole greeting in time.
    #[error("{machine}: its daemon sent no greeting within {} s", limit.as_secs())]
    NotGreeted { machine: String, limit: Duration },
    /// The SSH session is alive, but the daemon has been silent for longer than the policy allows.
    #[error("{machine}: its daemon has been silent for {} s", silence.as_secs())]
    Silent { machine: String, silence: Duration },
    /// The SSH session is alive, but bytes only trickle.
    #[error("{machine}: only {bytes} bytes have passed in {} s", time.as_secs())]
    TooSlow { machine: String, bytes: u64, time: Duration },
    /// The SSH server has closed the channel to the daemon because it was idle, and has kept the connection.
    #[error("{machine}: its SSH server closed the channel to the daemon after {} s without data", silence.as_secs())]
    ChannelTimeout { machine: String, silence: Duration },
    /// The daemon has accepted a build, but has not begun it in time.
    #[error("{machine}: the build has not begun there within {} s", wait.as_secs())]
    NotStarted { machine: String, wait: Duration },
    /// The SSH session is alive, but the daemon has been silent, and a second greeting failed.
    #[error("{machine}: its daemon has been silent for {} s and does not respond: {cause}", silence.as_secs())]
    Unresponsive { machine: String, silence: Duration, cause: String },
}

impl Error {
    /// Turns the error into one of a read or a write. `kind` is its kind, unless the SSH error has a more exact one.
    pub(super) fn into_io(self, kind: io::ErrorKind) -> io::Error {
        match self {
            Error::Ssh(error) => error.into_io(kind),
            error => io::Error::new(kind, error),
        }
    }

    /// Returns the error inside an error of [`io`], or else the result of `other`.
    pub(super) fn from_io(error: io::Error, other: impl FnOnce(io::Error) -> Error) -> Error {
        error.downcast::<ssh::Error>().map(Error::Ssh).or_else(|error| error.downcast::<Error>()).unwrap_or_else(other)
    }

    /// Returns whether an error of [`io`] contains [`Error::NotStarted`], which is not a failure of the machine.
    pub fn is_not_started(error: &io::Error) -> bool {
        let inner = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
        matches!(inner, Some(Error::NotStarted { .. }))
    }

    /// Returns whether an error of [`io`] contains [`Error::ChannelTimeout`].
    pub fn is_channel_timeout(error: &io::Error) -> bool {
        let inner = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
        matches!(inner, Some(Error::ChannelTimeout { .. }))
    }

    /// Returns the hint of the error of this module or of `ssh` inside an error of [`io`], if there is one.
    pub fn hint_in_io(error: &io::Error) -> Option<String> {
        match error.get_ref()?.downcast_ref::<Error>() {
            Some(error) => error.hint(),
            None => ssh::Error::in_io(error)?.hint(),
        }
    }

    /// Returns the remedy, in the imperative, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Ssh(error) => error.hint(),
            Error::OwnerEnded { .. }
            | Error::OwnerStopped { .. }
            | Error::OwnerSilent { .. }
            | Error::OwnerBusy { .. }
            | Error::NoOwner { .. } => None,
            Error::NoDaemon { .. } => Some("start guix-daemon there, or correct 'daemon_socket'".to_owned()),
            Error::Silent { .. } | Error::NotGreeted { .. } => {
                Some("check what its guix-daemon does, and whether it is stopped".to_owned())
            }
            Error::TooSlow { .. } => Some("check what slows down its network and its guix-daemon".to_owned()),
            Error::NotStarted { .. } => Some(
                "another process there has locked the outputs: search `guix processes` for a client that builds the same, \
                 a build that hangs, or another machine that offloads to it"
                    .to_owned(),
            ),
            Error::ChannelTimeout { .. } => Some(
                "disable `ChannelTimeout` for this user in its sshd_config: `ChannelTimeout *=0 global=0` below \
                 `Match User NAME`; or set it longer than any build there is silent"
                    .to_owned(),
            ),
            Error::Unresponsive { .. } => Some("restart guix-daemon there".to_owned()),
            Error::NoRoute { .. } => Some(
                "check that guix-daemon runs there and that 'daemon_socket' is its socket, and allow forwarding to it in \
                 its sshd_config: `AllowStreamLocalForwarding yes`, and neither `AllowTcpForwarding no` nor a `PermitOpen` \
                 without it, which forbid sockets as well"
                    .to_owned(),
            ),
        }
    }
}
