//! The explanation as text. One build: a row for each machine, with details below it, and the consequence. Several
//! builds: a line for each, and how many go where.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::forecast::transfer_note;
use super::report::{BuildReport, Explained};
use crate::commands::machines::{failure_count, substitute_note};
use crate::commands::terminal::{HumanDuration, Terminal, plain};
use crate::state::health::{self, Time};
use crate::text::printable;

/// The longest reason for a rejection, in bytes.
const MAX_REASON_BYTES: usize = 8 << 10;

/// The column of the lines below a row.
const INDENT: usize = 4;

/// Prints the explanation.
pub fn print(report: &BuildReport<'_>, out: &mut impl Write) -> io::Result<()> {
    let terminal = Terminal::of_stdout();
    let features = if report.request.features.is_empty() { "none" } else { &report.request.features.join(", ") };
    writeln!(out, "system {}, required features: {features}", report.request.system)?;
    if report.machines.is_empty() {
        writeln!(out, "the machine file has no build machines")?;
    }
    for machine in &report.machines {
        print_machine(out, machine, &terminal)?;
    }
    if let Some(score) = report.head {
        writeln!(out, "  the head itself  score {score:.3}")?;
    }
    if let Some(estimate) = &report.head_estimated {
        writeln!(out, "    {}", terminal.wrap(INDENT, estimate))?;
    }
    writeln!(out, "→ {}", terminal.wrap(2, &report.outcome))
}

fn print_machine(out: &mut impl Write, machine: &Explained<'_>, terminal: &Terminal) -> io::Result<()> {
    let score = machine.score.map_or("-".to_owned(), |score| format!("{score:.3}"));
    let verdict = match (machine.verdict, &machine.reason) {
        ("ready", _) => "can take it".to_owned(),
        ("unknown", _) => "not checked recently; checked before use".to_owned(),
        (_, Some(reason)) => printable(reason, MAX_REASON_BYTES),
        (_, None) => String::new(),
    };
    let row = format!("{} {}:{}  score {score}  {verdict}", machine.mark, machine.name, machine.port);
    let mut lines = row.split('\n');
    // The first line begins two columns to the left of the others.
    let first = lines.next().unwrap_or_default();
    let has_room = terminal.width.is_none_or(|width| first.chars().count() <= width);
    writeln!(out, "{}", if has_room { first.to_owned() } else { terminal.wrap(INDENT, first) })?;
    lines.try_for_each(|line| writeln!(out, "    {}", terminal.wrap(INDENT, line)))?;
    let mut detail = |text: String| writeln!(out, "    {}", terminal.wrap(INDENT, &text));
    if let Some(estimate) = &machine.estimated {
        detail(estimate.clone())?;
    }
    for holder in machine.holders.iter().flatten() {
        let time = span(health::now().saturating_sub(holder.since.saturating_mul(1000)));
        detail(format!("a slot is held by process {} for {time}: {}", holder.pid, holder.derivation))?;
    }
    if let Some(failures) = &machine.failures {
        let since = span(health::now().saturating_sub(failures.since));
        detail(failure_count(failures.count, &since).to_string())?;
    }
    if let Some(until) = machine.drained.and_then(|drained| drained.until) {
        detail(format!("drained for {} more", span(until.saturating_sub(health::now()))))?;
    }
    if let Some(note) = substitute_note(&machine.substitutes) {
        detail(note.to_string())?;
    }
    if let Some(forecast) = machine.transfer {
        detail(transfer_note(forecast).to_string())?;
    }
    Ok(())
}

fn span(milliseconds: Time) -> HumanDuration {
    HumanDuration(milliseconds / 1000)
}

/// Prints a line for each build, and the sums.
pub fn print_plan(builds: &[BuildReport<'_>], out: &mut impl Write) -> io::Result<()> {
    let mut sums: BTreeMap<String, usize> = BTreeMap::new();
    for build in builds {
        let derivation = build.request.derivation.unwrap_or_default();
        writeln!(out, "{}  → {}", plain(derivation), build.outcome)?;
        let place = match (build.machine, build.reply) {
            (Some(machine), _) => format!("on {machine}"),
            (None, "decline") if build.outcome.starts_with("not built") => "not built".to_owned(),
            (None, "decline") => "on this machine".to_owned(),
            (None, _) => "waiting".to_owned(),
        };
        *sums.entry(place).or_default() += 1;
    }
    let sums: Vec<String> = sums.into_iter().map(|(place, count)| format!("{count} {place}")).collect();
    writeln!(out, "{} builds: {}", builds.len(), sums.join(", "))
}
