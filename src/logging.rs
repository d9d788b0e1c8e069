//! The log: messages for people, on standard error, every line prefixed, and nothing in it that a terminal would obey.
//!
//! The level comes from `OFFLOAD_LOG`, in the syntax of env_logger (`debug`, `offload::ssh=trace`, …); by default
//! warnings and the few lines that tell where a build goes are shown, as they are where it means nothing.

use std::env;
use std::fs::File;
use std::io::{self, Write};

use env_logger::{Builder, Target};
use log::{Level, LevelFilter, warn};

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

/// What is logged by default.
const DEFAULT: &str = "offload=info";

/// Starts logging to `target`; only the first call in a process has an effect.
pub fn start(target: Target) {
    let wanted = env::var_os(VARIABLE).map_or(DEFAULT.to_owned(), |wanted| wanted.to_string_lossy().into_owned());
    let odd = odd_part(&wanted);
    let _ = Builder::new()
        .parse_filters(if odd.is_some() { DEFAULT } else { &wanted })
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
    if let Some(part) = odd {
        warn!("{VARIABLE} is not used: '{part}' is neither a level, such as 'debug', nor 'offload::MODULE=LEVEL'");
    }
}

/// The first part that means nothing. env_logger would take a level that is mistyped for the name of a library, and be
/// silent about everything else.
fn odd_part(wanted: &str) -> Option<&str> {
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let is_own = |word: &str| word == "offload" || word.starts_with("offload::");
    // Behind a slash is what messages must have in them.
    let parts = wanted.split('/').take(1).flat_map(|parts| parts.split(',')).map(str::trim);
    parts.filter(|part| !part.is_empty()).find(|part| match part.split_once('=') {
        Some((name, level)) => !is_own(name.trim()) || !is_level(level.trim()),
        None => !is_own(part) && !is_level(part),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    #[test]
    fn what_cannot_be_a_level_or_a_module_is_found() {
        for wanted in
            ["", "debug", "WARN", "offload", "offload::ssh=trace, info", "off,offload::timing=debug", "debug/ssh"]
        {
            assert_eq!(odd_part(wanted), None, "{wanted}");
        }
        for (wanted, part) in [
            ("debgu", "debgu"),
            ("info,ssh=debug", "ssh=debug"),
            ("offload::ssh=loud", "offload::ssh=loud"),
            ("offload=a=b", "offload=a=b"),
            ("offloads", "offloads"),
        ] {
            assert_eq!(odd_part(wanted), Some(part));
        }
    }

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
