//! The builds of a timeline: the longest are drawn one by one, with a title each, and all others as a density.
//!
//! So the size of a chart depends on its width and its number of lanes, and not on the number of builds. A density has a bar for
//! each 1/500 of the width. Its height is the share of that time in which the slot was taken.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::lanes::{Lane, Span};
use super::markup::Markup;
use super::units::{count, date, duration};
use crate::state::health::Time;

/// The most builds of a chart that are drawn one by one.
const MAX_SINGLE: usize = 1500;

/// Builds that are shorter than this share of the whole time are not drawn one by one.
const MIN_SHARE: f64 = 0.002;

/// Failures that are shorter have no cross: it would be wider than they are.
const MIN_CROSS: f64 = 0.01;

/// The number of bars of a density.
pub const BARS: usize = 500;

/// The time of a chart, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    pub from: Time,
    pub to: Time,
}

impl Period {
    pub fn length(self) -> u64 {
        self.to.saturating_sub(self.from).max(1)
    }

    /// Returns the place of a time, from 0 to 1.
    pub fn place(self, time: Time) -> f64 {
        time.clamp(self.from, self.to.max(self.from)).saturating_sub(self.from) as f64 / self.length() as f64
    }

    /// Returns whether a part of the span is in the period.
    pub fn has(self, span: &Span<'_>) -> bool {
        span.to >= self.from && span.from <= self.to
    }

    /// Adds the time between two moments to the bars, in milliseconds.
    pub fn add(self, from: Time, to: Time, bars: &mut [f64; BARS]) {
        let (from, to) = (self.place(from) * BARS as f64, self.place(to) * BARS as f64);
        let width = self.length() as f64 / BARS as f64;
        for (at, bar) in bars.iter_mut().enumerate().take(to.ceil() as usize).skip(from as usize) {
            *bar += (to.min(at as f64 + 1.0) - from.max(at as f64)).max(0.0) * width;
        }
    }
}

/// A length or a place in a picture of any width.
pub fn percent(place: f64) -> String {
    let text = format!("{:.3}", place * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Returns the lengths from which on builds are drawn one by one: the longest ones of all lanes.
pub fn shortest_single(lanes: &[Lane<'_>], period: Period) -> u64 {
    let least = (period.length() as f64 * MIN_SHARE) as u64;
    let spans = lanes.iter().flat_map(|lane| &lane.spans).filter(|span| period.has(span));
    let mut lengths: Vec<u64> = spans.map(|span| span.to - span.from).filter(|length| *length >= least).collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    lengths.get(MAX_SINGLE).map_or(least, |length| length + 1).max(1)
}

/// The phases in a slot, with the class of each in the style sheet.
const PHASES: [(&str, &str, &str); 3] = [
    ("sending", "fill-send", "line-send"),
    ("building", "fill-build", "line-build"),
    ("retrieving", "fill-get", "line-get"),
];

/// Draws the builds of a lane, in a picture of the height `height` at `y`.
pub fn draw(lane: &Lane<'_>, period: Period, shortest: u64, (y, height): (u32, u32), out: &mut Markup) {
    let is_single = |span: &Span<'_>| span.to - span.from >= shortest;
    let shown = || lane.spans.iter().filter(|span| period.has(span));
    density(shown().filter(|span| !is_single(span)), period, (y, height), out);
    shown().filter(|span| is_single(span)).for_each(|span| single(lane, span, period, (y, height), out));
}

fn single(lane: &Lane<'_>, span: &Span<'_>, period: Period, (y, height): (u32, u32), out: &mut Markup) {
    let is_failure = span.row.outcome.is_failure();
    let class = if is_failure { "mark failed" } else { "mark" };
    out.element("g", &[("class", &class)], |mark| {
        mark.leaf("title", &[], title(lane, span));
        let mut part = |class: &str, from: Time, to: Time, (y, height): (u32, u32)| {
            let (x, end) = (period.place(from), period.place(to));
            if end > x {
                let (x, width) = (percent(x), percent(end - x));
                mark.empty("rect", &[("class", &class), ("x", &x), ("y", &y), ("width", &width), ("height", &height)]);
            }
        };
        for ((_, from, to), (_, class, _)) in span.phases().into_iter().zip(PHASES) {
            part(class, from, to, (y, height));
        }
        part("fill-place", span.to, span.placed, (y + height * 2 / 3, height / 3));
        if is_failure && period.place(span.to) - period.place(span.from) > MIN_CROSS {
            let (end, y) = (percent(period.place(span.to)), y + height - 4);
            mark.leaf("text", &[("class", &"cross"), ("x", &end), ("y", &y), ("dx", &-10)], "×");
        }
    });
}

/// Returns the text that describes a build.
fn title(lane: &Lane<'_>, span: &Span<'_>) -> String {
    let row = span.row;
    let mut text = format!("{}: {} on {}, slot {}\n", row.name, row.outcome, lane.machine, lane.slot);
    let _ = write!(text, "{} UTC", date(row.started));
    for (phase, millis) in [
        ("waiting", row.waiting),
        ("sending", row.sending),
        ("building", row.building),
        ("retrieving", row.retrieving),
        ("placing", row.placing),
    ] {
        if millis > 0 {
            let _ = write!(text, " · {phase} {}", duration(millis));
        }
    }
    if let Some(reason) = &row.reason {
        let _ = write!(text, "\n{}", reason.chars().take(200).collect::<String>());
    }
    text
}

fn density<'a>(spans: impl Iterator<Item = &'a Span<'a>>, period: Period, (y, height): (u32, u32), out: &mut Markup) {
    let mut bars = [[0.0; BARS]; PHASES.len()];
    let (mut failed, mut number) = (BTreeSet::new(), 0);
    for span in spans {
        number += 1;
        for ((_, from, to), bars) in span.phases().into_iter().zip(&mut bars) {
            period.add(from, to, bars);
        }
        if span.row.outcome.is_failure() {
            failed.insert(((period.place(span.to) * BARS as f64) as usize).min(BARS - 1));
        }
    }
    if number == 0 {
        return;
    }
    let frame = format!("0 0 {} {height}", 2 * BARS);
    let attributes: super::markup::Attributes<'_> =
        &[("y", &y), ("width", &"100%"), ("height", &height), ("viewBox", &frame), ("preserveAspectRatio", &"none")];
    out.element("svg", attributes, |svg| {
        svg.leaf("title", &[], format!("{} builds, too short or too many to be shown one by one", count(number)));
        let paths = paths(&bars, period.length() as f64 / BARS as f64, height);
        for (path, (_, _, class)) in paths.iter().zip(PHASES).filter(|(path, _)| !path.is_empty()) {
            svg.empty("path", &[("class", &class), ("d", path)]);
        }
        let failed: String = failed.iter().map(|at| format!("M{} 0v4", at * 2 + 1)).collect();
        if !failed.is_empty() {
            svg.empty("path", &[("class", &"line-failed"), ("d", &failed)]);
        }
    });
}

/// Returns a path for each phase. The bars of the phases are stacked.
fn paths(bars: &[[f64; BARS]; 3], width: f64, height: u32) -> [String; 3] {
    let mut paths = [const { String::new() }; 3];
    for at in 0..BARS {
        let mut below = 0;
        for (path, bars) in paths.iter_mut().zip(bars) {
            // A short build can be seen, too.
            let share = (bars[at] / width * f64::from(height)).round() as u32;
            let high = if bars[at] > 0.0 { share.max(1).min(height - below) } else { 0 };
            if high > 0 {
                let _ = write!(path, "M{} {}v-{high}", at * 2 + 1, height - below);
                below += high;
            }
        }
    }
    paths
}
