//! The table for people: a line for each machine, then the running builds, the builds that wait, the builds of this
//! machine itself, the open connections, and notes.
//!
//! If the terminal is too narrow for all columns, the least important ones are omitted, and named below. Numbers are
//! aligned to the right. Without a terminal, nothing is omitted.

use std::io::{self, Write};
use std::path::Path;

use bytesize::ByteSize;

use super::queue::{LocalBuild, OtherBuilds, QueuedBuild};
use super::snapshot::{Build, MachineSnapshot, MachineState};
use crate::commands::machines::{failure_count, substitute_note};
use crate::commands::table::{self, Column, Heading::Number, Heading::Text};
use crate::commands::terminal::{Colour, HumanDuration, Terminal, plain};

const COLUMNS: [Column<MachineSnapshot>; 13] = [
    Column { heading: Text("NAME"), rank: 0, cell: |snapshot| Some(label(snapshot)) },
    Column { heading: Text("STATE"), rank: 0, cell: |snapshot| Some(snapshot.state.word().to_owned()) },
    Column { heading: Number("SLOTS"), rank: 0, cell: slots },
    Column { heading: Number("LOAD"), rank: 1, cell: load },
    Column { heading: Number("DISK"), rank: 2, cell: |snapshot| snapshot.status.free_disk.map(size) },
    Column { heading: Number("MEMORY"), rank: 3, cell: |snapshot| snapshot.status.free_memory.map(size) },
    Column { heading: Number("PRESSURE"), rank: 4, cell: pressure },
    Column {
        heading: Number("CLOCK"),
        rank: 5,
        cell: |snapshot| snapshot.clock_skew.map(|skew| format!("{skew:+.0} s")),
    },
    Column { heading: Text("GUIX"), rank: 6, cell: |snapshot| snapshot.guix.clone() },
    Column { heading: Text("ARCH"), rank: 7, cell: |snapshot| snapshot.status.architecture.clone() },
    Column {
        heading: Number("UP"),
        rank: 10,
        cell: |snapshot| snapshot.status.uptime.map(|time| HumanDuration(time).to_string()),
    },
    Column { heading: Text("KERNEL"), rank: 8, cell: |snapshot| snapshot.status.kernel.clone() },
    Column { heading: Text("HOST"), rank: 9, cell: |snapshot| snapshot.status.host_name.clone() },
];

/// Writes the table to `out`, which has the properties of `terminal`. `now` is in seconds since 1970.
pub fn write(
    path: &Path,
    machines: &[MachineSnapshot],
    others: &OtherBuilds,
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
    if !others.queue.is_empty() {
        writeln!(out)?;
        write_queue(&others.queue, now, terminal, out)?;
    }
    if !others.local_builds.is_empty() {
        writeln!(out)?;
        write_local(&others.local_builds, now, terminal, out)?;
    }
    if machines.iter().any(|snapshot| !snapshot.connections.is_empty()) {
        writeln!(out)?;
        write_connections(machines, now, terminal, out)?;
    }
    let notes: Vec<String> = machines.iter().flat_map(|snapshot| notes(snapshot, now, terminal)).collect();
    if !notes.is_empty() {
        writeln!(out)?;
    }
    notes.iter().try_for_each(|note| writeln!(out, "{note}"))
}

fn write_machines(machines: &[MachineSnapshot], terminal: Terminal, out: &mut impl Write) -> io::Result<()> {
    let (lines, note) = table::fitted(&COLUMNS, machines, terminal);
    let (heading, lines) = lines.split_first().ok_or(io::ErrorKind::InvalidData)?;
    writeln!(out, "{}", terminal.paint(Colour::Heading, heading))?;
    for (line, snapshot) in lines.iter().zip(machines) {
        // The state is in the second column.
        let (name, rest) = line.split_at(plain(&label(snapshot)).len());
        let word = snapshot.state.word();
        writeln!(out, "{name}{}", rest.replacen(word, &terminal.paint(colour(snapshot.state), word), 1))?;
    }
    note.iter().try_for_each(|note| writeln!(out, "{note}"))
}

fn colour(state: MachineState) -> Colour {
    match state {
        MachineState::Ready | MachineState::Off | MachineState::Starting | MachineState::Stopping => Colour::Ok,
        MachineState::Busy | MachineState::Drained | MachineState::Disabled | MachineState::Overloaded => {
            Colour::Warning
        }
        MachineState::Misconfigured | MachineState::Unreachable | MachineState::DiskLow => Colour::Error,
    }
}

fn write_builds(machines: &[MachineSnapshot], now: u64, terminal: Terminal, out: &mut impl Write) -> io::Result<()> {
    let builds: Vec<(&MachineSnapshot, &Build)> =
        machines.iter().flat_map(|snapshot| snapshot.builds.iter().map(move |build| (snapshot, build))).collect();
    let mut table =
        table::table(&[Text("MACHINE"), Number("SLOT"), Number("FOR"), Number("PROCESS"), Text("DERIVATION")]);
    for (snapshot, build) in &builds {
        let age = build.since.map_or("-".to_owned(), |since| HumanDuration(now.saturating_sub(since)).to_string());
        let pid = build.pid.map_or("-".to_owned(), |pid| pid.to_string());
        table.add_row([label(snapshot), build.slot.to_string(), age, pid]);
    }
    let taken = table::width(&table) - "DERIVATION".len();
    let room = terminal.width.map(|width| width.saturating_sub(taken));
    for (row, (_, build)) in table.row_iter_mut().zip(&builds) {
        let derivation = build.derivation.as_deref().map_or("-".into(), plain);
        row.add_cell(short(&derivation, room).into());
    }
    write_lines(&table::lines(&table), terminal, out)
}

fn write_queue(builds: &[QueuedBuild], now: u64, terminal: Terminal, out: &mut impl Write) -> io::Result<()> {
    let headings = [Number("WAITS FOR"), Text("USER"), Number("PROCESS"), Text("MACHINES"), Text("DERIVATION")];
    let row = |build: &QueuedBuild| {
        let hosts: Vec<&str> = build.hosts.iter().map(|host| host.strip_suffix(":22").unwrap_or(host)).collect();
        // A long list would leave no room for the derivation.
        let machines = match hosts.len() {
            0..=2 => hosts.join(", "),
            count => format!("{} and {} more", hosts[0], count - 1),
        };
        let age = HumanDuration(now.saturating_sub(build.since)).to_string();
        vec![age, user(build.user.as_deref()), build.pid.to_string(), machines]
    };
    let rows = builds.iter().map(|build| (row(build), build.derivation.as_str()));
    write_with_derivation(&headings, rows.collect(), terminal, out)
}

fn write_local(builds: &[LocalBuild], now: u64, terminal: Terminal, out: &mut impl Write) -> io::Result<()> {
    let rows = builds.iter().map(|build| {
        let age = HumanDuration(now.saturating_sub(build.since)).to_string();
        (vec![age, user(build.user.as_deref())], build.derivation.as_str())
    });
    let headings = [Number("BUILT HERE FOR"), Text("USER"), Text("DERIVATION")];
    write_with_derivation(&headings, rows.collect(), terminal, out)?;
    for build in builds {
        let base = build.derivation.rsplit('/').next().unwrap_or_default();
        let name = base.split_once('-').map_or(base, |(_, name)| name);
        let reason = build.reason.as_deref().unwrap_or("unknown");
        writeln!(out, "  {}", terminal.wrap(4, &format!("{}: declined: {}", plain(name), plain(reason))))?;
    }
    Ok(())
}

fn user(name: Option<&str>) -> String {
    name.map_or("-".to_owned(), |name| plain(name).into_owned())
}

/// Writes a table whose last column is a derivation, which is shortened to the rest of the line.
fn write_with_derivation(
    headings: &[table::Heading],
    rows: Vec<(Vec<String>, &str)>,
    terminal: Terminal,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut table = table::table(headings);
    for (cells, _) in &rows {
        table.add_row(cells);
    }
    let taken = table::width(&table) - "DERIVATION".len();
    let room = terminal.width.map(|width| width.saturating_sub(taken));
    for (row, (_, derivation)) in table.row_iter_mut().zip(&rows) {
        row.add_cell(short(&plain(derivation), room).into());
    }
    write_lines(&table::lines(&table), terminal, out)
}

fn write_connections(
    machines: &[MachineSnapshot],
    now: u64,
    terminal: Terminal,
    out: &mut impl Write,
) -> io::Result<()> {
    let headings =
        [Text("CONNECTION"), Number("FOR"), Number("PROCESS"), Number("STREAMS"), Number("SENT"), Number("RECEIVED")];
    let mut table = table::table(&headings);
    for (snapshot, connection) in machines.iter().flat_map(|one| one.connections.iter().map(move |other| (one, other)))
    {
        let age = HumanDuration(now.saturating_sub(connection.since)).to_string();
        let pid = connection.pid.map_or("-".to_owned(), |pid| pid.to_string());
        let streams = connection.streams.to_string();
        table.add_row([label(snapshot), age, pid, streams, size(connection.sent), size(connection.received)]);
    }
    write_lines(&table::lines(&table), terminal, out)
}

/// Writes the lines of a table, the heading first.
fn write_lines(lines: &[String], terminal: Terminal, out: &mut impl Write) -> io::Result<()> {
    for (at, line) in lines.iter().enumerate() {
        let line = if at == 0 { terminal.paint(Colour::Heading, line) } else { line.clone() };
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Shortens a derivation to `room` columns: its path, its name, or the beginning of that.
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

/// Returns the notes that do not fit into a line of the table.
fn notes(snapshot: &MachineSnapshot, now: u64, terminal: Terminal) -> Vec<String> {
    let mut notes = Vec::new();
    let mut add = |text: String| match text.strip_prefix("  ") {
        Some(text) => notes.push(format!("  {}", terminal.wrap(2, text))),
        None => notes.push(terminal.wrap(2, &text)),
    };
    let name = label(snapshot);
    match (&snapshot.error, &snapshot.failures) {
        (Some(error), failures) => {
            let error = error.strip_prefix(&format!("{}:{}: ", snapshot.name, snapshot.port)).unwrap_or(error);
            add(format!("{name}: {error}"));
            if let Some(hint) = &snapshot.hint {
                add(format!("  hint: {hint}"));
            }
            if let Some(failures) = failures {
                let since = HumanDuration(now.saturating_sub(failures.since));
                let next = match failures.until.saturating_sub(now) {
                    0 => "the next build probes it".to_owned(),
                    left => format!("skipped for {}", HumanDuration(left)),
                };
                add(format!("  {}; {next}", failure_count(failures.count, &since)));
            }
        }
        (None, Some(failures)) => add(format!("{name}: last failure: {}", failures.error)),
        (None, None) => {}
    }
    if let Some(drained) = &snapshot.drained {
        let until = match drained.until {
            Some(until) => format!("for {} more", HumanDuration(until.saturating_sub(now))),
            None => format!("until `offload undrain {name}`"),
        };
        let ago = HumanDuration(now.saturating_sub(drained.since));
        add(format!("{name}: drained {ago} ago, {until}"));
    }
    if let Some(note) = substitute_note(&snapshot.substitutes) {
        add(format!("{name}: {note}"));
    }
    if let Some(error) = &snapshot.slots_error {
        add(format!("{name}: its slots cannot be counted: {error}"));
    } else if snapshot.taken.is_none() {
        add(format!("{name}: only guix-daemon's user can count its slots"));
    }
    notes
}

/// Returns the name, with the port if that is not 22.
fn label(snapshot: &MachineSnapshot) -> String {
    if snapshot.port == 22 { snapshot.name.clone() } else { format!("{}:{}", snapshot.name, snapshot.port) }
}

fn slots(snapshot: &MachineSnapshot) -> Option<String> {
    Some(format!("{}/{}", snapshot.taken.map_or("-".to_owned(), |taken| taken.to_string()), snapshot.slots))
}

fn load(snapshot: &MachineSnapshot) -> Option<String> {
    let cores = snapshot.status.cores.map_or("-".to_owned(), |cores| cores.to_string());
    snapshot.status.load1.map(|load| format!("{load:.2}/{cores}"))
}

/// Returns the pressure of processors, memory, and input and output.
fn pressure(snapshot: &MachineSnapshot) -> Option<String> {
    let all = [snapshot.status.pressure_cpu, snapshot.status.pressure_memory, snapshot.status.pressure_io];
    let text = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
    all.iter().any(Option::is_some).then(|| all.map(text).join("/"))
}

/// Returns bytes in short form, such as `201.0G`.
fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec_short().to_string()
}

#[cfg(test)]
mod tests;
