//! Connects to a daemon's socket through `guix repl`, for SSH servers that do not forward to sockets.
//!
//! `guix repl -t machine` (Guix 1.0 and later) prints `(repl-version …)` and evaluates its input. The hook sends it
//! `relay.scm`, which prints a line `offload-relay ready` or `offload-relay failed REASON`, and then passes bytes.
//! Lines before that, such as those of a login shell, are skipped. OpenSSH's `ChannelTimeout` closes a session on which
//! no data moves, so the relay prints a newline on its standard error every two seconds, which is discarded here. The
//! relay ends with a status other than 0. That distinguishes its end from a session that the server has closed.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use super::error::Error;
use super::session_stream::{DeadlinePassed, SessionStream};
use crate::ssh::{self, Cause, Phase};
use crate::text::printable;

/// The command that evaluates the relay.
pub(super) const RELAY_COMMAND: &str = "guix repl -t machine";
/// The Guile expression of the relay, with `@SOCKET@` for the path of the socket.
const RELAY_EXPRESSION: &str = include_str!("relay.scm");
/// The longest output before the reply of the relay, in bytes.
const PREAMBLE_MAX: usize = 64 << 10;
/// The longest reason that is reported, in bytes; the rest is cut off.
const REASON_MAX: usize = 1 << 10;

/// The reason why a relay is not connected.
pub(super) enum RelayError {
    /// The relay runs, but cannot connect to the socket.
    NoDaemon(String),
    /// The relay does not run.
    NoRelay(String),
    /// The session or its owner failed.
    Session(Error),
}

/// Starts the relay in `command`, which runs [`RELAY_COMMAND`], and waits until it is connected to `socket`, at most
/// for `limit`. Returns the stream to the daemon.
pub(super) fn open(
    command: Result<SessionStream, Error>,
    socket: &str,
    limit: Duration,
) -> Result<SessionStream, RelayError> {
    let mut stream = command.map_err(|error| match error {
        Error::Ssh(ssh::Error { cause: Cause::CommandRefused(reason), .. }) => {
            RelayError::NoRelay(format!("the server refuses commands ({reason})"))
        }
        error => RelayError::Session(error),
    })?;
    stream.set_deadline(Some(Instant::now() + limit));
    let reply = stream.write_all(expression(socket).as_bytes()).and_then(|()| read_reply(&mut stream));
    match reply {
        Ok(reply) if reply == "ready" => {
            stream.set_deadline(None);
            Ok(stream)
        }
        Ok(reply) => Err(match reply.strip_prefix("failed ") {
            Some(reason) => RelayError::NoDaemon(reason.to_owned()),
            None => RelayError::NoRelay(format!("unexpected reply {reply:?}")),
        }),
        Err(error) => Err(relay_error(error, &mut stream)),
    }
}

/// Returns the reason why the relay did not reply.
fn relay_error(error: io::Error, stream: &mut SessionStream) -> RelayError {
    if error.get_ref().is_some_and(|error| error.is::<DeadlinePassed>()) {
        return RelayError::NoRelay(format!("'{RELAY_COMMAND}' does not reply"));
    }
    if error.kind() == io::ErrorKind::InvalidData {
        return RelayError::NoRelay(error.to_string());
    }
    match ssh::Error::in_io(&error).map(|error| &error.cause) {
        None | Some(Cause::ChannelClosed) if !stream.has_lost_owner() => {
            let stderr = stream.command_exit().stderr;
            let last = stderr.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("no message");
            RelayError::NoRelay(format!("'{RELAY_COMMAND}' ended: {}", printable(last, REASON_MAX)))
        }
        _ => RelayError::Session(Error::from_io(error, |error| {
            Error::Ssh(ssh::Error::of("", Phase::Transfer, error.into()))
        })),
    }
}

/// Returns the expression of a relay to `socket`.
fn expression(socket: &str) -> String {
    let quoted: String =
        socket.chars().flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c])).collect();
    RELAY_EXPRESSION.replace("@SOCKET@", &quoted)
}

/// Returns the rest of the first line that begins with `offload-relay `. Reads no byte after that line.
pub fn read_reply(input: &mut dyn Read) -> io::Result<String> {
    let mut line = Vec::new();
    for _ in 0..PREAMBLE_MAX {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        if byte != *b"\n" {
            line.push(byte[0]);
            continue;
        }
        if let Some(rest) = line.strip_prefix(b"offload-relay ") {
            return Ok(printable(&String::from_utf8_lossy(rest), REASON_MAX));
        }
        line.clear();
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "too much output"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reply_is_found_after_other_lines_and_nothing_after_it_is_read() {
        let mut input: &[u8] = b"Welcome!\n\xff\xfe\n(repl-version 0 1 1)\n\noffload-relay failed No such file\ndata";
        assert_eq!(read_reply(&mut input).unwrap(), "failed No such file");
        assert_eq!(input, b"data");
    }

    #[test]
    fn a_missing_reply_is_an_error() {
        assert_eq!(read_reply(&mut &b"sh: guix: not found\n"[..]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read_reply(&mut io::repeat(b'x')).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(read_reply(&mut io::repeat(b'\n')).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_socket_is_quoted() {
        assert!(expression(r#"/a"b\c"#).contains(r#"AF_UNIX "/a\"b\\c")"#));
    }
}
