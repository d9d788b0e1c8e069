//! Tables of builds: the slowest, the most frequent, and the last ones.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::table::{Cell, Table};
use crate::commands::pictures::markup::Markup;
use crate::state::history::{Outcome, Row, median};

/// The most rows of a table.
const MAX_ROWS: usize = 15;

/// The number of the last rows that are listed.
const LAST_ROWS: usize = 300;

fn text(text: &str) -> Cell {
    Cell::Text(text.to_owned())
}

fn machine(row: &Row) -> Cell {
    row.machine.as_deref().map_or(Cell::Unknown, text)
}

/// Writes the builds with the longest builder's time.
pub fn write_slowest(rows: &[Row], out: &mut Markup) {
    let mut slowest: Vec<&Row> = rows.iter().filter(|row| row.building > 0).collect();
    slowest.sort_by_key(|row| Reverse(row.building));
    let cells = slowest
        .into_iter()
        .take(MAX_ROWS)
        .map(|row| vec![text(&row.name), Cell::Duration(row.building), machine(row), Cell::Outcome(row.outcome)]);
    let headings = ["Build", "Building", "Machine", "Outcome"];
    Table::new("Slowest builds", &headings, cells.collect()).write("No builder ran in this period.", out);
}

/// The attempts of one name.
#[derive(Default)]
struct Name {
    attempts: u64,
    failures: u64,
    building: Vec<u64>,
}

/// Writes the names that were built most often, in any version.
pub fn write_frequent(rows: &[Row], out: &mut Markup) {
    let mut names: HashMap<&str, Name> = HashMap::new();
    for row in rows.iter().filter(|row| row.machine.is_some()) {
        let name = names.entry(without_version(&row.name)).or_default();
        name.attempts += 1;
        name.failures += u64::from(row.outcome.is_failure());
        if row.outcome == Outcome::Built {
            name.building.push(row.building);
        }
    }
    let mut names: Vec<_> = names.into_iter().collect();
    names.sort_by(|(a, first), (b, second)| second.attempts.cmp(&first.attempts).then(a.cmp(b)));
    let cells = names.into_iter().take(MAX_ROWS).map(|(name, sums)| {
        let all = sums.building.iter().fold(0_u64, |sum, time| sum.saturating_add(*time));
        let median = median(sums.building).map_or(Cell::Unknown, Cell::Duration);
        vec![text(name), Cell::Count(sums.attempts), Cell::Count(sums.failures), median, Cell::Duration(all)]
    });
    let headings = ["Name", "Attempts", "Failed", "Median", "Sum"];
    let table = Table::new("Most frequent builds, in any version, with the builder's time", &headings, cells.collect());
    table.write("No build was on a machine in this period.", out);
}

/// Returns a name without its version, which begins with the last `-` before a digit.
fn without_version(name: &str) -> &str {
    let mut version =
        name.match_indices('-').filter(|(at, _)| name[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
    version.next_back().map_or(name, |(at, _)| &name[..at])
}

/// Writes the last rows, the newest first.
pub fn write_last(rows: &[Row], out: &mut Markup) {
    let cells = rows.iter().rev().take(LAST_ROWS).map(|row| {
        let phase = |millis| if row.outcome.is_request() { Cell::Unknown } else { Cell::Duration(millis) };
        vec![
            text(&row.name),
            Cell::Outcome(row.outcome),
            machine(row),
            phase(row.waiting),
            phase(row.building),
            phase(row.overhead()),
            Cell::Bytes(row.sent_bytes),
            Cell::Bytes(row.retrieved_bytes),
            row.user.as_deref().map_or(Cell::Unknown, text),
            Cell::Time(row.ended),
        ]
    });
    let caption = match rows.len() > LAST_ROWS {
        true => format!("The last {LAST_ROWS} rows; offload history has all"),
        false => "All rows".to_owned(),
    };
    let headings =
        ["Build", "Outcome", "Machine", "Waited", "Building", "Overhead", "Sent", "Retrieved", "User", "Ended (UTC)"];
    let table = Table { class: "filtered", ..Table::new(caption, &headings, cells.collect()) };
    table.write("The history has no rows in this period.", out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_versions_are_counted_together() {
        for (name, short) in [
            ("hello-2.12", "hello"),
            ("a-1-b-2.x-y", "a-1-b"),
            ("gtk+", "gtk+"),
            ("-", "-"),
            ("x-", "x-"),
            ("é-1", "é"),
        ] {
            assert_eq!(without_version(name), short);
        }
        let row = |name: &str, outcome, building| Row {
            machine: Some("b1".to_owned()),
            building,
            ..Row::new(&format!("/gnu/store/x-{name}.drv"), "x86_64-linux", outcome, 1)
        };
        let rows = [
            row("one", Outcome::Built, 9000),
            row("hello-1.0", Outcome::Built, 1000),
            row("hello-2.0", Outcome::Built, 3000),
            row("hello-2.1", Outcome::BuildFailed, 5000),
        ];
        let written = |write: fn(&[Row], &mut Markup)| {
            let mut out = Markup::default();
            write(&rows, &mut out);
            out.into_string()
        };
        let cell = |text: &str| format!("<td class=\"number\">{text}</td>");
        let cells: String = ["3", "1", "1.0 s", "4.0 s"].map(cell).concat();
        let frequent = written(write_frequent);
        assert!(frequent.contains(&format!("<th scope=\"row\">hello</th>{cells}")), "{frequent}");
        let slowest = written(write_slowest);
        let order =
            ["one", "hello-2.1", "hello-2.0", "hello-1.0"].map(|name| slowest.find(&format!(">{name}<")).unwrap());
        assert!(order.is_sorted(), "{slowest}");
    }
}
