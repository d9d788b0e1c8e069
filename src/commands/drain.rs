//! `offload drain NAME… [--for TIME]` and `offload undrain NAME…`: drain and undrain machines without a change to the
//! machine file. A drained machine gets no new builds; its running builds continue. The commands apply to all entries
//! for one host.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use rustix::system::uname;

use super::failure::{CommandError, CommandResult};
use super::machines::load;
use super::selection::Selection;
use super::terminal::HumanDuration;
use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::machine::{Machine, SharedPool};
use crate::machine_file::{Fallback, Pool};
use crate::shared;
use crate::state::health::{self, Time};
use crate::state::shared_pool::{SharedDrain, SharedRecord};
use crate::state::{Drain, Drained, Slots, StateDirectory, StateError};

/// The longest time that can be given: a year.
const MAX_DRAIN_SECONDS: u64 = 366 * 24 * 3600;

/// Parses a time such as `90s`, `30m`, `2h` or `1d`. A number without a unit is an error: it could mean any of them.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((last, 's')) => (&text[..last], 1),
        Some((last, 'm')) => (&text[..last], 60),
        Some((last, 'h')) => (&text[..last], 3600),
        Some((last, 'd')) => (&text[..last], 24 * 3600),
        _ => (text, 0),
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
    hosts: HostArgs,
}

#[derive(Debug, clap::Args)]
pub struct UndrainArgs {
    #[command(flatten)]
    hosts: HostArgs,
}

#[derive(Debug, clap::Args)]
struct HostArgs {
    #[command(flatten)]
    selection: Selection,
    /// All machines of the machine file.
    #[arg(long)]
    all: bool,
}

impl DrainArgs {
    /// Returns the machine file, if one is named.
    pub fn machine_file(&self) -> Option<&Path> {
        self.hosts.selection.machine_file()
    }
}

impl UndrainArgs {
    /// Returns the machine file, if one is named.
    pub fn machine_file(&self) -> Option<&Path> {
        self.hosts.selection.machine_file()
    }
}

impl HostArgs {
    fn load(&self, engine: &Engine) -> Result<Pool, CommandError> {
        match (self.all, self.selection.names().next()) {
            (false, _) => self.selection.require_names()?,
            (true, None) => {}
            (true, Some(_)) => {
                return Err(CommandError::new(ExitStatus::Usage, "name machines or give --all, not both"));
            }
        }
        Ok(load(self.selection.one_machine_file()?, engine)?.1)
    }
}

/// Runs `offload drain`.
pub fn drain(args: &DrainArgs, engine: &Engine, messages: &mut dyn Write) -> CommandResult {
    let pool = args.hosts.load(engine)?;
    let hosts = args.hosts.selection.hosts(&pool)?;
    let result = drain_hosts(&hosts, args.time, &engine.state, messages);
    for_all_heads(&pool, messages, |shared| {
        let head = uname().nodename().to_string_lossy().into_owned();
        shared::drain(shared, &addresses(&hosts), &head, args.time)
    });
    let systems = systems_without_machine(&pool, &hosts, &engine.state);
    if !systems.is_empty() {
        let consequence = match pool.settings.when_busy {
            Some(Fallback::Wait) => "such builds wait",
            Some(Fallback::Local) => "such builds run on this machine if it can build them, and wait otherwise",
            None => "`when_busy` of the machine file decides whether such builds wait",
        };
        let systems = systems.join(", ");
        let _ = writeln!(messages, "offload: warning: no machine is left for {systems}; {consequence}");
    }
    result
}

/// Returns the systems of `hosts` for which every enabled machine of the pool is drained.
fn systems_without_machine<'a>(pool: &'a Pool, hosts: &[&Machine], state: &StateDirectory) -> Vec<&'a str> {
    let is_drained =
        |machine: &Machine| Drain::of(state, machine).is_ok_and(|drain| drain.read(health::now()).is_some());
    let enabled = || pool.machines.iter().map(|entry| &entry.machine).filter(|machine| machine.enabled);
    let remaining: BTreeSet<&String> =
        enabled().filter(|machine| !is_drained(machine)).flat_map(|machine| &machine.systems).collect();
    let is_named = |machine: &&Machine| hosts.iter().any(|host| host.address() == machine.address());
    let systems: BTreeSet<&String> = enabled().filter(is_named).flat_map(|machine| &machine.systems).collect();
    systems.difference(&remaining).map(|system| system.as_str()).collect()
}

/// Runs `offload undrain`.
pub fn undrain(args: &UndrainArgs, engine: &Engine, messages: &mut dyn Write) -> CommandResult {
    let pool = args.hosts.load(engine)?;
    let hosts = args.hosts.selection.hosts(&pool)?;
    let Some(shared) = &pool.settings.shared else { return undrain_hosts(&hosts, &[], &engine.state, messages) };
    // This head need not wait until a build hears of it, nor until the database can be reached.
    let mut drained = forget_drains(&hosts, shared, &engine.state).map_err(CommandError::failure)?;
    let result = shared::undrain(shared, &addresses(&hosts)).map(|hosts| drained.extend(hosts));
    undrain_hosts(&hosts, &drained, &engine.state, messages)?;
    result.map(|()| ExitStatus::Success).map_err(|error| {
        let message = format!("drained machines stay drained for all heads of the pool '{}': {error}", shared.name);
        let hint = "repeat `offload undrain` when the database can be used; until then, only this head uses them";
        CommandError::failure(message).with_hint(Some(hint.to_owned()))
    })
}

/// Forgets that heads have drained these hosts for all. Returns those that were drained.
fn forget_drains(hosts: &[&Machine], shared: &SharedPool, state: &StateDirectory) -> Result<Vec<String>, StateError> {
    let is_named = |drain: &SharedDrain| hosts.iter().any(|host| host.address() == drain.host);
    let mut drained = Vec::new();
    SharedRecord::of(state, shared)?.change(|known| {
        drained = known.drains.extract_if(.., |drain| is_named(drain)).map(|drain| drain.host).collect();
    })?;
    Ok(drained)
}

/// Makes a change in the database, if other heads share the pool. This head is changed already, so an error is a warning.
fn for_all_heads(pool: &Pool, messages: &mut dyn Write, change: impl FnOnce(&SharedPool) -> Result<(), shared::Error>) {
    let Some(shared) = &pool.settings.shared else { return };
    if let Err(error) = change(shared) {
        let warning = format!("the other heads of the pool '{}' do not know of it: {error}", shared.name);
        let _ = writeln!(messages, "offload: warning: {warning}");
    }
}

fn addresses(hosts: &[&Machine]) -> Vec<String> {
    hosts.iter().map(|host| host.address()).collect()
}

/// Drains machines, for `time` or until they are undrained.
fn drain_hosts(
    hosts: &[&Machine],
    time: Option<Duration>,
    state: &StateDirectory,
    messages: &mut dyn Write,
) -> CommandResult {
    each_host(hosts, messages, |machine| {
        let since = health::now();
        let until = time.map(|time| since + time.as_millis() as Time);
        Drain::of(state, machine)?.set(&Drained { since, until })?;
        let until = time.map_or(format!("until `offload undrain {}`", machine.name), |time| {
            format!("for {}", HumanDuration(time.as_secs()))
        });
        let running = match Slots::of(state, machine)?.taken()?.len() {
            0 => "no build is running".to_owned(),
            1 => "1 running build continues".to_owned(),
            count => format!("{count} running builds continue"),
        };
        Ok(format!("{}: drained {until}; {running}", machine.address()))
    })
}

/// Undrains machines. Those of `drained` were drained for all heads.
fn undrain_hosts(
    hosts: &[&Machine],
    drained: &[String],
    state: &StateDirectory,
    messages: &mut dyn Write,
) -> CommandResult {
    each_host(hosts, messages, |machine| {
        let drain = Drain::of(state, machine)?;
        let was_drained = drain.read(health::now()).is_some() || drained.contains(&machine.address());
        drain.clear()?;
        let result = if was_drained { "undrained" } else { "was not drained" };
        Ok(format!("{}: {result}", machine.address()))
    })
}

/// Changes each host, and prints the result of `change`.
fn each_host(
    hosts: &[&Machine],
    messages: &mut dyn Write,
    change: impl Fn(&Machine) -> Result<String, StateError>,
) -> CommandResult {
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
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("2h", 7200), ("1d", 86400)] {
            assert_eq!(parse_time(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "h", "0", "2", "90", "0s", "-1h", "1.5h", "2 h", "367d", "99999999999999999999d", "2ü"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_drain_and_its_undo_are_reported() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        let machine = |port| Machine { port, ..Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new()) };
        let (one, other) = (machine(22), machine(23));
        let is_out = |machine| Drain::of(&state, machine).unwrap().read(health::now()).is_some();
        let mut output = Vec::new();
        let done = Ok(ExitStatus::Success);
        assert_eq!(drain_hosts(&[&one], Some(Duration::from_secs(60)), &state, &mut output), done);
        assert!(is_out(&one) && !is_out(&other));
        assert_eq!(drain_hosts(&[&one, &other], None, &state, &mut output), done);
        assert!(is_out(&one) && is_out(&other));
        assert_eq!(undrain_hosts(&[&one, &other], &[], &state, &mut output), done);
        assert_eq!(undrain_hosts(&[&other], &[], &state, &mut output), done);
        assert!(!is_out(&one) && !is_out(&other));
        // Another head has drained it.
        assert_eq!(undrain_hosts(&[&other], &["b1:23".to_owned()], &state, &mut output), done);
        assert_eq!(
            String::from_utf8(output).unwrap(),
            "b1:22: drained for 1 min; no build is running\n\
             b1:22: drained until `offload undrain b1`; no build is running\n\
             b1:23: drained until `offload undrain b1`; no build is running\n\
             b1:22: undrained\nb1:23: undrained\nb1:23: was not drained\nb1:23: undrained\n"
        );
    }
}
