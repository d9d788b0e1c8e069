//! Summaries of rows. Times are in milliseconds.

use std::collections::BTreeMap;

use serde::Serialize;

use super::row::{Outcome, Row};
use crate::state::health::Time;

/// The sums of all rows of a machine with one outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Total {
    /// None: no machine was chosen.
    pub machine: Option<String>,
    pub outcome: Outcome,
    pub rows: u64,
    pub requests: u64,
    /// When the last one ended. Milliseconds since 1970.
    pub last: Time,
    pub waiting: u64,
    pub sending: u64,
    pub building: u64,
    pub retrieving: u64,
    pub placing: u64,
    pub sent_bytes: u64,
    pub substituted_items: u64,
    pub substituted_bytes: u64,
    pub retrieved_bytes: u64,
}

/// The summary of the attempts on one machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MachineSummary {
    pub machine: String,
    pub attempts: u64,
    pub built: u64,
    /// Builds that failed, or exceeded a time limit.
    pub build_failures: u64,
    /// Attempts that failed because of the machine.
    pub machine_failures: u64,
    /// The share of the period in which at least one build had a slot, from 0 to 1.
    pub busy: f64,
    /// The sum of the waits for a machine before these attempts.
    pub waiting: u64,
    /// The sum of the builders' times.
    pub building: u64,
    /// The median of the time for connecting, sending, retrieving and placing; of attempts that built. None: there are none.
    pub median_overhead: Option<u64>,
    pub sent_bytes: u64,
    #[serde(rename = "fetched_bytes")]
    pub substituted_bytes: u64,
    pub retrieved_bytes: u64,
    /// Attempts over a connection that was open before.
    pub reused_connections: u64,
}

/// Returns the summary of each machine with attempts among `rows`, in the order of their names. `period` has the first and
/// the last time.
pub fn summarize(rows: &[Row], period: (Time, Time)) -> Vec<MachineSummary> {
    let mut machines: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        if let Some(machine) = &row.machine {
            machines.entry(machine).or_default().push(row);
        }
    }
    machines.into_iter().map(|(machine, rows)| summary(machine, &rows, period)).collect()
}

fn summary(machine: &str, rows: &[&Row], period: (Time, Time)) -> MachineSummary {
    let count = |is: fn(Outcome) -> bool| rows.iter().filter(|row| is(row.outcome)).count() as u64;
    let sum = |value: fn(&Row) -> u64| rows.iter().fold(0_u64, |sum, row| sum.saturating_add(value(row)));
    let built = rows.iter().filter(|row| row.outcome == Outcome::Built);
    MachineSummary {
        machine: machine.to_owned(),
        attempts: rows.len() as u64,
        built: count(|outcome| outcome == Outcome::Built),
        build_failures: count(|outcome| matches!(outcome, Outcome::BuildFailed | Outcome::TimedOut)),
        machine_failures: count(|outcome| outcome == Outcome::MachineFailed),
        busy: busy_share(rows, period),
        waiting: sum(|row| row.waiting),
        building: sum(|row| row.building),
        median_overhead: median(built.map(|row| row.overhead()).collect()),
        sent_bytes: sum(|row| row.sent_bytes),
        substituted_bytes: sum(|row| row.substituted_bytes),
        retrieved_bytes: sum(|row| row.retrieved_bytes),
        reused_connections: rows.iter().filter(|row| row.reused_connection == Some(true)).count() as u64,
    }
}

/// Returns the share of the period in which at least one of the attempts had a slot.
fn busy_share(rows: &[&Row], (from, to): (Time, Time)) -> f64 {
    let mut spans: Vec<(Time, Time)> = rows
        .iter()
        .map(|row| {
            let start = row.started.saturating_add(row.waiting);
            (start.clamp(from, to.max(from)), start.saturating_add(row.busy()).clamp(from, to.max(from)))
        })
        .collect();
    spans.sort_unstable();
    let (mut busy, mut until) = (0, from);
    for (start, end) in spans {
        busy += end.saturating_sub(start.max(until));
        until = until.max(end);
    }
    if to > from { busy as f64 / (to - from) as f64 } else { 0.0 }
}

/// Returns the median: of an even number of values, the lower one of the middle.
pub fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(machine: &str, outcome: Outcome, started: Time, phases: [u64; 5]) -> Row {
        let [waiting, sending, building, retrieving, placing] = phases;
        Row {
            machine: Some(machine.to_owned()),
            attempt: 1,
            waiting,
            sending,
            building,
            retrieving,
            placing,
            sent_bytes: 10,
            substituted_bytes: 20,
            retrieved_bytes: 30,
            reused_connection: Some(started == 0),
            ..Row::new("/gnu/store/x-a.drv", "x86_64-linux", outcome, started)
        }
    }

    #[test]
    fn a_machine_has_its_counts_sums_and_median() {
        let rows = [
            row("b1", Outcome::Built, 0, [100, 1, 2, 3, 4]),
            row("b1", Outcome::Built, 50, [0, 10, 20, 30, 40]),
            row("b1", Outcome::Built, 60, [0, 2, 20, 3, 4]),
            row("b1", Outcome::BuildFailed, 400, [5, 10, 90, 0, 0]),
            row("b1", Outcome::TimedOut, 900, [0, 0, 200, 0, 0]),
            row("b1", Outcome::MachineFailed, 500, [0, 0, 0, 0, 0]),
            row("b0", Outcome::Built, 0, [0, 1, 1, 1, 1]),
            Row::new("/gnu/store/x-a.drv", "x86_64-linux", Outcome::Declined, 7),
        ];
        let summaries = summarize(&rows, (0, 1000));
        let names: Vec<&str> = summaries.iter().map(|summary| summary.machine.as_str()).collect();
        assert_eq!(names, ["b0", "b1"]);
        let expected = MachineSummary {
            machine: "b1".to_owned(),
            attempts: 6,
            built: 3,
            build_failures: 2,
            machine_failures: 1,
            // From 50 to 110 two builds at the same time, and 100 to 106; 405 to 505, and 900 to 1000, where the period ends.
            busy: 0.26,
            waiting: 105,
            building: 332,
            median_overhead: Some(9),
            sent_bytes: 60,
            substituted_bytes: 120,
            retrieved_bytes: 180,
            reused_connections: 1,
        };
        assert_eq!(summaries[1], expected);
    }

    #[test]
    fn an_empty_period_and_no_values_have_no_result() {
        assert_eq!(summarize(&[row("b1", Outcome::Built, 9, [0, 1, 1, 1, 1])], (9, 9))[0].busy, 0.0);
        assert_eq!(summarize(&[row("b1", Outcome::Built, u64::MAX, [u64::MAX; 5])], (9, 5))[0].busy, 0.0);
        assert_eq!((median(Vec::new()), median(vec![4, 1, 2, 3]), median(vec![3, 1, 2])), (None, Some(2), Some(2)));
    }
}
