//! The builds in each slot of each machine, one after the other.
//!
//! A slot is taken while inputs are sent, the build runs, and outputs are retrieved. A row of an older version has no slot: such
//! a build gets the first lane that is free. So does a build whose slot another one seems to have: the times are those of the
//! clock, which may have been changed. The clock also drifts during a build, and times are whole milliseconds. So a short
//! overlap is cut off.

use std::collections::BTreeMap;

use super::units::MAX_TIME;
use crate::state::health::Time;
use crate::state::history::Row;

/// The most lanes of a machine. Builds beyond them have no length.
const MAX_LANES: u32 = 1000;

/// A build in a slot. Times are milliseconds since 1970, none before the one above it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span<'a> {
    pub row: &'a Row,
    /// When the wait for a machine began.
    pub requested: Time,
    /// When it got the slot, and began to connect.
    pub from: Time,
    /// When the builder began.
    pub sent: Time,
    /// When the builder ended.
    pub built: Time,
    /// When it released the slot.
    pub to: Time,
    /// When the outputs were in the store.
    pub placed: Time,
}

impl<'a> Span<'a> {
    /// Returns the times of a row that has a machine.
    fn of(row: &'a Row) -> Span<'a> {
        let after = |time: Time, phase: u64| time.saturating_add(phase).min(MAX_TIME);
        let requested = row.started.min(MAX_TIME);
        let from = after(requested, row.waiting);
        let sent = after(from, row.sending);
        let built = after(sent, row.building);
        let to = after(built, row.retrieving);
        Span { row, requested, from, sent, built, to, placed: after(to, row.placing) }
    }

    /// Returns the phases in the slot: their names, and when each began and ended.
    pub fn phases(&self) -> [(&'static str, Time, Time); 3] {
        [("sending", self.from, self.sent), ("building", self.sent, self.built), ("retrieving", self.built, self.to)]
    }

    /// Cuts off what is before `time`.
    fn cut(self, time: Time) -> Span<'a> {
        let later = |own: Time| own.max(time);
        let (from, sent, built, to) = (later(self.from), later(self.sent), later(self.built), later(self.to));
        Span { from, sent, built, to, placed: later(self.placed), ..self }
    }

    /// Returns the overlap with the next build that is cut off, in milliseconds: for rounding, and 0.1 % for the clock.
    fn tolerance(&self) -> u64 {
        10 + (self.to - self.from) / 1000
    }
}

/// The builds in one slot, in the order of time. They do not overlap, apart from placing.
#[derive(Clone, Debug, PartialEq)]
pub struct Lane<'a> {
    pub machine: &'a str,
    /// From 0.
    pub slot: u32,
    pub spans: Vec<Span<'a>>,
}

/// Returns the lanes of all machines, in the order of machines and slots.
pub fn lanes(rows: &[Row]) -> Vec<Lane<'_>> {
    let mut machines: BTreeMap<&str, Vec<Span<'_>>> = BTreeMap::new();
    for row in rows {
        if let Some(machine) = &row.machine {
            machines.entry(machine).or_default().push(Span::of(row));
        }
    }
    machines.into_iter().flat_map(|(machine, spans)| of_machine(machine, spans)).collect()
}

fn of_machine<'a>(machine: &'a str, mut spans: Vec<Span<'a>>) -> Vec<Lane<'a>> {
    // Those with a slot come first, so that others do not take it.
    spans.sort_by_key(|span| (span.from, span.row.slot.is_none()));
    let mut lanes: BTreeMap<u32, Vec<Span<'a>>> = BTreeMap::new();
    for span in spans {
        let first = span.row.slot.unwrap_or(0);
        let last = first.saturating_add(MAX_LANES);
        let is_free = |slot: &u32| {
            let last = lanes.get(slot).and_then(|spans| spans.last());
            last.is_none_or(|last| last.to <= span.from.saturating_add(last.tolerance()))
        };
        let lane = lanes.get(&first).map_or(first, |_| (first..last).find(is_free).unwrap_or(last));
        let lane = lanes.entry(lane).or_default();
        let begin = lane.last().map_or(0, |last| last.to);
        lane.push(span.cut(begin));
    }
    lanes.into_iter().map(|(slot, spans)| Lane { machine, slot, spans }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::history::Outcome;

    fn row(machine: &str, slot: Option<u32>, started: Time, phases: [u64; 5]) -> Row {
        let [waiting, sending, building, retrieving, placing] = phases;
        let row = Row::new("/gnu/store/x-a.drv", "x86_64-linux", Outcome::Built, started);
        Row { machine: Some(machine.to_owned()), slot, waiting, sending, building, retrieving, placing, ..row }
    }

    /// A machine, the number of the lane, and the times of its builds.
    type Shown = (String, u32, Vec<(Time, Time)>);

    fn shown(rows: &[Row]) -> Vec<Shown> {
        let spans = |lane: &Lane<'_>| lane.spans.iter().map(|span| (span.from, span.to)).collect();
        lanes(rows).iter().map(|lane| (lane.machine.to_owned(), lane.slot, spans(lane))).collect()
    }

    #[test]
    fn a_build_is_in_its_slot_from_the_end_of_the_wait_to_the_last_output() {
        let rows = [
            row("b2", Some(1), 100, [10, 1, 2, 3, 50]),
            row("b1", Some(3), 100, [0, 1, 2, 3, 4]),
            row("b2", Some(1), 90, [0, 1, 1, 1, 1]),
            Row { machine: None, ..row("b", None, 1, [1; 5]) },
        ];
        let expected = [("b1".to_owned(), 3, vec![(100, 106)]), ("b2".to_owned(), 1, vec![(90, 93), (110, 116)])];
        assert_eq!(shown(&rows), expected);
        let lane = &lanes(&rows)[1];
        let span = lane.spans[1];
        assert_eq!((span.requested, span.placed), (100, 166));
        assert_eq!(span.phases(), [("sending", 110, 111), ("building", 111, 113), ("retrieving", 113, 116)]);
    }

    #[test]
    fn a_build_without_a_slot_or_beside_another_gets_a_free_lane() {
        let rows = [
            row("b1", None, 0, [0, 0, 50, 0, 0]),
            row("b1", None, 10, [0, 0, 50, 0, 0]),
            row("b1", None, 55, [0, 0, 50, 0, 0]),
            row("b1", Some(1), 100, [0, 0, 50, 0, 0]),
            row("b1", Some(1), 110, [0, 0, 50, 0, 0]),
        ];
        let expected = [(0, vec![(0, 50), (55, 105)]), (1, vec![(10, 60), (100, 150)]), (2, vec![(110, 160)])];
        assert_eq!(shown(&rows), expected.map(|(slot, spans)| ("b1".to_owned(), slot, spans)));
    }

    #[test]
    fn a_short_overlap_is_cut_off_and_no_time_leaves_the_range() {
        let hour = 3_600_000;
        let rows = [row("b1", Some(0), 0, [0, 0, hour, 0, 0]), row("b1", Some(0), hour - 3600, [0, 1, 1, 9000, 0])];
        assert_eq!(shown(&rows)[0].2, [(0, hour), (hour, hour + 5402)]);
        let rows = [row("b1", Some(u32::MAX), u64::MAX, [u64::MAX; 5]), row("b1", Some(u32::MAX), 1, [u64::MAX; 5])];
        assert_eq!(shown(&rows), [("b1".to_owned(), u32::MAX, vec![(MAX_TIME, MAX_TIME); 2])]);
        // All at the same time: the lanes are limited.
        let many: Vec<Row> = (0..1010).map(|_| row("b1", None, 0, [0, 0, hour, 0, 0])).collect();
        assert_eq!(lanes(&many).len(), 1001);
    }
}
