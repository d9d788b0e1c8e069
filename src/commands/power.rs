//! `offload start NAME…`, `offload stop NAME…` and `offload reap`: start and stop machines on demand.
//!
//! Hooks run `offload start` when a build needs a machine, and `offload reap` after a build. `offload install` sets up a
//! timer for `offload reap`.

mod as_daemon;
mod launch;

pub use as_daemon::run as reap_as_daemon;
pub use launch::{by_process, reap_by_process, spawn};

use std::io::Write;
use std::path::Path;

use super::failure::{CommandError, CommandResult};
use super::machines::{MachineFileArgs, load, verdict};
use super::selection::Selection;
use super::terminal::HumanDuration;
use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::machine_file::Pool;
use crate::power::{self, Head, PowerError};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
    /// A machine by its NAME:PORT alone. If another process starts it, this one ends and prints nothing. For build hooks.
    #[arg(long, value_name = "NAME:PORT", hide = true, conflicts_with = "words")]
    exactly: Option<String>,
}

impl Args {
    /// Returns the machine file, if one is named.
    pub fn machine_file(&self) -> Option<&Path> {
        self.selection.machine_file()
    }

    /// Returns the indices of the machines that are named, each host once.
    fn machines(&self, pool: &Pool) -> Result<Vec<usize>, CommandError> {
        let index_of = |address: &str| pool.machines.iter().position(|entry| entry.machine.address() == address);
        if let Some(address) = &self.exactly {
            return Ok(index_of(address).into_iter().collect());
        }
        self.selection.require_names()?;
        let hosts = self.selection.hosts(pool)?;
        Ok(hosts.iter().filter_map(|machine| index_of(&machine.address())).collect())
    }
}

#[derive(Debug, clap::Args)]
pub struct ReapArgs {
    #[command(flatten)]
    file: MachineFileArgs,
    /// Runs with the variables of the unit guix-daemon.service. For the timer.
    #[arg(long, hide = true, conflicts_with = "machine_file")]
    pub as_daemon: bool,
}

impl ReapArgs {
    /// Returns the machine file, if one is named.
    pub fn machine_file(&self) -> Option<&Path> {
        self.file.named()
    }
}

/// Runs `offload start`.
pub fn start(args: &Args, engine: &Engine, messages: &mut dyn Write) -> CommandResult {
    each(args, engine, messages, |head, index| {
        let result = power::start(head, index);
        match result {
            // The build that launched this waits for that start.
            Err(PowerError::Changing) if args.exactly.is_some() => Ok(None),
            result => result.map(|took| {
                Some(took.map_or("it runs already".to_owned(), |took| {
                    format!("started within {}", HumanDuration(took.as_secs()))
                }))
            }),
        }
    })
}

/// Runs `offload stop`.
pub fn stop(args: &Args, engine: &Engine, messages: &mut dyn Write) -> CommandResult {
    each(args, engine, messages, |head, index| {
        Ok(Some(if power::stop(head, index)? { "stopped" } else { "it was off" }.to_owned()))
    })
}

/// Runs `offload reap`.
pub fn reap(args: &ReapArgs, engine: &Engine, messages: &mut dyn Write) -> CommandResult {
    let (_, pool) = load(args.machine_file(), engine)?;
    let (reaped, lost) = power::reap(head(engine, &pool));
    let mut errors = Vec::new();
    for one in &reaped {
        match &one.result {
            Ok(()) => drop(writeln!(messages, "{}: stopped", one.machine)),
            Err(error) => errors.push(format!("{}: {error}", one.machine)),
        }
    }
    for machine in lost {
        let _ = writeln!(
            messages,
            "offload: warning: {machine} was started on demand and is no longer in the machine file; stop it yourself"
        );
    }
    if errors.is_empty() { Ok(ExitStatus::Success) } else { Err(CommandError::failure(errors.join("\n"))) }
}

fn head<'a>(engine: &'a Engine, pool: &'a Pool) -> Head<'a> {
    Head { pool, state: &engine.state, store: &engine.directories.store }
}

/// Changes each machine, one after the other, and prints the result.
fn each(
    args: &Args,
    engine: &Engine,
    messages: &mut dyn Write,
    change: impl Fn(Head<'_>, usize) -> Result<Option<String>, PowerError>,
) -> CommandResult {
    let (_, pool) = load(args.selection.one_machine_file()?, engine)?;
    let machines = args.machines(&pool)?;
    let mut errors = Vec::new();
    for &index in &machines {
        let address = pool.machines[index].machine.address();
        match change(head(engine, &pool), index) {
            // If standard error cannot be written, no message can be printed.
            Ok(line) => line.into_iter().for_each(|line| drop(writeln!(messages, "{address}: {line}"))),
            Err(error) => errors.push(format!("{address}: {error}")),
        }
    }
    match errors.is_empty() {
        true => Ok(ExitStatus::Success),
        false => Err(CommandError::new(verdict(machines.len() - errors.len(), machines.len()), errors.join("\n"))),
    }
}
