//! `offload report -o FILE.html` writes a page about the builds of this head: one file that needs no network, no server and no
//! script.
//!
//! It reads the history and the records about the machines of the machine file, and contacts no machine. If the machine file
//! cannot be used, the page says so, and has the rest.

mod builds;
mod causes;
mod page;
mod pool;
mod table;
mod waiting;

use std::path::{Path, PathBuf};

use self::page::Report;
use super::failure::{CommandError, CommandResult};
use super::history::time;
use super::history_file::Destination;
use super::machine_records::machines;
use super::machines::{MachineFileArgs, load};
use super::pictures::units::date;
use crate::engine::Engine;
use crate::state::health::{self, Time};
use crate::state::history::Filter;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file to write; -: standard output.
    #[arg(long, short, value_name = "FILE.html")]
    output: PathBuf,
    /// Only attempts on this machine: its name, or NAME:PORT if the port is not 22. It may be a pattern.
    #[arg(long, value_name = "NAME")]
    machine: Option<String>,
    /// Only builds that this user's commands requested.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only what ended since TIME: so long ago, such as 2h or 30d, or a date such as 2026-11-30 or 2026-11-30T14:00 (UTC).
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    since: Option<time::Moment>,
    /// Only what ended before TIME.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    until: Option<time::Moment>,
    #[command(flatten)]
    destination: Destination,
    #[command(flatten)]
    machine_file: MachineFileArgs,
}

impl Args {
    /// Returns the machine file, if one is named.
    pub fn machine_file(&self) -> Option<&Path> {
        self.machine_file.named()
    }

    /// Returns the file that the command writes.
    pub fn file(&self) -> &Path {
        &self.output
    }

    /// Returns the filter at the time `now`.
    fn filter(&self, now: Time) -> Filter {
        Filter {
            machine: self.machine.clone(),
            user: self.user.clone(),
            since: self.since.map(|since| since.at(now)),
            until: self.until.map(|until| until.at(now)),
            ..Filter::default()
        }
    }
}

/// Writes the page.
pub fn run(args: &Args, engine: &Engine) -> CommandResult {
    let now = health::now();
    let filter = args.filter(now);
    let rows = engine.history().rows(&filter).map_err(CommandError::failure)?;
    // Printed errors of the machine file would be no reason to miss the page.
    let pool = load(args.machine_file(), engine).map_err(|error| error.message());
    let report = Report {
        rows: &rows,
        machines: pool.map(|(_, pool)| machines(&pool, &engine.state, now)),
        filters: filters(&filter),
        since: filter.since,
        now,
        version: env!("CARGO_PKG_VERSION"),
    };
    args.destination.write(&args.output, |out| out.write_all(page::text(&report).as_bytes()))
}

/// Returns the conditions for people.
fn filters(filter: &Filter) -> Vec<String> {
    let named = |what: &str, value: &Option<String>| value.as_ref().map(|value| format!("{what} '{value}'"));
    let timed = |what: &str, time: Option<Time>| time.map(|time| format!("what ended {what} {} UTC", date(time)));
    let all = [
        named("attempts on", &filter.machine),
        named("requests of the user", &filter.user),
        timed("since", filter.since),
        timed("before", filter.until),
    ];
    all.into_iter().flatten().collect()
}
