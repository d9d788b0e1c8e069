//! The log: messages for people, on standard error, every line prefixed, and nothing in it that a terminal would obey.
//!
//! The level comes from `OFFLOAD_LOG`, in the syntax of env_logger (`debug`, `offload::ssh=trace`, …); by default
//! warnings and the few lines that tell where a build goes are shown.

use std::fs::File;
use std::io::{self, Write};

use env_logger::{Builder, Env, Target};
use log::Level;

use crate::hook::descriptors::PREFIX;
use crate::text::printable;

/// The longest write to a pipe that stays in one piece.
const MAX_WRITE: usize = 4096;

/// The longest message, in bytes.
const MAX_MESSAGE: usize = 64 << 10;

/// The environment variable that sets the level.
pub const VARIABLE: &str = "OFFLOAD_LOG";

/// The daemon's pipe as a target.
pub fn pipe(pipe: File) -> Target {
    Target::Pipe(Box::new(Lines(pipe)))
}

/// Writes every line with a call of its own, and a very long one in pieces that begin with the prefix, so that nothing
/// comes between its bytes (`PIPE_BUF`): neither lines of other processes nor a reply to the daemon.
struct Lines(File);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            let mut pieces = line.chunks(MAX_WRITE - PREFIX.len() - 1).peekable();
            let mut is_first = true;
            while let Some(piece) = pieces.next() {
                let start = if is_first { "" } else { PREFIX };
                let end = if pieces.peek().is_some() { "\n" } else { "" };
                self.0.write_all(&[start.as_bytes(), piece, end.as_bytes()].concat())?;
                is_first = false;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Starts logging to `target`; only the first call in a process has an effect.
pub fn start(target: Target) {
    let _ = Builder::from_env(Env::new().filter_or(VARIABLE, "offload=info"))
        .target(target)
        .format(|buffer, record| {
            let kind = match record.level() {
                Level::Error => "error: ",
                Level::Warn => "warning: ",
                Level::Info => "",
                Level::Debug => "debug: ",
                Level::Trace => "trace: ",
            };
            let text = printable(&record.args().to_string(), MAX_MESSAGE);
            text.lines().try_for_each(|line| writeln!(buffer, "{PREFIX}{kind}{line}"))
        })
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    #[test]
    fn long_lines_come_in_prefixed_pieces() {
        let mut file = tempfile::tempfile().unwrap();
        let long = "x".repeat(10_000);
        let mut lines = Lines(file.try_clone().unwrap());
        write!(lines, "{PREFIX}short\n{PREFIX}{long}\n").unwrap();
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert!(text.lines().all(|line| line.starts_with(PREFIX) && line.len() < MAX_WRITE), "{text}");
        assert_eq!(text.matches('x').count(), 10_000);
        assert_eq!(text.lines().count(), 4);
    }
}
