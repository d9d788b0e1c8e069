//! The standard streams of a program, and the word that names them to a supervisor.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

/// The standard streams of a program.
#[derive(Debug)]
pub enum Streams {
    /// A program without input.
    Output { output: OwnedFd, messages: OwnedFd },
    /// A program with one socket for both input and output.
    Socket { socket: OwnedFd, messages: OwnedFd },
    /// A program with input; its output goes to `messages`.
    Input { input: OwnedFd, messages: OwnedFd },
}

impl Streams {
    /// Returns the word that names them to a supervisor.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Streams::Output { .. } => "output",
            Streams::Socket { .. } => "socket",
            Streams::Input { .. } => "input",
        }
    }

    /// Returns the streams that a supervisor gets as its standard output and error.
    pub(super) fn into_pair(self) -> (OwnedFd, OwnedFd) {
        match self {
            Streams::Output { output: first, messages }
            | Streams::Socket { socket: first, messages }
            | Streams::Input { input: first, messages } => (first, messages),
        }
    }

    /// Returns the program's streams, from those of its supervisor.
    pub(super) fn from_pair(word: &OsStr, first: OwnedFd, messages: OwnedFd) -> Option<Streams> {
        match word.to_str()? {
            "output" => Some(Streams::Output { output: first, messages }),
            "socket" => Some(Streams::Socket { socket: first, messages }),
            "input" => Some(Streams::Input { input: first, messages }),
            _ => None,
        }
    }

    /// Sets them as the streams of a command.
    pub(super) fn give(self, command: &mut Command) -> io::Result<()> {
        match self {
            Streams::Output { output, messages } => command.stdin(Stdio::null()).stdout(output).stderr(messages),
            Streams::Socket { socket, messages } => command.stdin(socket.try_clone()?).stdout(socket).stderr(messages),
            Streams::Input { input, messages } => command.stdin(input).stdout(messages.try_clone()?).stderr(messages),
        };
        Ok(())
    }
}
