//! Why a build machine or its daemon cannot be reached.

use std::io;
use std::time::Duration;

use crate::ssh;

/// What is in the way, with the name of the machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Ssh(#[from] ssh::Error),
    /// The machine answers, its daemon's socket does not.
    #[error("{machine}: no daemon answers on '{socket}': {reason}")]
    NoDaemon { machine: String, socket: String, reason: String },
    /// The daemon may be there, but neither way to it is open.
    #[error(
        "{machine}: no way to the daemon's socket '{socket}': forwarding refused ({reason}), relay failed: {relay}"
    )]
    NoRoute { machine: String, socket: String, reason: String, relay: String },
    /// The machine has nothing to do with it.
    #[error("{machine}: the process that owns the connection to it has ended")]
    OwnerEnded { machine: String },
    /// Nor with this.
    #[error("{machine}: the process that owns the connection to it is stopped")]
    OwnerStopped { machine: String },
    /// Nor with this.
    #[error("{machine}: the process that owns the connection to it does not answer")]
    OwnerSilent { machine: String },
    /// Nor with this.
    #[error("{machine}: cannot start a process that owns the connection to it: {error}")]
    NoOwner { machine: String, error: io::Error },
    /// The link is alive, and the daemon's greeting does not come, or not to its end.
    #[error("{machine}: its daemon has not greeted within {} s", limit.as_secs())]
    NotGreeted { machine: String, limit: Duration },
    /// The link is alive, and the daemon says nothing for longer than it may.
    #[error("{machine}: its daemon has been silent for {} s", silence.as_secs())]
    Silent { machine: String, silence: Duration },
    /// The link is alive, and what the daemon sends or takes is next to nothing.
    #[error("{machine}: only {bytes} bytes have passed in {} s", time.as_secs())]
    TooSlow { machine: String, bytes: u64, time: Duration },
    /// The SSH server has closed the channel to the daemon, and keeps the connection.
    #[error("{machine}: its SSH server closed the channel to the daemon after {} s without data", silence.as_secs())]
    ChannelCut { machine: String, silence: Duration },
    /// The daemon has been asked to build, and does not begin.
    #[error("{machine}: the build has not begun there within {} s", wait.as_secs())]
    NotStarted { machine: String, wait: Duration },
    /// The link is alive, and the daemon, silent for a while, answers no second greeting.
    #[error("{machine}: its daemon has been silent for {} s and answers nobody: {cause}", silence.as_secs())]
    Unresponsive { machine: String, silence: Duration, cause: String },
}

impl Error {
    /// As an error of a read or a write, which is `closed` where the way to the daemon is.
    pub(super) fn into_io(self, closed: io::ErrorKind) -> io::Error {
        match self {
            Error::Ssh(error) => error.into_io(closed),
            error => io::Error::new(closed, error),
        }
    }

    /// What an error of [`io`] carries, or what `other` makes of it.
    pub(super) fn from_io(error: io::Error, other: impl FnOnce(io::Error) -> Error) -> Error {
        error.downcast::<ssh::Error>().map(Error::Ssh).or_else(|error| error.downcast::<Error>()).unwrap_or_else(other)
    }

    /// Whether an error of [`io`] says that a build has not begun, which is no fault of the machine.
    pub fn is_not_started(error: &io::Error) -> bool {
        let inner = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
        matches!(inner, Some(Error::NotStarted { .. }))
    }

    /// Whether an error of [`io`] says that the SSH server has closed the channel.
    pub fn is_channel_cut(error: &io::Error) -> bool {
        let inner = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
        matches!(inner, Some(Error::ChannelCut { .. }))
    }

    /// What to do about an error of [`io`] that carries one of this module or of `ssh`, if that can be said.
    pub fn hint_in_io(error: &io::Error) -> Option<String> {
        match error.get_ref()?.downcast_ref::<Error>() {
            Some(error) => error.hint(),
            None => ssh::Error::in_io(error)?.hint(),
        }
    }

    /// What to do about it, if that can be said.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Ssh(error) => error.hint(),
            Error::OwnerEnded { .. }
            | Error::OwnerStopped { .. }
            | Error::OwnerSilent { .. }
            | Error::NoOwner { .. } => None,
            Error::NoDaemon { .. } => Some("start guix-daemon there, or correct 'daemon_socket'".to_owned()),
            Error::Silent { .. } | Error::NotGreeted { .. } => {
                Some("see what its guix-daemon is doing, and whether it is stopped".to_owned())
            }
            Error::TooSlow { .. } => Some("see what slows down its network and its guix-daemon".to_owned()),
            Error::NotStarted { .. } => Some(
                "something else there has locked the outputs: look at `guix processes` for who builds the same, a build \
                 that hangs, or another machine that offloads to it"
                    .to_owned(),
            ),
            Error::ChannelCut { .. } => Some(
                "switch `ChannelTimeout` off for this user in its sshd_config: `ChannelTimeout *=0 global=0` below \
                 `Match User NAME`; or set it longer than any build there is silent"
                    .to_owned(),
            ),
            Error::Unresponsive { .. } => Some("restart guix-daemon there".to_owned()),
            Error::NoRoute { .. } => Some(
                "check that guix-daemon runs there and that 'daemon_socket' is its socket, and allow forwarding to it in \
                 its sshd_config: `AllowStreamLocalForwarding yes`, and neither `AllowTcpForwarding` no nor a `PermitOpen` \
                 that leaves it out, which forbid sockets as well"
                    .to_owned(),
            ),
        }
    }
}
