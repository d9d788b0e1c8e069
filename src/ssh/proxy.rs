//! Runs a program instead of a TCP connection: `proxy_command`.
//!
//! The arguments are executed without a shell. In each argument `%h` becomes the machine's name, `%p` its port and `%%`
//! a percent sign, as in ssh_config(5). Standard input and output of the program are one end of a socket pair. The
//! lines of its standard error go to the log.
//!
//! When the connection is closed or this process ends, the program is killed with all processes that it has started
//! ([`supervisor`](crate::supervisor)).

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, PipeReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use log::info;

use super::error::{Cause, Error, Phase};
use crate::machine::Machine;
use crate::supervisor::{Program, Streams};

/// The longest line of its standard error that is logged in one piece, in bytes.
const MAX_STDERR_LINE: u64 = 1024;

/// Time allowed to read the rest of the standard error after the command has ended. A child may keep it open.
const STDERR_GRACE: Duration = Duration::from_millis(200);

/// A running proxy command. It is killed and reaped when this is dropped.
pub(super) struct Proxy {
    program: String,
    child: Program,
    /// This channel closes when the last line of standard error has been logged.
    log_end: Receiver<()>,
}

impl Proxy {
    /// Starts the program `arguments`. Returns this side of its socket pair, and the program.
    pub(super) fn start(machine: &Machine, arguments: &[String]) -> Result<(OwnedFd, Proxy), Error> {
        let failed = |program: &str, problem: String| {
            Error::new(machine, Phase::Connect, Cause::Proxy { program: program.to_owned(), problem })
        };
        let Some((program, rest)) = arguments.split_first() else {
            return Err(failed("", "the list is empty".to_owned()));
        };
        let program = &expand(program, machine);
        let rest: Vec<OsString> = rest.iter().map(|argument| expand(argument, machine).into()).collect();
        let (ours, theirs) = UnixStream::pair().map_err(|error| failed(program, error.to_string()))?;
        let (stderr, messages) = io::pipe().map_err(|error| failed(program, error.to_string()))?;
        let streams = Streams::Socket { socket: theirs.into(), messages: messages.into() };
        let child = Program::start(program.as_ref(), &rest, streams)
            .map_err(|error| failed(program, format!("cannot be started: {error}")))?;
        let log_end = log_stderr(program.clone(), stderr);
        Ok((ours.into(), Proxy { program: program.clone(), child, log_end }))
    }

    /// Returns how the program ended; `None` if it runs.
    pub(super) fn exit_cause(&mut self) -> Option<Cause> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(Cause::Proxy { program: self.program.clone(), problem: format!("ended with {status}") })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.child.kill();
        let _ = self.log_end.recv_timeout(STDERR_GRACE);
    }
}

/// Logs the standard error of the program, on a thread that ends with it. The log escapes control characters.
fn log_stderr(program: String, stderr: PipeReader) -> Receiver<()> {
    let (end, log_end) = mpsc::channel();
    let log_lines = move || {
        let mut stderr = BufReader::new(stderr);
        let mut line = Vec::new();
        while matches!((&mut stderr).take(MAX_STDERR_LINE).read_until(b'\n', &mut line), Ok(1..)) {
            info!("proxy command '{program}': {}", String::from_utf8_lossy(&line).trim_end());
            line.clear();
        }
        drop(end);
    };
    // Without a thread nothing is logged, and the program's pipe is closed.
    let _ = thread::Builder::new().name("proxy".to_owned()).spawn(log_lines);
    log_end
}

/// Replaces `%h`, `%p` and `%%` in an argument.
fn expand(argument: &str, machine: &Machine) -> String {
    let mut expanded = String::with_capacity(argument.len());
    let mut rest = argument;
    while let Some(at) = rest.find('%') {
        expanded.push_str(&rest[..at]);
        let (replacement, length) = match rest.as_bytes().get(at + 1) {
            Some(b'h') => (machine.contact().0.to_owned(), 2),
            Some(b'p') => (machine.contact().1.to_string(), 2),
            Some(b'%') => ("%".to_owned(), 2),
            _ => ("%".to_owned(), 1),
        };
        expanded.push_str(&replacement);
        rest = &rest[at + length..];
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands_the_name_the_port_and_the_percent_sign() {
        let mut machine = Machine::new("host.example.org", "offload", Vec::new(), Vec::new());
        machine.port = 2222;
        for (argument, expected) in [
            ("nc", "nc"),
            ("%h", "host.example.org"),
            ("%h:%p", "host.example.org:2222"),
            ("100%%", "100%"),
            ("%%h", "%h"),
            ("%x", "%x"),
            ("%", "%"),
            ("é%pé", "é2222é"),
        ] {
            assert_eq!(expand(argument, &machine), expected);
        }
    }
}
