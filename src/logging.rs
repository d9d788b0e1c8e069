//! The log: messages for people, on standard error, with a prefix on every line and without control characters.
//!
//! The level comes from `OFFLOAD_LOG`, in the syntax of env_logger (`debug`, `offload::ssh=trace`, …). By default, and
//! if the value is invalid, warnings and a few lines about the steps of a build are shown. A hook also looks for levels
//! that replace these for some time (`switch`).

mod switch;

pub use switch::{FindLevels, TemporaryLevels, refresh};

use std::env;
use std::fs::File;
use std::io::{self, Write};

use env_logger::{Builder, Target};
use log::{Level, LevelFilter, warn};

use crate::hook::descriptors::LINE_PREFIX;
use crate::text::printable;

/// The limit of one write to a pipe, in bytes: a longer one may be split.
const MAX_WRITE: usize = 4096;

/// The longest message, in bytes.
const MAX_MESSAGE: usize = 64 << 10;

/// The environment variable that sets the level.
pub const LEVELS_VARIABLE: &str = "OFFLOAD_LOG";

/// Returns the daemon's pipe as a target.
pub fn pipe(pipe: File) -> Target {
    Target::Pipe(Box::new(Lines(pipe)))
}

/// Writes every line in one call, and a very long one in pieces that begin with the prefix. So other processes' lines
/// and a reply to the daemon cannot come between its bytes (`PIPE_BUF`).
struct Lines(File);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            let mut pieces = line.chunks(MAX_WRITE - LINE_PREFIX.len() - 1).peekable();
            let mut is_first = true;
            while let Some(piece) = pieces.next() {
                let start = if is_first { "" } else { LINE_PREFIX };
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

/// The default level.
pub const DEFAULT_LEVELS: &str = "offload=info";

/// Starts logging to `target`. Only the first call in a process has an effect.
pub fn start(target: Target) {
    start_switchable(target, None);
}

/// Starts logging to `target`, and lets the levels that `find` returns replace the usual ones.
pub fn start_switchable(target: Target, find: Option<FindLevels>) {
    let wanted =
        env::var_os(LEVELS_VARIABLE).map_or(DEFAULT_LEVELS.to_owned(), |wanted| wanted.to_string_lossy().into_owned());
    let odd = invalid_part(&wanted);
    let usual = switch::filter(if odd.is_some() { DEFAULT_LEVELS } else { &wanted });
    let printer = Builder::new()
        .filter_level(LevelFilter::Trace)
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
            text.lines().try_for_each(|line| writeln!(buffer, "{LINE_PREFIX}{kind}{line}"))
        })
        .build();
    let _ = switch::install(printer, usual, find);
    if let Some(part) = odd {
        warn!(
            "{LEVELS_VARIABLE} is ignored: '{part}' is neither a level, such as 'debug', nor 'offload::MODULE=LEVEL'"
        );
    }
}

/// Returns the first invalid part of levels. env_logger would take a misspelt level for the name of a library, and log nothing
/// else.
pub fn invalid_part(wanted: &str) -> Option<&str> {
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let is_own = |word: &str| word == "offload" || word.starts_with("offload::");
    // The part after a slash is a filter of messages.
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
    fn an_invalid_level_or_module_is_found() {
        for wanted in
            ["", "debug", "WARN", "offload", "offload::ssh=trace, info", "off,offload::timing=debug", "debug/ssh"]
        {
            assert_eq!(invalid_part(wanted), None, "{wanted}");
        }
        for (wanted, part) in [
            ("debgu", "debgu"),
            ("info,ssh=debug", "ssh=debug"),
            ("offload::ssh=loud", "offload::ssh=loud"),
            ("offload=a=b", "offload=a=b"),
            ("offloads", "offloads"),
        ] {
            assert_eq!(invalid_part(wanted), Some(part));
        }
    }

    #[test]
    fn long_lines_come_in_prefixed_pieces() {
        let mut file = tempfile::tempfile().unwrap();
        let long = "x".repeat(10_000);
        let mut lines = Lines(file.try_clone().unwrap());
        write!(lines, "{LINE_PREFIX}short\n{LINE_PREFIX}{long}\n").unwrap();
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert!(text.lines().all(|line| line.starts_with(LINE_PREFIX) && line.len() < MAX_WRITE), "{text}");
        assert_eq!(text.matches('x').count(), 10_000);
        assert_eq!(text.lines().count(), 4);
    }
}
