//! `offload status [NAME…]`: probes the build machines concurrently, and prints their status.
//!
//! The output is a table for people, JSON, or records for recutils; once, or repeatedly. The table omits columns that
//! do not fit into the terminal. The exit status is that of `offload test`: 0 if all machines respond, 4 if some do, 1
//! if none does, 3 if the machine file cannot be used, 5 if no machine matches. A live view ends with 0, on SIGINT or
//! SIGTERM.
//!
//! A machine that responds is recorded as reached, so that the build hook uses it again at once.

mod queue;
mod records;
mod snapshot;
mod source;
mod summary;
mod table;
mod watch;

use std::io::{self, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::drain::parse_time;
use super::failure::{CommandError, CommandResult};
use super::format::{Format, FormatArgs};
use super::machines::{load, verdict};
use super::selection::Selection;
use super::terminal::{Terminal, write_json};
use crate::engine::Engine;
use crate::exit::ExitStatus;
use queue::OtherBuilds;
use snapshot::MachineSnapshot;
use source::SnapshotSource;

impl Args {
    /// Returns the machine file, if one is named.
    pub fn machine_file(&self) -> Option<&Path> {
        self.selection.machine_file()
    }

    /// Returns the interval that somebody wrote as `--watch 2`, which names a machine.
    fn interval_as_name(&self) -> Option<String> {
        self.watch?;
        let name = self.selection.names().find(|name| name.starts_with(|first: char| first.is_ascii_digit()))?;
        Some(if name.parse::<u64>().is_ok() { format!("{name}s") } else { name.to_owned() })
    }
}

/// The version of the JSON form. It changes when a field is removed or changes its meaning; new fields may appear.
const JSON_VERSION: u32 = 1;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    format: FormatArgs,
    /// Print one line, such as for a prompt, from the records of this machine: no machine is contacted.
    #[arg(long, conflicts_with_all = ["format", "json", "watch"])]
    summary: bool,
    /// Repeat the output until interrupted, on a terminal in place; every 5 s, or as often as TIME says.
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "5s", value_parser = parse_time)]
    watch: Option<Duration>,
}

/// The whole output, in the form of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    file: String,
    /// Seconds since 1970.
    time: u64,
    machines: &'a [MachineSnapshot],
    #[serde(flatten)]
    others: &'a OtherBuilds,
}

/// Probes the machines, and prints their status.
pub fn run(args: &Args, engine: &Engine) -> CommandResult {
    let (path, pool) = load(args.selection.one_machine_file()?, engine)?;
    let machines = args.selection.hosts(&pool).map_err(|error| match args.interval_as_name() {
        Some(time) => error.with_hint(Some(format!("the interval follows an equals sign: --watch={time}"))),
        None => error,
    })?;
    let mut sources: Vec<SnapshotSource> =
        machines.into_iter().map(|machine| SnapshotSource::new(machine, engine)).collect();
    if args.summary {
        let recorded: Vec<MachineSnapshot> = sources.iter().map(SnapshotSource::recorded).collect();
        writeln!(io::stdout(), "{}", summary::line(&recorded, queue::queued(engine).len()))
            .map_err(|error| CommandError::output("the status", &error))?;
        return Ok(verdict(recorded.iter().filter(|machine| summary::is_usable(machine)).count(), recorded.len()));
    }
    let format = args.format.get();
    let Some(interval) = args.watch else {
        let snapshot = snapshot(&mut sources);
        let mut text = Vec::new();
        let others = queue::read(engine);
        write(format, &path, (&snapshot, &others), Terminal::of_stdout(), false, &mut text)
            .and_then(|()| io::stdout().lock().write_all(&text))
            .map_err(|error| CommandError::output("the status", &error))?;
        return Ok(verdict(snapshot.iter().filter(|snapshot| snapshot.reachable).count(), snapshot.len()));
    };
    watch::run(interval, format == Format::Text, |terminal, text| {
        write(format, &path, (&snapshot(&mut sources), &queue::read(engine)), terminal, true, text)
    })
    .map_err(|error| CommandError::output("the status", &error))?;
    Ok(ExitStatus::Success)
}

/// Takes snapshots of all machines concurrently.
fn snapshot(sources: &mut [SnapshotSource<'_>]) -> Vec<MachineSnapshot> {
    thread::scope(|scope| {
        let sources: Vec<_> = sources.iter_mut().map(|snapshot| scope.spawn(|| snapshot.snapshot())).collect();
        // A panic has printed its message; the other machines are shown.
        sources.into_iter().filter_map(|snapshot| snapshot.join().ok()).collect()
    })
}

fn write(
    format: Format,
    path: &Path,
    (snapshot, others): (&[MachineSnapshot], &OtherBuilds),
    terminal: Terminal,
    is_repeated: bool,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    match format {
        Format::Text => table::write(path, snapshot, others, now(), terminal, out),
        Format::Recutils => records::write(snapshot, out),
        Format::Json => {
            let report = Report {
                version: JSON_VERSION,
                file: path.display().to_string(),
                time: now(),
                machines: snapshot,
                others,
            };
            write_json(&report, !is_repeated, out)
        }
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}
