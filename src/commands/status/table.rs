//! The table for people: a line for each machine, then the builds that run, then what else is to be said.
//!
//! Where the terminal is too narrow for all columns the least important ones are left out, and named below. Numbers
//! stand to the right. Without a terminal, nothing is left out.

use std::io::{self, Write};
use std::path::Path;

use super::snapshot::{Build, MachineSnapshot, MachineState};
use crate::commands::terminal::{Colour, HumanDuration, Terminal, plain};
use crate::events::Bytes;

/// Between two columns.
const GAP: usize = 2;

/// A column of the table.
struct Column {
    heading: &'static str,
    /// 0 is never left out; the highest goes first.
    rank: usize,
    is_number: bool,
    cell: fn(&MachineSnapshot) -> Option<String>,
}

const COLUMNS: [Column; 13] = [
    Column { heading: "NAME", rank: 0, is_number: false, cell: |snapshot| Some(label(snapshot)) },
    Column { heading: "STATE", rank: 0, is_number: false, cell: |snapshot| Some(snapshot.state.word().to_owned()) },
    Column { heading: "SLOTS", rank: 0, is_number: true, cell: slots },
    Column { heading: "LOAD", rank: 1, is_number: true, cell: load },
    Column { heading: "DISK", rank: 2, is_number: true, cell: |snapshot| snapshot.free_disk.map(size) },
    Column { heading: "MEMORY", rank: 3, is_number: true, cell: |snapshot| snapshot.free_memory.map(size) },
    Column { heading: "PRESSURE", rank: 4, is_number: true, cell: pressure },
    Column {
        heading: "CLOCK",
        rank: 5,
        is_number: true,
        cell: |snapshot| snapshot.clock_skew.map(|skew| format!("{skew:+.0} s")),
    },
    Column { heading: "GUIX", rank: 6, is_number: false, cell: |snapshot| snapshot.guix.clone() },
    Column { heading: "ARCH", rank: 7, is_number: false, cell: |snapshot| snapshot.architecture.clone() },
    Column {
        heading: "UP",
        rank: 10,
        is_number: true,
        cell: |snapshot| snapshot.uptime.map(|time| HumanDuration(time).to_string()),
    },
    Column { heading: "KERNEL", rank: 8, is_number: false, cell: |snapshot| snapshot.kernel.clone() },
    Column { heading: "HOST", rank: 9, is_number: false, cell: |snapshot| snapshot.host_name.clone() },
];

/// Writes the table to `out`, which is `terminal`. `now` is in seconds since 1970.
pub fn write(
    path: &Path,
    machines: &[MachineSnapshot],
    now: u64,
    terminal: Terminal,
    out: &mut impl Write,
) -> io::Result<()> {
    if machines.is_empty() {
        return writeln!(out, "no build machines in '{}'", path.display());
    }
    write_machines(machines, terminal, out)?;
    if machines.iter().any(|snapshot| !snapshot.builds.is_empty()) {
        writeln!(out)?;
        write_builds(machines, now, terminal, out)?;
    }
    let notes: Vec<String> = machines.iter().flat_map(|snapshot| notes(snapshot, now, terminal)).collect();
    if !notes.is_empty() {
        writeln!(out)?;
    }
    notes.iter().try_for_each(|note| writeln!(out, "{note}"))
}

fn write_machines(machines: &[MachineSnapshot], terminal: Terminal, out: &mut impl Write) -> io::Result<()> {
    let cell =
        |column: &Column, snapshot| plain(&(column.cell)(snapshot).unwrap_or_else(|| "-".to_owned())).into_owned();
    let width = |column: &Column| {
        machines
            .iter()
            .map(|snapshot| cell(column, snapshot).chars().count())
            .chain([column.heading.len()])
            .max()
            .unwrap_or(0)
    };
    let mut shown: Vec<(&Column, usize)> = COLUMNS.iter().map(|column| (column, width(column))).collect();
    let mut left_out = Vec::new();
    while total(&shown) > terminal.width.unwrap_or(usize::MAX) {
        let Some(last) = (0..shown.len()).max_by_key(|&at| shown[at].0.rank).filter(|&at| shown[at].0.rank > 0) else {
            break;
        };
        left_out.push(shown.remove(last).0.heading);
    }
    let line = |cells: Vec<String>, state: Option<MachineState>| {
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
    for snapshot in machines {
        writeln!(
            out,
            "{}",
            line(shown.iter().map(|(column, _)| cell(column, snapshot)).collect(), Some(snapshot.state))
        )?;
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

fn colour(state: MachineState) -> Colour {
    match state {
        MachineState::Ready => Colour::Ok,
        MachineState::Busy | MachineState::Drained | MachineState::Disabled | MachineState::Overloaded => {
            Colour::Warning
        }
        MachineState::Unreachable | MachineState::DiskLow => Colour::Error,
    }
}

fn write_builds(machines: &[MachineSnapshot], now: u64, terminal: Terminal, out: &mut impl Write) -> io::Result<()> {
    let builds: Vec<(&MachineSnapshot, &Build)> =
        machines.iter().flat_map(|snapshot| snapshot.builds.iter().map(move |build| (snapshot, build))).collect();
    let name_width =
        builds.iter().map(|(snapshot, _)| label(snapshot).chars().count()).max().unwrap_or(0).max("MACHINE".len());
    let heading = format!("{:name_width$}  {:>4}  {:>10}  {:>7}  DERIVATION", "MACHINE", "SLOT", "FOR", "PROCESS");
    writeln!(out, "{}", terminal.paint(Colour::Heading, &heading))?;
    for (snapshot, build) in builds {
        let age = build.since.map_or("-".to_owned(), |since| HumanDuration(now.saturating_sub(since)).to_string());
        let pid = build.pid.map_or("-".to_owned(), |pid| pid.to_string());
        let line = format!("{:name_width$}  {:>4}  {age:>10}  {pid:>7}  ", label(snapshot), build.slot);
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
fn notes(snapshot: &MachineSnapshot, now: u64, terminal: Terminal) -> Vec<String> {
    let mut notes = Vec::new();
    let mut say = |text: String| match text.strip_prefix("  ") {
        Some(text) => notes.push(format!("  {}", terminal.wrap(2, text))),
        None => notes.push(terminal.wrap(2, &text)),
    };
    let name = label(snapshot);
    match (&snapshot.error, &snapshot.failures) {
        (Some(error), failures) => {
            let error = error.strip_prefix(&format!("{}:{}: ", snapshot.name, snapshot.port)).unwrap_or(error);
            say(format!("{name}: {error}"));
            if let Some(hint) = &snapshot.hint {
                say(format!("  hint: {hint}"));
            }
            if let Some(failures) = failures {
                let since = HumanDuration(now.saturating_sub(failures.since));
                let left = match failures.until.saturating_sub(now) {
                    0 => "the next build tries it again".to_owned(),
                    left => format!("builds leave it alone for {} more", HumanDuration(left)),
                };
                let noun = if failures.count == 1 { "failure" } else { "failures in a row" };
                say(format!("  in trouble for {since}, {} {noun}; {left}", failures.count));
            }
        }
        (None, Some(failures)) => say(format!("{name}: was in trouble: {}", failures.error)),
        (None, None) => {}
    }
    if let Some(drained) = &snapshot.drained {
        let until = match drained.until {
            Some(until) => format!("for {} more", HumanDuration(until.saturating_sub(now))),
            None => "until it is brought back".to_owned(),
        };
        let ago = HumanDuration(now.saturating_sub(drained.since));
        say(format!("{name}: drained {ago} ago, {until}"));
    }
    if let Some(error) = &snapshot.slots_error {
        say(format!("{name}: its slots cannot be counted: {error}"));
    } else if snapshot.taken.is_none() {
        say(format!(
            "{name}: its slots can be counted by the user that guix-daemon runs as, who owns the state directory"
        ));
    }
    notes
}

/// The name, with the port where that is not 22.
fn label(snapshot: &MachineSnapshot) -> String {
    if snapshot.port == 22 { snapshot.name.clone() } else { format!("{}:{}", snapshot.name, snapshot.port) }
}

fn slots(snapshot: &MachineSnapshot) -> Option<String> {
    Some(format!("{}/{}", snapshot.taken.map_or("-".to_owned(), |taken| taken.to_string()), snapshot.slots))
}

fn load(snapshot: &MachineSnapshot) -> Option<String> {
    let cores = snapshot.cores.map_or("-".to_owned(), |cores| cores.to_string());
    snapshot.load1.map(|load| format!("{load:.2}/{cores}"))
}

/// Of processors, memory, and input and output.
fn pressure(snapshot: &MachineSnapshot) -> Option<String> {
    let all = [snapshot.pressure_cpu, snapshot.pressure_memory, snapshot.pressure_io];
    let text = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
    all.iter().any(Option::is_some).then(|| all.map(text).join("/"))
}

/// Bytes, short.
fn size(bytes: u64) -> String {
    Bytes(bytes).to_string().replace("iB", "").replace(' ', "")
}

#[cfg(test)]
mod tests;
