//! Failures and requests that were not accepted, by their causes.
//!
//! Reasons that differ only in quoted paths and in numbers of more than three digits are one cause: these are derivations,
//! processes and times.

use std::collections::{BTreeMap, BTreeSet};

use super::table::{Cell, Table};
use crate::commands::pictures::markup::Markup;
use crate::state::health::Time;
use crate::state::history::{Outcome, Row};

/// The most causes that are listed.
const MAX_ROWS: usize = 25;

/// The most names that are listed for a cause.
const MAX_NAMES: usize = 3;

/// The longest cause, in characters.
const MAX_CAUSE: usize = 300;

/// The rows with one cause.
#[derive(Debug, Default)]
struct Cause<'a> {
    rows: u64,
    requests: u64,
    last: Time,
    machines: BTreeSet<&'a str>,
    names: BTreeSet<&'a str>,
}

/// Returns the causes of rows with these outcomes, the most frequent first.
fn causes(rows: &[Row], has: fn(Outcome) -> bool) -> Vec<((Outcome, String), Cause<'_>)> {
    let mut causes: BTreeMap<(Outcome, String), Cause<'_>> = BTreeMap::new();
    for row in rows.iter().filter(|row| has(row.outcome)) {
        let cause = causes.entry((row.outcome, general(row.reason.as_deref().unwrap_or("unknown")))).or_default();
        cause.rows += 1;
        cause.requests = cause.requests.saturating_add(row.requests);
        cause.last = cause.last.max(row.ended);
        cause.machines.extend(row.machine.as_deref());
        cause.names.insert(&row.name);
    }
    let mut causes: Vec<_> = causes.into_iter().collect();
    causes.sort_by(|(a, first), (b, second)| second.rows.cmp(&first.rows).then_with(|| a.cmp(b)));
    causes
}

/// Returns a reason without the parts that differ from build to build.
fn general(reason: &str) -> String {
    let mut general = String::new();
    let mut rest = reason;
    while let Some(at) = rest.find("'/") {
        let (before, path) = rest.split_at(at);
        let end = path[1..].find('\'').map_or(path.len(), |end| end + 2);
        general += before;
        general += "'…'";
        rest = &path[end..];
    }
    general += rest;
    let words = general.split_whitespace().map(|word| {
        let is_number = word.len() > 3 && word.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { "…" } else { word }
    });
    words.collect::<Vec<_>>().join(" ").chars().take(MAX_CAUSE).collect()
}

fn listed(names: &BTreeSet<&str>) -> Cell {
    let mut text = names.iter().take(MAX_NAMES).copied().collect::<Vec<_>>().join(", ");
    if names.len() > MAX_NAMES {
        text += &format!(" and {} more", names.len() - MAX_NAMES);
    }
    if text.is_empty() { Cell::Unknown } else { Cell::Long(text) }
}

/// Returns the note about causes that are not in the table.
fn caption(text: &str, all: usize) -> String {
    if all > MAX_ROWS { format!("{text}: the {MAX_ROWS} most frequent of {all}") } else { text.to_owned() }
}

/// Writes the failures.
pub fn write_failures(rows: &[Row], out: &mut Markup) {
    let causes = causes(rows, Outcome::is_failure);
    let cells = causes.iter().take(MAX_ROWS).map(|((outcome, text), cause)| {
        let (times, last) = (Cell::Count(cause.rows), Cell::Time(cause.last));
        vec![
            Cell::Text(text.clone()),
            Cell::Outcome(*outcome),
            times,
            last,
            listed(&cause.machines),
            listed(&cause.names),
        ]
    });
    let headings = ["Cause", "Outcome", "Times", "Last (UTC)", "Machines", "Builds"];
    let table = Table::new(caption("Causes of failures", causes.len()), &headings, cells.collect());
    table.write("Nothing failed in this period.", out);
}

/// Writes the requests that were not accepted.
pub fn write_local(rows: &[Row], out: &mut Markup) {
    let causes = causes(rows, Outcome::is_request);
    let cells = causes.iter().take(MAX_ROWS).map(|((outcome, text), cause)| {
        let counts = [cause.names.len() as u64, cause.requests].map(Cell::Count);
        let [builds, requests] = counts;
        vec![
            Cell::Text(text.clone()),
            Cell::Outcome(*outcome),
            builds,
            requests,
            Cell::Time(cause.last),
            listed(&cause.names),
        ]
    });
    let headings = ["Reason", "Reply", "Names", "Requests", "Last (UTC)", "Builds"];
    let table = Table::new(caption("Requests that no machine took", causes.len()), &headings, cells.collect());
    table.write("Every request was accepted: no build stayed on this machine.", out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_differ_in_paths_and_numbers_are_one_cause() {
        let row = |name: &str, outcome, reason: &str, ended| Row {
            reason: Some(reason.to_owned()),
            machine: Some(format!("on-{name}")),
            requests: 2,
            ..Row::new(&format!("/gnu/store/x-{name}.drv"), "x86_64-linux", outcome, ended)
        };
        let rows = [
            row("a", Outcome::BuildFailed, "builder for '/gnu/store/x-a.drv' failed\nafter 12345 s", 5),
            row("b", Outcome::BuildFailed, "builder for '/gnu/store/y-b.drv' failed after 99999 s", 3),
            row("c", Outcome::TimedOut, "builder for '/gnu/store/y-b.drv' failed after 99999 s", 3),
            row("d", Outcome::BuildFailed, "builder for '/open", 4),
            row("e", Outcome::Declined, "no", 9),
        ];
        let failures = causes(&rows, Outcome::is_failure);
        let ((outcome, text), cause) = &failures[0];
        assert_eq!((*outcome, text.as_str()), (Outcome::BuildFailed, "builder for '…' failed after … s"));
        assert_eq!((cause.rows, cause.requests, cause.last, cause.names.len()), (2, 4, 5, 2));
        assert_eq!(
            failures.iter().map(|((_, text), _)| text.as_str()).collect::<Vec<_>>()[1..],
            ["builder for '…'", "builder for '…' failed after … s"]
        );
        assert_eq!(causes(&rows, Outcome::is_request).len(), 1);
        assert_eq!(general("code 101 of 'b1'"), "code 101 of 'b1'");
    }
}
