//! The timeline as an SVG file: title, legend, labels and plot, on a background that is light or dark as its reader prefers.
//!
//! Source: SVG 1.1. The file has no script and refers to no other file.

use super::chart::{self, Chart};
use super::markup::Markup;
use super::units::date;
use crate::state::history::Row;

const WIDTH: u32 = 1200;
const MARGIN: u32 = 20;
const HEADER: u32 = 72;
const LABELS: u32 = 190;

/// The colours of the background, and the style of the chart.
const BACKGROUND: &str = ".background{fill:#fff}@media (prefers-color-scheme:dark){.background{fill:#10151c}}";

/// Returns the file. `title` says what it shows.
pub fn text(rows: &[Row], title: &str) -> String {
    let chart = Chart::of(rows, None);
    let height = HEADER + MARGIN + chart.as_ref().map_or(2 * MARGIN, Chart::height);
    let frame = format!("0 0 {WIDTH} {height}");
    let mut out = Markup::default();
    let attributes: super::markup::Attributes<'_> = &[
        ("xmlns", &"http://www.w3.org/2000/svg"),
        ("class", &"chart"),
        ("viewBox", &frame),
        ("width", &WIDTH),
        ("height", &height),
        ("role", &"img"),
        ("aria-labelledby", &"title"),
    ];
    out.element("svg", attributes, |svg| {
        svg.leaf("title", &[("id", &"title")], title);
        svg.element("style", &[], |style| {
            style.trusted(BACKGROUND);
            style.trusted(chart::STYLE);
        });
        svg.empty("rect", &[("class", &"background"), ("width", &"100%"), ("height", &"100%")]);
        svg.leaf("text", &[("class", &"title"), ("x", &MARGIN), ("y", &28)], title);
        let Some(chart) = chart else {
            let y = HEADER - 20;
            svg.leaf("text", &[("class", &"quiet"), ("x", &MARGIN), ("y", &y)], "No build was on a machine.");
            return;
        };
        let (from, to) = chart.period();
        let period = format!("{} to {} UTC. {}", date(from), date(to), chart.note().unwrap_or_default());
        svg.leaf("text", &[("class", &"quiet"), ("x", &MARGIN), ("y", &50)], period.trim_end());
        let y = 50;
        chart::legend((680, y), svg);
        let place = format!("translate({MARGIN} {HEADER})");
        svg.element("g", &[("transform", &place)], |labels| chart.labels(LABELS, labels));
        let (x, width, height) = (MARGIN + LABELS, WIDTH - 2 * MARGIN - LABELS, chart.height());
        svg.element("svg", &[("x", &x), ("y", &HEADER), ("width", &width), ("height", &height)], |plot| {
            chart.plot(plot);
        });
    });
    out.into_string() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::history::Outcome;

    fn row(name: &str, number: u64) -> Row {
        let row = Row::new(&format!("/gnu/store/x-{name}.drv"), "x86_64-linux", Outcome::Built, number * 1000);
        let (machine, slot) = (Some(format!("b{}", number % 70)), Some((number / 70 % 10) as u32));
        Row { machine, slot, waiting: 5, sending: 100, building: 600_000 + number, retrieving: 100, placing: 5, ..row }
    }

    #[test]
    fn builds_have_titles_and_failures_a_cross() {
        let failed = Row { outcome: Outcome::BuildFailed, reason: Some("<why>".to_owned()), ..row("bad", 1) };
        let text = text(&[row("good&", 0), failed], "The title");
        for part in [
            "<title id=\"title\">The title</title>",
            "<title>good&amp;: built on b0, slot 0\n1 Jan 1970, 00:00 UTC · waiting 5 ms · sending 100 ms · building 10 min",
            "<g class=\"mark failed\"><title>bad: build-failed on b1, slot 0\n",
            "&lt;why&gt;</title>",
            ">×</text></g>",
            ">00:04</text>",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(text.matches("class=\"lane\"").count(), 2);
        assert!(super::text(&[], "x").contains("No build was on a machine."));
    }

    #[test]
    fn the_size_does_not_grow_with_the_number_of_builds() {
        let rows: Vec<Row> = (0..100_000).map(|number| row("a-name-of-some-length-1.2.3", number)).collect();
        let size = |count: usize| text(&rows[..count], "x").len();
        let (some, all) = (size(50_000), size(100_000));
        assert!(all < 3 << 20 && all < some * 3 / 2, "{some} {all}");
    }
}
