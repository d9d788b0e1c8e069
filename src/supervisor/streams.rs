//! The standard streams of a program, and how a supervisor is told of them.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

/// The standard streams of a program.
#[derive(Debug)]
pub enum Streams {
    /// No input.
    Output { output: OwnedFd, messages: OwnedFd },
    /// One socket for both input and output.
    Socket { socket: OwnedFd, messages: OwnedFd },
    /// Input; output goes where messages go.
    Input { input: OwnedFd, messages: OwnedFd },
}

impl Streams {
    /// What a supervisor is told of them.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Streams::Output { .. } => "output",
            Streams::Socket { .. } => "socket",
            Streams::Input { .. } => "input",
        }
    }

    /// The streams that a supervisor gets as its standard output and error.
    pub(super) fn into_pair(self) -> (OwnedFd, OwnedFd) {
        match self {
            Streams::Output { output: first, messages }
            | Streams::Socket { socket: first, messages }
            | Streams::Input { input: first, messages } => (first, messages),
        }
    }

    /// Those of a supervisor, whose own they were.
    pub(super) fn from_pair(word: &OsStr, first: OwnedFd, messages: OwnedFd) -> Option<Streams> {
        match word.to_str()? {
            "output" => Some(Streams::Output { output: first, messages }),
            "socket" => Some(Streams::Socket { socket: first, messages }),
            "input" => Some(Streams::Input { input: first, messages }),
            _ => None,
        }
    }

    /// Gives them to a command.
    pub(super) fn give(self, command: &mut Command) -> io::Result<()> {
        match self {
            Streams::Output { output, messages } => command.stdin(Stdio::null()).stdout(output).stderr(messages),
            Streams::Socket { socket, messages } => command.stdin(socket.try_clone()?).stdout(socket).stderr(messages),
            Streams::Input { input, messages } => command.stdin(input).stdout(messages.try_clone()?).stderr(messages),
        };
        Ok(())
    }
}
