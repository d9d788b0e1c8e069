//! `offload log-level [LEVEL] [--for TIME]`: changes for some time what all hooks of this head log, without a restart of
//! guix-daemon, which would interrupt builds.
//!
//! The messages go where the hooks' messages always go: to the log of the build, and to the client. Without LEVEL, the
//! command prints the levels on standard output.

use std::io::Write;
use std::time::Duration;

use super::drain::parse_time;
use super::failure::{CommandError, CommandResult};
use super::terminal::HumanDuration;
use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::logging::{DEFAULT_LEVELS, LEVELS_VARIABLE, invalid_part};
use crate::state::health::{self, Time};
use crate::state::{LogLevel, StateError};

/// The word that ends the levels of a command before their time.
const USUAL: &str = "default";

/// The time if none is given.
const USUAL_TIME: &str = "10m";

/// The longest time, which a forgotten level lasts.
const MAX_TIME: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The level of all hooks: error, warn, info, debug, trace, or one of a part of the program, such as
    /// offload::ssh=trace; several are separated by commas. The word default ends it.
    #[arg(value_name = "LEVEL", value_parser = levels)]
    levels: Option<String>,
    /// The duration, such as 90s, 10m or 2h, a day at most.
    #[arg(long = "for", value_name = "TIME", default_value = USUAL_TIME, value_parser = time, requires = "levels")]
    time: Duration,
}

fn levels(text: &str) -> Result<String, String> {
    match invalid_part(text) {
        _ if text == USUAL => Ok(text.to_owned()),
        None if !text.trim().is_empty() => Ok(text.to_owned()),
        None => Err("expected a level, such as debug".to_owned()),
        Some(part) => Err(format!("'{part}' is neither a level, such as debug, nor offload::MODULE=LEVEL")),
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let expected = "expected a time such as 90s, 10m or 2h, a day at most";
    parse_time(text).ok().filter(|time| *time <= MAX_TIME).ok_or_else(|| expected.to_owned())
}

/// Runs `offload log-level`.
pub fn run(args: &Args, engine: &Engine, out: &mut dyn Write, messages: &mut dyn Write) -> CommandResult {
    let state = &engine.state;
    let failed = |error: StateError| CommandError::failure(error);
    let written = match args.levels.as_deref() {
        None => writeln!(out, "{}", current(engine)),
        Some(USUAL) => {
            LogLevel::clear(state).map_err(failed)?;
            writeln!(messages, "hooks log as usual again")
        }
        Some(levels) => {
            let until = health::now() + args.time.as_millis() as Time;
            LogLevel { levels: levels.to_owned(), until }.set(state).map_err(failed)?;
            let time = HumanDuration(args.time.as_secs());
            writeln!(messages, "hooks log with the level {levels} for {time}; `offload log-level default` ends it")
        }
    };
    written.map_err(|error| CommandError::output("the log level", &error))?;
    Ok(ExitStatus::Success)
}

/// Returns the levels that apply now, in words.
fn current(engine: &Engine) -> String {
    let now = health::now();
    match LogLevel::read(&engine.state, now) {
        Some(LogLevel { levels, until }) => {
            format!("{levels}, for {} more", HumanDuration((until - now).div_ceil(1000)))
        }
        None => format!("{DEFAULT_LEVELS}, or {LEVELS_VARIABLE} in the environment of guix-daemon"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_times_are_checked() {
        for text in ["debug", "offload::ssh=trace,info", "default", "off"] {
            assert_eq!(levels(text).as_deref(), Ok(text));
        }
        for text in ["debgu", "", " ", "info,ssh=debug"] {
            assert!(levels(text).is_err(), "{text}");
        }
        assert_eq!((time("24h"), time("90s")), (Ok(MAX_TIME), Ok(Duration::from_secs(90))));
        for text in ["25h", "2d", "10", "0m", ""] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
