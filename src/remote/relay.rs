//! The way to a daemon's socket through `guix repl`, where the SSH server does not forward to sockets.
//!
//! `guix repl -t machine` (Guix 1.0 and later) greets with `(repl-version …)` and evaluates what it reads. It is given
//! `relay.scm`, which answers with a line `offload-relay ready`, or `offload-relay failed REASON`, and from then on
//! passes bytes. Lines before that, such as a login shell's, are skipped. It prints a newline on its standard error every
//! two seconds, since OpenSSH's `ChannelTimeout` closes a session on which nothing moves; all of it is dropped here. It ends
//! with a status other than 0, which tells its end from that of a session that was closed so.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use super::error::Error;
use super::session_stream::{DeadlinePassed, SessionStream};
use crate::ssh::{self, Cause, Phase};
use crate::text::printable;

pub(super) const RELAY_COMMAND: &str = "guix repl -t machine";
const RELAY_EXPRESSION: &str = include_str!("relay.scm");
/// What may be printed before the answer, in bytes.
const MAX_PREAMBLE: usize = 64 << 10;
/// What is kept of a reason, in bytes.
const MAX_REASON: usize = 1 << 10;

pub(super) enum Failure {
    /// The relay ran and the socket did not answer.
    NoDaemon(String),
    /// There is no relay.
    NoRelay(String),
    Link(Error),
}

/// Waits until the relay, which [`RELAY_COMMAND`] starts, is connected to `socket`.
pub(super) fn open(
    command: Result<SessionStream, Error>,
    socket: &str,
    limit: Duration,
) -> Result<SessionStream, Failure> {
    let mut stream = command.map_err(|error| match error {
        Error::Ssh(ssh::Error { cause: Cause::CommandRefused(reason), .. }) => {
            Failure::NoRelay(format!("no command may be run ({reason})"))
        }
        error => Failure::Link(error),
    })?;
    stream.set_deadline(Some(Instant::now() + limit));
    let answer = stream.write_all(expression(socket).as_bytes()).and_then(|()| answer(&mut stream));
    match answer {
        Ok(answer) if answer == "ready" => {
            stream.set_deadline(None);
            Ok(stream)
        }
        Ok(answer) => Err(match answer.strip_prefix("failed ") {
            Some(reason) => Failure::NoDaemon(reason.to_owned()),
            None => Failure::NoRelay(format!("it answers {answer:?}")),
        }),
        Err(error) => Err(failure(error, &mut stream)),
    }
}

fn failure(error: io::Error, stream: &mut SessionStream) -> Failure {
    if error.get_ref().is_some_and(|error| error.is::<DeadlinePassed>()) {
        return Failure::NoRelay(format!("'{RELAY_COMMAND}' does not answer"));
    }
    if error.kind() == io::ErrorKind::InvalidData {
        return Failure::NoRelay(error.to_string());
    }
    match ssh::Error::in_io(&error).map(|error| &error.cause) {
        None | Some(Cause::ChannelClosed) if !stream.has_lost_owner() => {
            let said = stream.ended().stderr;
            let last = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it said nothing");
            Failure::NoRelay(format!("'{RELAY_COMMAND}' ended: {}", printable(last, MAX_REASON)))
        }
        _ => {
            Failure::Link(Error::from_io(error, |error| Error::Ssh(ssh::Error::of("", Phase::Transfer, error.into()))))
        }
    }
}

fn expression(socket: &str) -> String {
    let quoted: String =
        socket.chars().flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c])).collect();
    RELAY_EXPRESSION.replace("@SOCKET@", &quoted)
}

/// The rest of the first line that begins with `offload-relay`, and nothing beyond it.
pub fn answer(input: &mut dyn Read) -> io::Result<String> {
    let mut line = Vec::new();
    for _ in 0..MAX_PREAMBLE {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        if byte != *b"\n" {
            line.push(byte[0]);
            continue;
        }
        if let Some(rest) = line.strip_prefix(b"offload-relay ") {
            return Ok(printable(&String::from_utf8_lossy(rest), MAX_REASON));
        }
        line.clear();
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "too much output"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_found_behind_other_lines_and_nothing_more_is_read() {
        let mut input: &[u8] = b"Welcome!\n\xff\xfe\n(repl-version 0 1 1)\n\noffload-relay failed No such file\ndata";
        assert_eq!(answer(&mut input).unwrap(), "failed No such file");
        assert_eq!(input, b"data");
    }

    #[test]
    fn an_answer_that_does_not_come_is_an_error() {
        assert_eq!(answer(&mut &b"sh: guix: not found\n"[..]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(answer(&mut io::repeat(b'x')).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(answer(&mut io::repeat(b'\n')).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_socket_is_quoted() {
        assert!(expression(r#"/a"b\c"#).contains(r#"AF_UNIX "/a\"b\\c")"#));
    }
}
