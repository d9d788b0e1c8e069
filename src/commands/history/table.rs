//! The tables for people: of builds, and of the sums of machines.
//!
//! If the terminal is too narrow for all columns, the least important ones are omitted, and named below.

use std::io::{self, Write};

use bytesize::ByteSize;

use crate::commands::table::{self, Column, Heading::Number, Heading::Text};
use crate::commands::terminal::{Colour, HumanDuration, Terminal, plain};
use crate::state::health::Time;
use crate::state::history::{MachineSummary, Outcome, Row};

/// A row, and the time now.
struct View<'a> {
    row: &'a Row,
    now: Time,
}

fn columns<'a>() -> [Column<View<'a>>; 13] {
    [
        Column { heading: Number("AGO"), rank: 0, cell: |view| Some(ago(view)) },
        Column { heading: Text("OUTCOME"), rank: 0, cell: |view| Some(view.row.outcome.word().to_owned()) },
        Column { heading: Text("NAME"), rank: 0, cell: |view| Some(view.row.name.clone()) },
        Column { heading: Text("MACHINE"), rank: 1, cell: |view| view.row.machine.clone() },
        Column { heading: Number("BUILD"), rank: 2, cell: |view| phase(view.row, view.row.building) },
        Column { heading: Number("WAIT"), rank: 3, cell: |view| phase(view.row, view.row.waiting) },
        Column { heading: Number("SEND"), rank: 4, cell: |view| phase(view.row, view.row.sending) },
        Column {
            heading: Number("RETRIEVE"),
            rank: 5,
            cell: |view| phase(view.row, view.row.retrieving.saturating_add(view.row.placing)),
        },
        Column { heading: Number("SENT"), rank: 6, cell: |view| bytes(view.row.sent_bytes) },
        Column { heading: Number("RETRIEVED"), rank: 7, cell: |view| bytes(view.row.retrieved_bytes) },
        Column { heading: Number("FETCHED"), rank: 10, cell: |view| bytes(view.row.substituted_bytes) },
        Column { heading: Text("USER"), rank: 8, cell: |view| view.row.user.clone() },
        Column { heading: Text("SYSTEM"), rank: 9, cell: |view| Some(view.row.system.clone()) },
    ]
}

/// Writes a table of rows, with the reasons of those that have one below.
pub fn write(rows: &[Row], now: Time, terminal: Terminal, out: &mut impl Write) -> io::Result<()> {
    if rows.is_empty() {
        return writeln!(out, "no builds");
    }
    let views: Vec<View<'_>> = rows.iter().map(|row| View { row, now }).collect();
    let (lines, note) = table::fitted(&columns(), &views, terminal);
    let (heading, lines) = lines.split_first().ok_or(io::ErrorKind::InvalidData)?;
    writeln!(out, "{}", terminal.paint(Colour::Heading, heading))?;
    for (line, row) in lines.iter().zip(rows) {
        let word = row.outcome.word();
        writeln!(out, "{}", line.replacen(word, &terminal.paint(colour(row.outcome), word), 1))?;
    }
    note.iter().try_for_each(|note| writeln!(out, "{note}"))?;
    let mut reasons: Vec<String> = Vec::new();
    for row in rows {
        let Some(reason) = &row.reason else { continue };
        let machine = row.machine.as_ref().map_or(String::new(), |machine| format!(" on {}", plain(machine)));
        let times = if row.requests > 1 { format!(" ({} requests)", row.requests) } else { String::new() };
        let line = format!("{}: {}{machine}{times}: {}", plain(&row.name), row.outcome, plain(reason));
        if reasons.last() != Some(&line) {
            reasons.push(line);
        }
    }
    if !reasons.is_empty() {
        writeln!(out)?;
    }
    reasons.iter().try_for_each(|reason| writeln!(out, "{}", terminal.wrap(2, reason)))
}

const SUMMARY: [Column<MachineSummary>; 13] = [
    Column { heading: Text("MACHINE"), rank: 0, cell: |sums| Some(sums.machine.clone()) },
    Column { heading: Number("ATTEMPTS"), rank: 0, cell: |sums| Some(sums.attempts.to_string()) },
    Column { heading: Number("BUILT"), rank: 0, cell: |sums| Some(sums.built.to_string()) },
    Column { heading: Number("FAILED"), rank: 1, cell: |sums| Some(sums.build_failures.to_string()) },
    Column { heading: Number("LOST"), rank: 2, cell: |sums| Some(sums.machine_failures.to_string()) },
    Column { heading: Number("BUSY"), rank: 3, cell: |sums| Some(format!("{:.0} %", sums.busy * 100.0)) },
    Column { heading: Number("OVERHEAD"), rank: 4, cell: |sums| sums.median_overhead.map(duration) },
    Column { heading: Number("WAITED"), rank: 5, cell: |sums| Some(duration(sums.waiting)) },
    Column { heading: Number("BUILDING"), rank: 6, cell: |sums| Some(duration(sums.building)) },
    Column { heading: Number("SENT"), rank: 7, cell: |sums| bytes(sums.sent_bytes) },
    Column { heading: Number("RETRIEVED"), rank: 8, cell: |sums| bytes(sums.retrieved_bytes) },
    Column { heading: Number("FETCHED"), rank: 9, cell: |sums| bytes(sums.substituted_bytes) },
    Column { heading: Number("REUSED"), rank: 10, cell: |sums| Some(sums.reused_connections.to_string()) },
];

/// Writes a table of machines, and the requests that no machine took.
pub fn write_summary(
    rows: &[Row],
    machines: &[MachineSummary],
    terminal: Terminal,
    out: &mut impl Write,
) -> io::Result<()> {
    if rows.is_empty() {
        return writeln!(out, "no builds");
    }
    if !machines.is_empty() {
        let (lines, note) = table::fitted(&SUMMARY, machines, terminal);
        for (at, line) in lines.iter().enumerate() {
            let line = if at == 0 { terminal.paint(Colour::Heading, line) } else { line.clone() };
            writeln!(out, "{line}")?;
        }
        note.iter().try_for_each(|note| writeln!(out, "{note}"))?;
    }
    for outcome in [Outcome::NoMachine, Outcome::HeadFailed, Outcome::Declined, Outcome::Postponed] {
        let of = rows
            .iter()
            .filter(|row| row.outcome == outcome && (row.machine.is_none() || outcome != Outcome::NoMachine));
        let count = of.count();
        if count > 0 {
            writeln!(out, "{outcome}: {count}")?;
        }
    }
    Ok(())
}

fn colour(outcome: Outcome) -> Colour {
    match outcome {
        Outcome::Built => Colour::Ok,
        Outcome::Cancelled | Outcome::Declined | Outcome::Postponed => Colour::Warning,
        _ => Colour::Error,
    }
}

fn ago(view: &View<'_>) -> String {
    HumanDuration(view.now.saturating_sub(view.row.ended) / 1000).to_string()
}

/// Returns the time of a phase; none for a request that was not accepted.
fn phase(row: &Row, millis: u64) -> Option<String> {
    (!row.outcome.is_request()).then(|| duration(millis))
}

/// Returns milliseconds for people: below ten seconds with one digit after the point.
pub(super) fn duration(millis: u64) -> String {
    if millis < 10_000 { format!("{:.1} s", millis as f64 / 1000.0) } else { HumanDuration(millis / 1000).to_string() }
}

fn bytes(bytes: u64) -> Option<String> {
    (bytes > 0).then(|| ByteSize(bytes).display().iec_short().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::history::summarize;

    fn rows() -> Vec<Row> {
        let row = |name: &str, outcome| Row::new(&format!("/gnu/store/x-{name}.drv"), "x86_64-linux", outcome, 0);
        let built = Row {
            machine: Some("b1".to_owned()),
            user: Some("alice".to_owned()),
            attempt: 1,
            ended: 60_000,
            waiting: 1234,
            sending: 2345,
            building: 61_000,
            retrieving: 400,
            placing: 30,
            sent_bytes: 3 << 20,
            retrieved_bytes: 5 << 10,
            ..row("hello-2.12", Outcome::Built)
        };
        let lost = Row {
            outcome: Outcome::MachineFailed,
            reason: Some("the link\n broke\u{1b}[2J".to_owned()),
            machine: Some("b2:2222".to_owned()),
            ..built.clone()
        };
        let declined = Row { reason: Some("no match".to_owned()), requests: 3, ..row("gcc\u{1b}", Outcome::Declined) };
        vec![built, lost, declined]
    }

    fn text(width: Option<usize>, write: impl Fn(Terminal, &mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(Terminal { width, ..Terminal::default() }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn builds_have_a_line_each_and_reasons_are_below() {
        let expected = "  AGO  OUTCOME         NAME        MACHINE  BUILD   WAIT   SEND  RETRIEVE  SENT  RETRIEVED  FETCHED  USER   SYSTEM
1 min  built           hello-2.12  b1       1 min  1.2 s  2.3 s     0.4 s  3.0M       5.0K        -  alice  x86_64-linux
1 min  machine-failed  hello-2.12  b2:2222  1 min  1.2 s  2.3 s     0.4 s  3.0M       5.0K        -  alice  x86_64-linux
2 min  declined        gcc?        -            -      -      -         -     -          -        -  -      x86_64-linux

hello-2.12: machine-failed on b2:2222: the link; broke?[2J
gcc?: declined (3 requests): no match
";
        assert_eq!(text(None, |terminal, out| write(&rows(), 120_000, terminal, out)), expected);
        let narrow = text(Some(60), |terminal, out| write(&rows(), 120_000, terminal, out));
        assert!(narrow.lines().all(|line| line.chars().count() <= 60), "{narrow}");
        assert!(narrow.contains("(too narrow for ") && narrow.contains("OUTCOME"), "{narrow}");
        assert_eq!(text(None, |terminal, out| write(&[], 0, terminal, out)), "no builds\n");
    }

    #[test]
    fn machines_have_a_line_each_and_requests_are_counted() {
        let rows = rows();
        let machines = summarize(&rows, (0, 100_000));
        let expected = "\
MACHINE  ATTEMPTS  BUILT  FAILED  LOST  BUSY  OVERHEAD  WAITED  BUILDING  SENT  RETRIEVED  FETCHED  REUSED
b1              1      1       0     0  64 %     2.8 s   1.2 s     1 min  3.0M       5.0K        -       0
b2:2222         1      0       0     1  64 %         -   1.2 s     1 min  3.0M       5.0K        -       0
declined: 1
";
        assert_eq!(text(None, |terminal, out| write_summary(&rows, &machines, terminal, out)), expected);
    }
}
