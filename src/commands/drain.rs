//! `offload drain NAME [--for TIME]` and `offload undrain NAME`: drains and undrains a machine without a change to the
//! machine file. A drained machine gets no new builds; its running builds continue. The commands apply to all entries
//! for one host.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::failure::{CommandError, CommandResult};
use super::machines::load;
use super::terminal::HumanDuration;
use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::machine::Machine;
use crate::machine_file::Pool;
use crate::state::health::{self, Time};
use crate::state::{Drain, Drained, Slots, StateDirectory, StateError};

/// The longest time that can be given: a year.
const MAX_DRAIN_SECONDS: u64 = 366 * 24 * 3600;

/// Parses a time such as `90s`, `30m`, `2h` or `1d`; a number without a unit is seconds.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((last, 's')) => (&text[..last], 1),
        Some((last, 'm')) => (&text[..last], 60),
        Some((last, 'h')) => (&text[..last], 3600),
        Some((last, 'd')) => (&text[..last], 24 * 3600),
        _ => (text, 1),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    match seconds {
        Some(seconds @ 1..=MAX_DRAIN_SECONDS) => Ok(Duration::from_secs(seconds)),
        _ => Err("expected a time such as 90s, 30m, 2h or 1d, a year at most".to_owned()),
    }
}

#[derive(Debug, clap::Args)]
pub struct DrainArgs {
    /// The duration, such as 90s, 30m, 2h or 1d; without it, until `offload undrain`.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_time)]
    time: Option<Duration>,
    #[command(flatten)]
    which: HostArgs,
}

#[derive(Debug, clap::Args)]
pub struct UndrainArgs {
    #[command(flatten)]
    which: HostArgs,
}

#[derive(Debug, clap::Args)]
struct HostArgs {
    /// The machine's name, or NAME:PORT.
    name: String,
    /// The machine file, if it is not the default one.
    #[arg(long, value_name = "FILE")]
    machine_file: Option<PathBuf>,
}

impl DrainArgs {
    /// Returns the machine file, if one is named.
    pub fn machine_file(&self) -> Option<&Path> {
        self.which.machine_file.as_deref()
    }
}

impl UndrainArgs {
    /// Returns the machine file, if one is named.
    pub fn machine_file(&self) -> Option<&Path> {
        self.which.machine_file.as_deref()
    }
}

/// Runs `offload drain`.
pub fn drain(args: &DrainArgs, engine: &Engine, messages: &mut dyn Write) -> CommandResult {
    let (_, pool) = load(args.machine_file(), engine)?;
    drain_host(&args.which.name, args.time, &machines(&pool), &engine.state, messages)
}

/// Runs `offload undrain`.
pub fn undrain(args: &UndrainArgs, engine: &Engine, messages: &mut dyn Write) -> CommandResult {
    let (_, pool) = load(args.machine_file(), engine)?;
    undrain_host(&args.which.name, &machines(&pool), &engine.state, messages)
}

fn machines(pool: &Pool) -> Vec<&Machine> {
    pool.machines.iter().map(|entry| &entry.machine).collect()
}

/// Drains the machine `name`, for `time` or until it is undrained.
fn drain_host(
    name: &str,
    time: Option<Duration>,
    machines: &[&Machine],
    state: &StateDirectory,
    messages: &mut dyn Write,
) -> CommandResult {
    each_host(name, machines, messages, |machine| {
        let since = health::now();
        let until = time.map(|time| since + time.as_millis() as Time);
        Drain::of(state, machine)?.set(&Drained { since, until })?;
        let until = time
            .map_or(format!("until `offload undrain {name}`"), |time| format!("for {}", HumanDuration(time.as_secs())));
        let running = match Slots::of(state, machine)?.taken()?.len() {
            0 => "no build is running".to_owned(),
            1 => "1 running build continues".to_owned(),
            count => format!("{count} running builds continue"),
        };
        Ok(format!("{}: drained {until}; {running}", machine.address()))
    })
}

/// Undrains the machine `name`.
fn undrain_host(name: &str, machines: &[&Machine], state: &StateDirectory, messages: &mut dyn Write) -> CommandResult {
    each_host(name, machines, messages, |machine| {
        let drain = Drain::of(state, machine)?;
        let was_drained = drain.read(health::now()).is_some();
        drain.clear()?;
        let result = if was_drained { "undrained" } else { "was not drained" };
        Ok(format!("{}: {result}", machine.address()))
    })
}

/// Changes each host with the name `name`, which may be `NAME:PORT`, and prints the result of `change`.
fn each_host(
    name: &str,
    machines: &[&Machine],
    messages: &mut dyn Write,
    change: impl Fn(&Machine) -> Result<String, StateError>,
) -> CommandResult {
    let mut hosts: Vec<&Machine> = machines.iter().copied().filter(|machine| machine.is_called(name)).collect();
    hosts.sort_by_key(|machine| machine.address());
    hosts.dedup_by_key(|machine| machine.address());
    if hosts.is_empty() {
        let mut names: Vec<&str> = machines.iter().map(|machine| machine.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let known = if names.is_empty() { "no machine".to_owned() } else { names.join(", ") };
        let message = format!("there is no machine '{name}'; the machine file has {known}");
        return Err(CommandError::new(ExitStatus::NoMatch, message));
    }
    let mut errors = Vec::new();
    for machine in hosts {
        match change(machine) {
            // If standard error cannot be written, no message can be printed.
            Ok(line) => drop(writeln!(messages, "{line}")),
            Err(error) => errors.push(format!("{}: {error}", machine.address())),
        }
    }
    if errors.is_empty() { Ok(ExitStatus::Success) } else { Err(CommandError::failure(errors.join("\n"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_and_a_limit() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("30m", 1800), ("2h", 7200), ("1d", 86400)] {
            assert_eq!(parse_time(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "h", "0", "-1h", "1.5h", "2 h", "367d", "99999999999999999999d", "2ü"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_drain_and_its_undo_are_reported() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        let machine = |port| Machine { port, ..Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new()) };
        let (one, again, other) = (machine(22), machine(22), machine(23));
        let machines = [&one, &again, &other];
        let is_out = |machine| Drain::of(&state, machine).unwrap().read(health::now()).is_some();
        let mut output = Vec::new();
        let done = Ok(ExitStatus::Success);
        assert_eq!(drain_host("b1:22", Some(Duration::from_secs(60)), &machines, &state, &mut output), done);
        assert!(is_out(&one) && !is_out(&other));
        assert_eq!(drain_host("b1", None, &machines, &state, &mut output), done);
        assert!(is_out(&one) && is_out(&other));
        assert_eq!(undrain_host("b1", &machines, &state, &mut output), done);
        assert_eq!(undrain_host("b1:23", &machines, &state, &mut output), done);
        assert!(!is_out(&one) && !is_out(&other));
        assert_eq!(
            drain_host("b2", None, &machines, &state, &mut output).unwrap_err().print(&mut output),
            ExitStatus::NoMatch
        );
        assert_eq!(
            String::from_utf8(output).unwrap(),
            "b1:22: drained for 1 min; no build is running\n\
             b1:22: drained until `offload undrain b1`; no build is running\n\
             b1:23: drained until `offload undrain b1`; no build is running\n\
             b1:22: undrained\nb1:23: undrained\nb1:23: was not drained\n\
             offload: error: there is no machine 'b2'; the machine file has b1\n"
        );
    }
}
