//! `offload history [NAME]` lists builds and requests that were not accepted, with filters, and `--summary` adds them up by
//! machine. The output is a table for people, JSON, or records for recutils; `--timeline` writes a picture to a file.
//!
//! The history is read as the owner of the state. No machine is contacted, and no machine file is evaluated.

mod power;
mod table;
pub(super) mod time;
mod timeline;

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

use log::debug;
use serde::Serialize;

use super::failure::{CommandError, CommandResult};
use super::format::{Format, FormatArgs};
use super::history_file::Destination;
use super::records;
use super::terminal::{Terminal, write_json};
use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::own_executable;
use crate::state::health::{self, Time};
use crate::state::history::{
    Filter, History, MachineSummary, Outcome, PowerRow, PowerSummary, Row, summarize, summarize_power,
};

/// The version of the JSON form. It changes when a field is removed or changes its meaning; new fields may appear.
const JSON_VERSION: u32 = 1;

/// The number of rows in a table, unless another one is given.
const TABLE_ROWS: u64 = 40;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this derivation: its file name, or its name, with or without its version. A name may be a pattern, such as
    /// 'python-*'.
    name: Option<String>,
    /// Only attempts on this machine: its name, or NAME:PORT if the port is not 22. It may be a pattern.
    #[arg(long, value_name = "NAME")]
    machine: Option<String>,
    /// Only builds that this user's commands requested.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only this outcome; may be repeated.
    #[arg(long, value_name = "OUTCOME", value_parser = parse_outcome)]
    outcome: Vec<Outcome>,
    /// Only what failed.
    #[arg(long, conflicts_with = "outcome")]
    failed: bool,
    /// Only what ended since TIME: so long ago, such as 2h or 30d, or a date such as 2026-11-30 or 2026-11-30T14:00 (UTC).
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    since: Option<time::Moment>,
    /// Only what ended before TIME.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    until: Option<time::Moment>,
    /// Only the last NUMBER; 0: all. A table has the last 40, if this is not given.
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// Print the sums of each machine instead.
    #[arg(long)]
    summary: bool,
    /// Write a timeline of the slots to FILE instead: a trace for viewers such as Perfetto if its name ends in .json, or a
    /// picture if it ends in .svg.
    #[arg(long, value_name = "FILE", value_parser = timeline::parse, conflicts_with_all = ["summary", "format", "json"])]
    timeline: Option<timeline::Timeline>,
    #[command(flatten)]
    destination: Destination,
    #[command(flatten)]
    format: FormatArgs,
}

fn parse_outcome(word: &str) -> Result<Outcome, String> {
    let all = || Outcome::ALL.iter().map(|outcome| outcome.word()).collect::<Vec<_>>().join(", ");
    Outcome::parse(word).ok_or_else(|| format!("expected one of: {}", all()))
}

impl Args {
    /// Returns the file that the command writes, if it writes one.
    pub fn file(&self) -> Option<&Path> {
        self.timeline.as_ref().map(|timeline| timeline.file.as_path())
    }

    /// Returns the rows of machines on demand; none if only certain builds are wanted.
    fn power_rows(&self, engine: &Engine, filter: &Filter) -> Result<Vec<PowerRow>, CommandError> {
        match self.name.is_some() || self.user.is_some() || self.failed || !self.outcome.is_empty() {
            true => Ok(Vec::new()),
            false => engine.history().power_rows(filter).map_err(CommandError::failure),
        }
    }

    /// Returns the filter at the time `now`.
    fn filter(&self, now: Time) -> Filter {
        let failures = || Outcome::ALL.iter().copied().filter(|outcome| outcome.is_failure()).collect();
        let limit = match (self.limit, self.format.get()) {
            (Some(0), _) => None,
            (Some(limit), _) => Some(limit),
            (None, Format::Text) if !self.summary && self.timeline.is_none() => Some(TABLE_ROWS),
            (None, _) => None,
        };
        Filter {
            name: self.name.clone(),
            machine: self.machine.clone(),
            user: self.user.clone(),
            outcomes: if self.failed { failures() } else { self.outcome.clone() },
            since: self.since.map(|since| since.at(now)),
            until: self.until.map(|until| until.at(now)),
            limit,
        }
    }
}

/// The whole output, in the form of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    /// Milliseconds since 1970.
    time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    builds: Option<&'a [Row]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    machines: Option<&'a [MachineSummary]>,
    /// Only of machines on demand.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    power: &'a [PowerSummary],
}

/// Has another process move the write-ahead log of the history, if it has grown. This process does not wait for it: the
/// command moves it before it reads.
pub fn checkpoint_in_background(history: &History) {
    if !history.needs_checkpoint() {
        return;
    }
    let mut command = own_executable::command("offload");
    command.args(["history", "--limit=1"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // A signal of the daemon to the hook's group does not end it.
    if let Err(error) = command.process_group(0).spawn() {
        debug!("no process for the history: {error}");
    }
}

/// Prints the history.
pub fn run(args: &Args, engine: &Engine) -> CommandResult {
    let now = health::now();
    let filter = args.filter(now);
    let rows = engine.history().rows(&filter).map_err(CommandError::failure)?;
    if let Some(timeline) = &args.timeline {
        return args.destination.write(&timeline.file, |out| timeline.write(&rows, &filter, out));
    }
    let mut text = Vec::new();
    let written = if args.summary {
        let from = filter.since.or(rows.iter().map(|row| row.started).min()).unwrap_or(now);
        let machines = summarize(&rows, (from, filter.until.unwrap_or(now).min(now)));
        let power = summarize_power(&args.power_rows(engine, &filter)?);
        match args.format.get() {
            Format::Text => table::write_summary(&rows, &machines, Terminal::of_stdout(), &mut text)
                .and_then(|()| power::write(&power, Terminal::of_stdout(), &mut text)),
            Format::Recutils => write_records(&machines, &mut text).and_then(|()| write_records(&power, &mut text)),
            Format::Json => {
                let report =
                    Report { version: JSON_VERSION, time: now, builds: None, machines: Some(&machines), power: &power };
                write_json(&report, true, &mut text)
            }
        }
    } else {
        match args.format.get() {
            Format::Text => table::write(&rows, now, Terminal::of_stdout(), &mut text),
            Format::Recutils => write_records(&rows, &mut text),
            Format::Json => {
                let report =
                    Report { version: JSON_VERSION, time: now, builds: Some(&rows), machines: None, power: &[] };
                write_json(&report, true, &mut text)
            }
        }
    };
    written
        .and_then(|()| io::stdout().lock().write_all(&text))
        .map_err(|error| CommandError::output("the history", &error))?;
    Ok(ExitStatus::Success)
}

fn write_records(objects: &[impl Serialize], out: &mut impl Write) -> io::Result<()> {
    objects.iter().try_for_each(|object| records::write_record(&records::fields(object)?, out))
}
