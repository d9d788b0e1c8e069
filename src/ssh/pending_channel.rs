//! Opens a channel in steps that do not wait.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::channel::Channel;
use super::code;
use super::driver::{CallKind, Driver};
use super::error::{Cause, Error, Phase};

/// The other end of a channel, on the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// A Unix-domain socket, by its path.
    Socket(String),
    /// A command for the user's login shell.
    Command(String),
}

/// A channel that is not open yet.
pub struct PendingChannel {
    driver: Arc<Driver>,
    target: Target,
    /// The channel of a command that is not started yet.
    command: Option<ssh2::Channel>,
}

impl PendingChannel {
    pub(super) fn new(driver: Arc<Driver>, target: Target) -> PendingChannel {
        PendingChannel { driver, target, command: None }
    }

    /// Returns whether the other end is a command.
    pub fn is_command(&self) -> bool {
        matches!(self.target, Target::Command(_))
    }

    /// Continues as far as possible without waiting. Returns `None` if it needs data from the server; the caller calls
    /// it again when data has arrived. If the caller gives it up before it is open, the session cannot open another
    /// channel.
    pub fn step(&mut self) -> Result<Option<Channel>, Error> {
        let driver = &self.driver;
        let channel = match (&self.target, self.command.take()) {
            (Target::Socket(socket), _) => {
                let opened =
                    driver.try_run(CallKind::Request, || driver.ssh().channel_direct_streamlocal(socket, None));
                opened.map_err(|cause| socket_refused(socket, cause))
            }
            (Target::Command(_), None) => match driver.try_run(CallKind::Request, || driver.ssh().channel_session()) {
                Ok(Some(channel)) => {
                    self.command = Some(channel);
                    return self.step();
                }
                Ok(None) => Ok(None),
                Err(cause) => Err(command_refused(cause)),
            },
            (Target::Command(command), Some(mut channel)) => {
                match driver.try_run(CallKind::Request, || channel.exec(command)) {
                    Ok(Some(())) => Ok(Some(channel)),
                    Ok(None) => {
                        self.command = Some(channel);
                        Ok(None)
                    }
                    Err(cause) => Err(command_refused(cause)),
                }
            }
        };
        channel
            .map(|channel| channel.map(|channel| Channel::new(channel, Arc::clone(driver))))
            .map_err(|cause| driver.error(Phase::OpenChannel, cause))
    }
}

/// Returns the exact cause of a failure to open a channel to a socket.
pub(super) fn socket_refused(socket: &str, cause: Cause) -> Cause {
    match cause {
        Cause::Ssh { code: code::CHANNEL_FAILURE, message } => {
            Cause::SocketRefused { socket: socket.to_owned(), reason: reason(&message) }
        }
        cause => cause,
    }
}

/// Returns the exact cause of a failure to open a channel to a command.
pub(super) fn command_refused(cause: Cause) -> Cause {
    match cause {
        Cause::Ssh { code: code::CHANNEL_FAILURE, message } => Cause::CommandRefused(reason(&message)),
        Cause::Ssh { code: code::CHANNEL_REQUEST_DENIED, .. } => Cause::CommandRefused("request denied".to_owned()),
        cause => cause,
    }
}

/// Returns the reason in a message of libssh2 such as `Channel open failure (connect failed)`.
fn reason(message: &str) -> String {
    let inner = message.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(message).to_owned()
}
