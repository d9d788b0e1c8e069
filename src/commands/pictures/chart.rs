//! A timeline of slots: a lane for each slot of each machine, with the builds in it.
//!
//! The labels and the plot are two pictures, so that a page can move the plot alone. The plot has no width of its own: places are
//! percentages of the width that it gets. The longest builds are single marks, others a density (`marks`).

use super::lanes::{Lane, lanes};
use super::marks::{self, BARS, Period, percent};
use super::markup::Markup;
use super::time_axis::ticks;
use super::units::{MAX_TIME, counted};
use crate::state::history::Row;

/// The style of both pictures, for light and dark surroundings.
pub const STYLE: &str = include_str!("chart.css");

/// The most lanes of a chart.
const MAX_LANES: usize = 100;

/// The height of the axis, of the strip of waiting builds, of a lane, and of the space below these.
const AXIS: u32 = 24;
const QUEUE: u32 = 36;
const LANE: u32 = 20;
const GAP: u32 = 4;

/// Shorter waits are not drawn, in milliseconds: each build waits for an answer of its machine.
const MIN_WAIT: u64 = 1000;

/// The width of a character of a machine's name, and of a slot's number with the space around it, in pixels.
const CHARACTER: f64 = 7.6;
const NUMBER: u32 = 28;

/// The phases of the legend, with the class of each.
pub const LEGEND: [(&str, &str); 6] = [
    ("waiting", "fill-wait"),
    ("sending", "fill-send"),
    ("building", "fill-build"),
    ("retrieving", "fill-get"),
    ("placing", "fill-place"),
    ("failed", "fill-failed"),
];

/// A timeline.
pub struct Chart<'a> {
    lanes: Vec<Lane<'a>>,
    omitted: usize,
    period: Period,
    /// The average number of builds that waited for a machine, for each bar.
    waiting: Box<[f64; BARS]>,
}

impl<'a> Chart<'a> {
    /// Returns the timeline of the rows, or of those in `period`. `None`: no build was on a machine then.
    pub fn of(rows: &'a [Row], period: Option<(u64, u64)>) -> Option<Chart<'a>> {
        let mut lanes = lanes(rows);
        let spans = || lanes.iter().flat_map(|lane| &lane.spans);
        let period = match period {
            Some((from, to)) => Period { from, to },
            None => {
                Period { from: spans().map(|span| span.requested).min()?, to: spans().map(|span| span.placed).max()? }
            }
        };
        lanes.retain(|lane| lane.spans.iter().any(|span| period.has(span)));
        if lanes.is_empty() {
            return None;
        }
        let omitted = lanes.len().saturating_sub(MAX_LANES);
        lanes.truncate(MAX_LANES);
        let mut waiting = Box::new([0.0; BARS]);
        for row in rows.iter().filter(|row| row.waiting >= MIN_WAIT) {
            let from = row.started.min(MAX_TIME);
            period.add(from, from.saturating_add(row.waiting).min(MAX_TIME), &mut waiting);
        }
        let width = period.length() as f64 / BARS as f64;
        waiting.iter_mut().for_each(|bar| *bar /= width);
        Some(Chart { lanes, omitted, period, waiting })
    }

    /// Returns the first and the last time, in milliseconds since 1970.
    pub fn period(&self) -> (u64, u64) {
        (self.period.from, self.period.to)
    }

    /// Returns the largest number of builds that waited.
    fn most_waiting(&self) -> f64 {
        self.waiting.iter().copied().fold(0.0, f64::max)
    }

    /// Returns a sentence about the lanes that do not fit.
    pub fn note(&self) -> Option<String> {
        (self.omitted > 0).then(|| format!("{} more are not shown.", counted(self.omitted as u64, "slot")))
    }

    /// Returns the number of slots.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Returns the number of builds.
    pub fn builds(&self) -> u64 {
        let spans = self.lanes.iter().flat_map(|lane| &lane.spans);
        spans.filter(|span| self.period.has(span)).count() as u64
    }

    pub fn height(&self) -> u32 {
        self.lane_top(self.lanes.len())
    }

    fn lane_top(&self, at: usize) -> u32 {
        let queue = if self.most_waiting() > 0.0 { QUEUE + 2 * GAP } else { 0 };
        AXIS + queue + at as u32 * (LANE + GAP)
    }

    /// Draws the names of machines and slots, `width` pixels wide.
    pub fn labels(&self, width: u32, out: &mut Markup) {
        let text = |class: &str, x: u32, y: u32, text: &str, out: &mut Markup| {
            out.leaf("text", &[("class", &class), ("x", &x), ("y", &y)], text);
        };
        text("quiet", 0, 15, "UTC", out);
        if self.most_waiting() > 0.0 {
            text("name", 0, AXIS + 15, "waiting", out);
            text("quiet", 0, AXIS + 31, &format!("up to {} builds", self.most_waiting().ceil()), out);
        }
        let mut last = None;
        for (at, lane) in self.lanes.iter().enumerate() {
            let y = self.lane_top(at) + 14;
            if last.replace(lane.machine) != Some(lane.machine) {
                text("name", 0, y, &shortened(lane.machine, width), out);
            }
            text("quiet end", width - 8, y, &lane.slot.to_string(), out);
        }
    }

    /// Draws the axis and the builds.
    pub fn plot(&self, out: &mut Markup) {
        let coarse = ticks(self.period.from, self.period.to, 8);
        coarse.iter().for_each(|(time, label)| self.tick(*time, label, "", out));
        self.content(out);
    }

    /// Works like [`plot`](Self::plot), and adds ticks of the class `fine` for a plot that is wider.
    pub fn wide_plot(&self, out: &mut Markup) {
        let coarse = ticks(self.period.from, self.period.to, 8);
        for (time, label) in ticks(self.period.from, self.period.to, 100) {
            let class = if coarse.iter().any(|(other, _)| *other == time) { "" } else { "fine " };
            self.tick(time, &label, class, out);
        }
        self.content(out);
    }

    fn tick(&self, time: u64, label: &str, class: &str, out: &mut Markup) {
        let (place, height) = (self.period.place(time), self.height());
        let (x, end) = (percent(place), if place > 0.94 { " end" } else { "" });
        let grid = format!("{class}grid");
        out.empty("line", &[("class", &grid), ("x1", &x), ("x2", &x), ("y1", &AXIS), ("y2", &height)]);
        let class = format!("{class}quiet{end}");
        out.leaf("text", &[("class", &class), ("x", &x), ("y", &15)], label);
    }

    fn content(&self, out: &mut Markup) {
        if self.most_waiting() > 0.0 {
            self.queue(out);
        }
        let shortest = marks::shortest_single(&self.lanes, self.period);
        for (at, lane) in self.lanes.iter().enumerate() {
            let y = self.lane_top(at);
            out.empty("rect", &[("class", &"lane"), ("y", &y), ("width", &"100%"), ("height", &LANE)]);
            marks::draw(lane, self.period, shortest, (y, LANE), out);
        }
    }

    /// Draws the number of waiting builds.
    fn queue(&self, out: &mut Markup) {
        let most = self.most_waiting().ceil();
        let mut path = format!("M0 {QUEUE}");
        let mut last = f64::from(QUEUE);
        for (at, bar) in self.waiting.iter().enumerate() {
            let y = f64::from(QUEUE) * (1.0 - bar / most);
            if (y - last).abs() >= 0.1 {
                path += &format!("H{}V{y:.1}", at * 2);
                last = y;
            }
        }
        path += &format!("H{}V{QUEUE}Z", 2 * BARS);
        let frame = format!("0 0 {} {QUEUE}", 2 * BARS);
        let attributes: super::markup::Attributes<'_> = &[
            ("y", &AXIS),
            ("width", &"100%"),
            ("height", &QUEUE),
            ("viewBox", &frame),
            ("preserveAspectRatio", &"none"),
        ];
        out.element("svg", attributes, |svg| {
            svg.leaf("title", &[], "Builds that wait for a machine");
            svg.empty("path", &[("class", &"fill-wait"), ("d", &path)]);
        });
    }
}

/// Draws the colours and their meanings in a line at `y`, and returns its width.
pub fn legend((mut x, y): (u32, u32), out: &mut Markup) -> u32 {
    for (phase, class) in LEGEND {
        let top = y - 10;
        out.empty("rect", &[("class", &class), ("x", &x), ("y", &top), ("width", &12), ("height", &12)]);
        if class == "fill-failed" {
            out.leaf("text", &[("class", &"cross"), ("x", &(x + 2)), ("y", &y)], "×");
        }
        out.leaf("text", &[("x", &(x + 18)), ("y", &y)], phase);
        x += 34 + 7 * phase.len() as u32;
    }
    x
}

/// Returns a name that fits beside the number of a slot.
fn shortened(name: &str, width: u32) -> String {
    let most = (f64::from(width.saturating_sub(NUMBER)) / CHARACTER) as usize;
    match name.char_indices().nth(most) {
        Some(_) => name.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
        None => name.to_owned(),
    }
}
