//! What waited for what: a build that waited got its slot when the build before it in that slot released it.
//!
//! Not known here: a wait for a machine that did not respond or had too much load. Such a build found its slot free.

use std::collections::HashMap;

use super::table::{Cell, Table};
use crate::commands::pictures::lanes::{Lane, Span};
use crate::commands::pictures::markup::Markup;

/// Shorter waits are not listed, in milliseconds.
const MIN_WAIT: u64 = 1000;

/// The most rows of a table.
const MAX_ROWS: usize = 15;

/// A build that waited.
struct Wait<'a> {
    lane: &'a Lane<'a>,
    span: &'a Span<'a>,
    /// The build that had the slot meanwhile.
    holder: Option<&'a Span<'a>>,
}

impl Wait<'_> {
    fn length(&self) -> u64 {
        self.span.row.waiting
    }

    fn cause(&self) -> String {
        let slot = self.lane.slot;
        match self.holder {
            Some(holder) => format!("{} to release slot {slot}", holder.row.name),
            None if self.span.row.attempt > 1 => "another machine, after a failed attempt".to_owned(),
            None => "a machine that responds and has room".to_owned(),
        }
    }
}

fn waits<'a>(lanes: &'a [Lane<'a>]) -> Vec<Wait<'a>> {
    let mut waits = Vec::new();
    for lane in lanes {
        for (at, span) in lane.spans.iter().enumerate().filter(|(_, span)| span.row.waiting >= MIN_WAIT) {
            let before = at.checked_sub(1).map(|before| &lane.spans[before]);
            waits.push(Wait { lane, span, holder: before.filter(|before| before.to > span.requested) });
        }
    }
    waits.sort_by_key(|wait| std::cmp::Reverse(wait.length()));
    waits
}

/// Writes the longest waits, and the builds for which others waited.
pub fn write(lanes: &[Lane<'_>], out: &mut Markup) {
    let waits = waits(lanes);
    let text = |text: &str| Cell::Text(text.to_owned());
    let longest = waits.iter().take(MAX_ROWS).map(|wait| {
        let machine = text(wait.lane.machine);
        vec![text(&wait.span.row.name), Cell::Duration(wait.length()), Cell::Long(wait.cause()), machine]
    });
    let mut holders: HashMap<&str, (u64, u64)> = HashMap::new();
    for (wait, holder) in waits.iter().filter_map(|wait| Some((wait, wait.holder?))) {
        let (count, sum) = holders.entry(&holder.row.name).or_default();
        (*count, *sum) = (*count + 1, sum.saturating_add(wait.length()));
    }
    let mut holders: Vec<_> = holders.into_iter().collect();
    holders.sort_by(|(a, (_, first)), (b, (_, second))| second.cmp(first).then(a.cmp(b)));
    let holders = holders.into_iter().take(MAX_ROWS);
    let holders = holders.map(|(name, (count, sum))| vec![text(name), Cell::Count(count), Cell::Duration(sum)]);
    let longest = Table::new("The longest waits", &["Build", "Waited", "For", "Then built on"], longest.collect());
    let holders = Table::new("Builds for which others waited", &["Build", "Waits", "Sum"], holders.collect());
    longest.write("No build waited for a second or longer: there was a free slot for each.", out);
    if !longest.rows.is_empty() {
        holders.write("No build held a slot that another one waited for.", out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::pictures::lanes::lanes;
    use crate::state::history::{Outcome, Row};

    #[test]
    fn a_build_waits_for_the_one_before_it_in_its_slot() {
        let row = |name: &str, attempt, started, waiting, building| {
            let row = Row::new(&format!("/gnu/store/x-{name}.drv"), "x86_64-linux", Outcome::Built, started);
            Row { machine: Some("b1".to_owned()), slot: Some(0), attempt, waiting, building, ..row }
        };
        let rows = [
            row("first", 1, 0, 0, 5000),
            row("second", 1, 1000, 4000, 1000),
            // The slot was free.
            row("third", 1, 7000, 2000, 1000),
            row("again", 2, 20_000, 1500, 1000),
            row("soon", 1, 30_000, 999, 1),
        ];
        let lanes = lanes(&rows);
        let found: Vec<_> = waits(&lanes).iter().map(|wait| (wait.span.row.name.clone(), wait.cause())).collect();
        let expected = [
            ("second", "first to release slot 0"),
            ("third", "a machine that responds and has room"),
            ("again", "another machine, after a failed attempt"),
        ];
        assert_eq!(found, expected.map(|(name, cause)| (name.to_owned(), cause.to_owned())));
        let mut out = Markup::default();
        write(&lanes, &mut out);
        let holders = "<th scope=\"row\">first</th><td class=\"number\">1</td><td class=\"number\">4.0 s</td>";
        assert!(out.into_string().contains(holders));
    }
}
