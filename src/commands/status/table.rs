//! The table for people: a line for each machine, then the builds that run, then what else is to be said.
//!
//! Where the terminal is too narrow for all columns the least important ones are left out, and named below. Numbers
//! stand to the right. Without a terminal, nothing is left out.

use std::io::{self, Write};
use std::path::Path;

use super::look::{Build, Seen, State};
use crate::commands::terminal::{Colour, Span, Terminal, plain};
use crate::events::Bytes;

/// Between two columns.
const GAP: usize = 2;

/// A column of the table.
struct Column {
    heading: &'static str,
    /// 0 is never left out; the highest goes first.
    rank: usize,
    is_number: bool,
    cell: fn(&Seen) -> Option<String>,
}

const COLUMNS: [Column; 13] = [
    Column { heading: "NAME", rank: 0, is_number: false, cell: |seen| Some(label(seen)) },
    Column { heading: "STATE", rank: 0, is_number: false, cell: |seen| Some(seen.state.word().to_owned()) },
    Column { heading: "SLOTS", rank: 0, is_number: true, cell: slots },
    Column { heading: "LOAD", rank: 1, is_number: true, cell: load },
    Column { heading: "DISK", rank: 2, is_number: true, cell: |seen| seen.free_disk.map(size) },
    Column { heading: "MEMORY", rank: 3, is_number: true, cell: |seen| seen.free_memory.map(size) },
    Column { heading: "PRESSURE", rank: 4, is_number: true, cell: pressure },
    Column {
        heading: "CLOCK",
        rank: 5,
        is_number: true,
        cell: |seen| seen.clock_skew.map(|skew| format!("{skew:+.0} s")),
    },
    Column { heading: "GUIX", rank: 6, is_number: false, cell: |seen| seen.guix.clone() },
    Column { heading: "ARCH", rank: 7, is_number: false, cell: |seen| seen.architecture.clone() },
    Column { heading: "UP", rank: 10, is_number: true, cell: |seen| seen.uptime.map(|time| Span(time).to_string()) },
    Column { heading: "KERNEL", rank: 8, is_number: false, cell: |seen| seen.kernel.clone() },
    Column { heading: "HOST", rank: 9, is_number: false, cell: |seen| seen.host_name.clone() },
];

/// Writes the table to `out`, which is `terminal`. `now` is in seconds since 1970.
pub fn write(path: &Path, machines: &[Seen], now: u64, terminal: Terminal, out: &mut impl Write) -> io::Result<()> {
    if machines.is_empty() {
        return writeln!(out, "no build machines in '{}'", path.display());
    }
    write_machines(machines, terminal, out)?;
    if machines.iter().any(|seen| !seen.builds.is_empty()) {
        writeln!(out)?;
        write_builds(machines, now, terminal, out)?;
    }
    let notes: Vec<String> = machines.iter().flat_map(|seen| notes(seen, now, terminal)).collect();
    if !notes.is_empty() {
        writeln!(out)?;
    }
    notes.iter().try_for_each(|note| writeln!(out, "{note}"))
}

fn write_machines(machines: &[Seen], terminal: Terminal, out: &mut impl Write) -> io::Result<()> {
    let cell = |column: &Column, seen| plain(&(column.cell)(seen).unwrap_or_else(|| "-".to_owned())).into_owned();
    let width = |column: &Column| {
        machines.iter().map(|seen| cell(column, seen).chars().count()).chain([column.heading.len()]).max().unwrap_or(0)
    };
    let mut shown: Vec<(&Column, usize)> = COLUMNS.iter().map(|column| (column, width(column))).collect();
    let mut left_out = Vec::new();
    while total(&shown) > terminal.width.unwrap_or(usize::MAX) {
        let Some(last) = (0..shown.len()).max_by_key(|&at| shown[at].0.rank).filter(|&at| shown[at].0.rank > 0) else {
            break;
        };
        left_out.push(shown.remove(last).0.heading);
    }
    let line = |cells: Vec<String>, state: Option<State>| {
        let mut line = String::new();
        for ((column, width), text) in shown.iter().zip(cells) {
            let padding = " ".repeat(width.saturating_sub(text.chars().count()));
            let colour = match (state, column.heading) {
                (Some(state), "STATE") => Some(colour(state)),
                (None, _) => Some(Colour::Heading),
                _ => None,
            };
            let text = colour.map_or(text.clone(), |colour| terminal.paint(colour, &text));
            let cell = if column.is_number { padding + &text } else { text + &padding };
            if !line.is_empty() {
                line.extend([" "; GAP]);
            }
            line.push_str(&cell);
        }
        line.trim_end().to_owned()
    };
    writeln!(out, "{}", line(shown.iter().map(|(column, _)| column.heading.to_owned()).collect(), None))?;
    for seen in machines {
        writeln!(out, "{}", line(shown.iter().map(|(column, _)| cell(column, seen)).collect(), Some(seen.state)))?;
    }
    if !left_out.is_empty() {
        left_out.reverse();
        let note = format!("(too narrow for {}; --format=recutils has all)", left_out.join(", "));
        writeln!(out, "{}", terminal.wrap(0, &note))?;
    }
    Ok(())
}

fn total(shown: &[(&Column, usize)]) -> usize {
    shown.iter().map(|(_, width)| width + GAP).sum::<usize>().saturating_sub(GAP)
}

fn colour(state: State) -> Colour {
    match state {
        State::Ready => Colour::Good,
        State::Busy | State::Drained | State::Disabled | State::Overloaded => Colour::Doubtful,
        State::Unreachable | State::DiskLow => Colour::Bad,
    }
}

fn write_builds(machines: &[Seen], now: u64, terminal: Terminal, out: &mut impl Write) -> io::Result<()> {
    let builds: Vec<(&Seen, &Build)> =
        machines.iter().flat_map(|seen| seen.builds.iter().map(move |build| (seen, build))).collect();
    let name_width = builds.iter().map(|(seen, _)| label(seen).chars().count()).max().unwrap_or(0).max("MACHINE".len());
    let heading = format!("{:name_width$}  {:>4}  {:>10}  {:>7}  DERIVATION", "MACHINE", "SLOT", "FOR", "PROCESS");
    writeln!(out, "{}", terminal.paint(Colour::Heading, &heading))?;
    for (seen, build) in builds {
        let age = build.since.map_or("-".to_owned(), |since| Span(now.saturating_sub(since)).to_string());
        let pid = build.pid.map_or("-".to_owned(), |pid| pid.to_string());
        let line = format!("{:name_width$}  {:>4}  {age:>10}  {pid:>7}  ", label(seen), build.slot);
        let derivation = build.derivation.as_deref().map_or("-".into(), plain);
        let room = terminal.width.map(|width| width.saturating_sub(line.chars().count()));
        writeln!(out, "{line}{}", short(&derivation, room))?;
    }
    Ok(())
}

/// A derivation as there is room for it: its path, its name, or the beginning of that.
fn short(derivation: &str, room: Option<usize>) -> String {
    let fits = |text: &str| room.is_none_or(|room| text.chars().count() <= room);
    if fits(derivation) {
        return derivation.to_owned();
    }
    let base = derivation.rsplit('/').next().unwrap_or(derivation);
    let name = base.split_once('-').map_or(base, |(_, name)| name);
    if fits(name) {
        return name.to_owned();
    }
    let start: String = name.chars().take(room.unwrap_or(0).saturating_sub(1)).collect();
    start + "…"
}

/// What a line of the table cannot hold.
fn notes(seen: &Seen, now: u64, terminal: Terminal) -> Vec<String> {
    let mut notes = Vec::new();
    let mut say = |text: String| match text.strip_prefix("  ") {
        Some(text) => notes.push(format!("  {}", terminal.wrap(2, text))),
        None => notes.push(terminal.wrap(2, &text)),
    };
    let name = label(seen);
    match (&seen.error, &seen.trouble) {
        (Some(error), trouble) => {
            let error = error.strip_prefix(&format!("{}:{}: ", seen.name, seen.port)).unwrap_or(error);
            say(format!("{name}: {error}"));
            if let Some(hint) = &seen.hint {
                say(format!("  hint: {hint}"));
            }
            if let Some(trouble) = trouble {
                let since = Span(now.saturating_sub(trouble.since));
                let left = match trouble.until.saturating_sub(now) {
                    0 => "the next build tries it again".to_owned(),
                    left => format!("builds leave it alone for {} more", Span(left)),
                };
                let failures = if trouble.count == 1 { "failure" } else { "failures in a row" };
                say(format!("  in trouble for {since}, {} {failures}; {left}", trouble.count));
            }
        }
        (None, Some(trouble)) => say(format!("{name}: was in trouble: {}", trouble.error)),
        (None, None) => {}
    }
    if let Some(drained) = &seen.drained {
        let until = match drained.until {
            Some(until) => format!("for {} more", Span(until.saturating_sub(now))),
            None => "until it is brought back".to_owned(),
        };
        let ago = Span(now.saturating_sub(drained.since));
        say(format!("{name}: drained {ago} ago, {until}"));
    }
    if let Some(error) = &seen.slots_error {
        say(format!("{name}: its slots cannot be counted: {error}"));
    } else if seen.taken.is_none() {
        say(format!(
            "{name}: its slots can be counted by the user that guix-daemon runs as, who owns the state directory"
        ));
    }
    notes
}

/// The name, with the port where that is not 22.
fn label(seen: &Seen) -> String {
    if seen.port == 22 { seen.name.clone() } else { format!("{}:{}", seen.name, seen.port) }
}

fn slots(seen: &Seen) -> Option<String> {
    Some(format!("{}/{}", seen.taken.map_or("-".to_owned(), |taken| taken.to_string()), seen.slots))
}

fn load(seen: &Seen) -> Option<String> {
    let cores = seen.cores.map_or("-".to_owned(), |cores| cores.to_string());
    seen.load1.map(|load| format!("{load:.2}/{cores}"))
}

/// Of processors, memory, and input and output.
fn pressure(seen: &Seen) -> Option<String> {
    let all = [seen.pressure_cpu, seen.pressure_memory, seen.pressure_io];
    let text = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
    all.iter().any(Option::is_some).then(|| all.map(text).join("/"))
}

/// Bytes, short.
fn size(bytes: u64) -> String {
    Bytes(bytes).to_string().replace("iB", "").replace(' ', "")
}

#[cfg(test)]
mod tests;
