//! Why a build machine or its daemon cannot be reached.

use crate::ssh;

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
    NoWay { machine: String, socket: String, reason: String, relay: String },
}

impl Error {
    /// What to do about it, if that can be said.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Ssh(error) => error.hint(),
            Error::NoDaemon { .. } => Some("start guix-daemon there, or correct 'daemon_socket'".to_owned()),
            Error::NoWay { .. } => Some(
                "check that guix-daemon runs there and that 'daemon_socket' is its socket, and allow stream-local \
                 forwarding in its sshd_config: `AllowStreamLocalForwarding yes`"
                    .to_owned(),
            ),
        }
    }
}
