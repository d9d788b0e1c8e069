//! The pool: the key figures, each machine now and in the period, how many of its slots were in use, and its transfers.

use std::collections::BTreeMap;

use super::table::{Cell, Table, legend_item};
use crate::commands::machine_records::MachineRecord;
use crate::commands::pictures::markup::Markup;
use crate::commands::pictures::units::{count, counted, duration};
use crate::events::iec;
use crate::state::health::Time;
use crate::state::history::{MachineSummary, Outcome, Row, median};

/// Writes the key figures.
pub fn write_figures(rows: &[Row], out: &mut Markup) {
    let number = |is: fn(Outcome) -> bool| rows.iter().filter(|row| is(row.outcome)).count() as u64;
    let sum = |value: fn(&Row) -> u64| rows.iter().fold(0_u64, |sum, row| sum.saturating_add(value(row)));
    let built = number(|outcome| outcome == Outcome::Built);
    let failed = number(|outcome| matches!(outcome, Outcome::BuildFailed | Outcome::TimedOut));
    let lost = number(|outcome| matches!(outcome, Outcome::MachineFailed | Outcome::HeadFailed | Outcome::NoMachine));
    let local = rows.iter().filter(|row| row.outcome == Outcome::Declined).map(|row| &row.derivation);
    let local = local.collect::<std::collections::HashSet<_>>().len() as u64;
    let attempts = rows.iter().filter(|row| row.machine.is_some()).count() as u64;
    let overheads = rows.iter().filter(|row| row.outcome == Outcome::Built).map(Row::overhead).collect();
    let moved = sum(|row| row.sent_bytes.saturating_add(row.retrieved_bytes));
    let fetched = sum(|row| row.substituted_bytes);
    let figures = [
        ("Built", count(built), format!("of {}", counted(attempts, "attempt"))),
        ("Failed builds", count(failed), "the builder failed, or took too long".to_owned()),
        ("Other failures", count(lost), "of machines, links or this machine".to_owned()),
        ("Stayed here", count(local), "derivations that no machine took".to_owned()),
        ("Builders ran", duration(sum(|row| row.building)), "in total".to_owned()),
        (
            "Median overhead",
            median(overheads).map_or("–".to_owned(), duration),
            "to connect, send and retrieve".to_owned(),
        ),
        ("Waited", duration(sum(|row| row.waiting)), "for a machine, in total".to_owned()),
        ("Moved", iec(moved).to_string(), format!("and {} fetched by machines", iec(fetched))),
    ];
    out.element("dl", &[("class", &"figures")], |list| {
        for (name, value, note) in figures {
            list.element("div", &[], |figure| {
                figure.leaf("dt", &[], name);
                figure.element("dd", &[], |figure| {
                    figure.leaf("div", &[("class", &"value")], value);
                    figure.leaf("div", &[("class", &"note")], note);
                });
            });
        }
    });
}

/// Returns the state of a machine, with its class in the style sheet.
fn state(record: &MachineRecord) -> (&'static str, &'static str) {
    match record {
        MachineRecord { is_enabled: false, .. } => ("middle", "• disabled"),
        MachineRecord { is_drained: true, .. } => ("middle", "• drained"),
        MachineRecord { back_off: 1.., .. } => ("bad", "✗ skipped after failures"),
        MachineRecord { failures: 1.., .. } => ("middle", "• failed last"),
        MachineRecord { last_contact: None, .. } => ("middle", "• not contacted"),
        _ => ("good", "✓ ready"),
    }
}

/// Writes a row for each machine of the pool, and for each that had builds.
pub fn write_machines(records: &[MachineRecord], summaries: &[MachineSummary], out: &mut Markup) {
    type Machine<'a> = (Option<&'a MachineRecord>, Option<&'a MachineSummary>);
    let mut machines: BTreeMap<&str, Machine<'_>> = BTreeMap::new();
    records.iter().for_each(|record| machines.entry(&record.name).or_default().0 = Some(record));
    summaries.iter().for_each(|sums| machines.entry(&sums.machine).or_default().1 = Some(sums));
    let cells = machines.iter().map(|(name, (record, sums))| {
        let sum = |value: fn(&MachineSummary) -> u64| Cell::Count(sums.map_or(0, value));
        let time = |value: fn(&MachineSummary) -> u64| sums.map_or(Cell::Unknown, |sums| Cell::Duration(value(sums)));
        let (class, state) = record.map_or(("quiet", "not in the file"), state);
        vec![
            Cell::Text((*name).to_owned()),
            Cell::State(class, state),
            record.map_or(Cell::Unknown, |record| Cell::Count(record.slots.into())),
            Cell::Share(sums.map_or(0.0, |sums| sums.busy)),
            sum(|sums| sums.attempts),
            sum(|sums| sums.built),
            sum(|sums| sums.build_failures),
            sum(|sums| sums.machine_failures),
            sums.and_then(|sums| sums.median_overhead).map_or(Cell::Unknown, Cell::Duration),
            time(|sums| sums.building),
            time(|sums| sums.waiting),
        ]
    });
    let headings = [
        "Machine",
        "State now",
        "Slots",
        "Busy",
        "Attempts",
        "Built",
        "Failed",
        "Lost",
        "Overhead",
        "Building",
        "Waited for it",
    ];
    let table = Table::new("Machines of the pool", &headings, cells.collect());
    table.write("The machine file has no machines, and no build was on one.", out);
}

/// Writes the bytes of each machine, by way.
pub fn write_bytes(summaries: &[MachineSummary], out: &mut Markup) {
    let ways = |sums: &MachineSummary| [sums.sent_bytes, sums.substituted_bytes, sums.retrieved_bytes];
    let all = |sums: &MachineSummary| ways(sums).iter().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
    let most = summaries.iter().map(all).max().unwrap_or(0).max(1) as f64;
    let cells = |name: &str, bytes: [u64; 3], bar: Cell| {
        let [sent, fetched, retrieved] = bytes.map(Cell::Bytes);
        vec![Cell::Text(name.to_owned()), sent, fetched, retrieved, bar]
    };
    let mut moved: Vec<&MachineSummary> = summaries.iter().filter(|sums| all(sums) > 0).collect();
    moved.sort_by_key(|sums| std::cmp::Reverse(all(sums)));
    let rows = moved.iter().map(|sums| {
        let parts = ways(sums).map(|bytes| bytes as f64 / most);
        let classes = ["fill-send", "fill-place", "fill-get"];
        cells(&sums.machine, ways(sums), Cell::Bar(classes.into_iter().zip(parts).collect()))
    });
    let total = |at: usize| summaries.iter().fold(0_u64, |sum, sums| sum.saturating_add(ways(sums)[at]));
    let last = Some(cells("All machines", [0, 1, 2].map(total), Cell::Text(String::new())));
    let headings = ["Machine", "Sent to it", "Fetched by it", "Retrieved from it", "Share"];
    let table = Table { last, ..Table::new("Bytes by machine and by way", &headings, rows.collect()) };
    if !table.rows.is_empty() {
        out.element("ul", &[("class", &"legend")], |list| {
            for (class, way) in [("fill-send", "sent"), ("fill-place", "fetched"), ("fill-get", "retrieved")] {
                legend_item(class, way, list);
            }
        });
    }
    table.write("No inputs or outputs were moved in this period.", out);
}

/// Returns the first and the last time of the rows, in milliseconds since 1970.
pub fn period(rows: &[Row]) -> Option<(Time, Time)> {
    Some((rows.iter().map(|row| row.started).min()?, rows.iter().map(|row| row.ended).max()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_what_keeps_builds_away() {
        let record = MachineRecord {
            name: "b1".to_owned(),
            is_enabled: true,
            last_contact: Some(1),
            ..MachineRecord::default()
        };
        let states = [
            MachineRecord { is_enabled: false, is_drained: true, ..record.clone() },
            MachineRecord { is_drained: true, failures: 1, back_off: 1, ..record.clone() },
            MachineRecord { failures: 1, back_off: 1, ..record.clone() },
            MachineRecord { failures: 1, ..record.clone() },
            MachineRecord { last_contact: None, ..record.clone() },
            record,
        ];
        let words = states.map(|record| state(&record).1);
        let expected =
            ["• disabled", "• drained", "✗ skipped after failures", "• failed last", "• not contacted", "✓ ready"];
        assert_eq!(words, expected);
    }
}
