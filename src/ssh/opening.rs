//! Opening a channel, by steps that wait for nothing.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::channel::Channel;
use super::code;
use super::driver::{Driver, Kind};
use super::error::{Cause, Error, Phase};

/// What a channel leads to on the other side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// A Unix-domain socket.
    Socket(String),
    /// A command for the user's login shell.
    Command(String),
}

/// A channel that is being opened.
pub struct Opening {
    driver: Arc<Driver>,
    target: Target,
    /// That of a command which has not been started yet.
    command: Option<ssh2::Channel>,
}

impl Opening {
    /// One that is to be opened.
    pub(super) fn new(driver: Arc<Driver>, target: Target) -> Opening {
        Opening { driver, target, command: None }
    }

    /// Whether it leads to a command.
    pub fn is_command(&self) -> bool {
        matches!(self.target, Target::Command(_))
    }

    /// Goes on as far as it gets without waiting. `None`: to be called again when something has come. One that is given
    /// up before it is open leaves a session that can open no other.
    pub fn step(&mut self) -> Result<Option<Channel>, Error> {
        let driver = &self.driver;
        let channel = match (&self.target, self.command.take()) {
            (Target::Socket(socket), _) => {
                let opened = driver.attempt(Kind::Request, || driver.ssh().channel_direct_streamlocal(socket, None));
                opened.map_err(|cause| socket_refused(socket, cause))
            }
            (Target::Command(_), None) => match driver.attempt(Kind::Request, || driver.ssh().channel_session()) {
                Ok(Some(channel)) => {
                    self.command = Some(channel);
                    return self.step();
                }
                Ok(None) => Ok(None),
                Err(cause) => Err(command_refused(cause)),
            },
            (Target::Command(command), Some(mut channel)) => {
                match driver.attempt(Kind::Request, || channel.exec(command)) {
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

pub(super) fn socket_refused(socket: &str, cause: Cause) -> Cause {
    match cause {
        Cause::Ssh { code: code::CHANNEL_FAILURE, message } => {
            Cause::SocketRefused { socket: socket.to_owned(), reason: reason(&message) }
        }
        cause => cause,
    }
}

pub(super) fn command_refused(cause: Cause) -> Cause {
    match cause {
        Cause::Ssh { code: code::CHANNEL_FAILURE, message } => Cause::CommandRefused(reason(&message)),
        Cause::Ssh { code: code::CHANNEL_REQUEST_DENIED, .. } => Cause::CommandRefused("request denied".to_owned()),
        cause => cause,
    }
}

/// The reason in libssh2's `Channel open failure (connect failed)`.
fn reason(message: &str) -> String {
    let inner = message.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(message).to_owned()
}
