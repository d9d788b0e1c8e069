//! The page: one file of HTML with its style, its script and its pictures.
//!
//! Names come from clients, machines and builders. [`Markup`] escapes them, and the page's Content Security Policy excludes what
//! could be inserted in spite of that: it allows this style and this script by their digests, and no request at all. Without
//! its script the page has the same contents. Source: the HTML standard; Content Security Policy level 3, 2.3.1.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::table::legend_item;
use super::{builds, causes, pool, waiting};
use crate::commands::machine_records::MachineRecord;
use crate::commands::pictures::chart::{self, Chart, LEGEND};
use crate::commands::pictures::lanes::lanes;
use crate::commands::pictures::markup::{Attributes, Markup};
use crate::commands::pictures::units::{count, counted, date, duration};
use crate::state::health::Time;
use crate::state::history::{Row, summarize};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The longest time of the timeline of slots, in milliseconds: a day.
const DETAIL: Time = 24 * 3600 * 1000;

/// The width of the names beside a timeline, in pixels.
const LABELS: u32 = 150;

/// What the page shows.
pub struct Report<'a> {
    /// In the order in which they ended.
    pub rows: &'a [Row],
    /// The machines of the machine file, or why it cannot be used.
    pub machines: Result<Vec<MachineRecord>, String>,
    /// The conditions that the rows fulfil, for people.
    pub filters: Vec<String>,
    pub since: Option<Time>,
    pub now: Time,
    pub version: &'a str,
}

/// Returns the page.
pub fn text(report: &Report<'_>) -> String {
    let mut page = Markup::default();
    page.trusted("<!DOCTYPE html>\n");
    page.element("html", &[("lang", &"en")], |html| {
        html.element("head", &[], |head| write_head(&title(report.rows), head));
        html.element("body", &[], |body| {
            body.leaf("a", &[("class", &"skip"), ("href", &"#main")], "Skip to the report");
            write_header(report, body);
            body.element("main", &[("id", &"main")], |main| write_sections(report, main));
            body.element("footer", &[], |footer| {
                let written = format!(
                    "Written by offload {} on {} UTC from the history of this head.",
                    report.version,
                    date(report.now)
                );
                footer.leaf("p", &[], format!("{written} Times of day are in UTC."));
            });
            body.element("script", &[], |script| script.trusted(SCRIPT));
        });
    });
    page.into_string() + "\n"
}

fn title(rows: &[Row]) -> String {
    let head = rows.iter().rev().map(|row| row.head.as_str()).find(|head| !head.is_empty());
    head.map_or("Builds".to_owned(), |head| format!("Builds of {head}"))
}

fn digest(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)))
}

fn write_head(title: &str, head: &mut Markup) {
    let policy = format!(
        "default-src 'none'; style-src {} {}; script-src {}; img-src data:; base-uri 'none'; form-action 'none'",
        digest(STYLE),
        digest(chart::STYLE),
        digest(SCRIPT)
    );
    head.empty("meta", &[("charset", &"utf-8")]);
    head.empty("meta", &[("http-equiv", &"Content-Security-Policy"), ("content", &policy)]);
    head.empty("meta", &[("name", &"viewport"), ("content", &"width=device-width, initial-scale=1")]);
    head.empty("meta", &[("name", &"color-scheme"), ("content", &"light dark")]);
    head.empty("meta", &[("name", &"referrer"), ("content", &"no-referrer")]);
    // Otherwise a browser requests an icon from the server of the page.
    head.empty("link", &[("rel", &"icon"), ("href", &"data:,")]);
    head.leaf("title", &[], title);
    head.element("style", &[], |style| style.trusted(STYLE));
    head.element("style", &[], |style| style.trusted(chart::STYLE));
}

const SECTIONS: [(&str, &str); 8] = [
    ("pool", "Pool"),
    ("timeline", "Timeline of slots"),
    ("waiting", "What waited for what"),
    ("builds", "Slowest and most frequent builds"),
    ("failures", "Failures"),
    ("local", "Why builds stayed here"),
    ("bytes", "Transfers"),
    ("last", "Last builds"),
];

fn write_header(report: &Report<'_>, out: &mut Markup) {
    out.element("header", &[], |header| {
        header.leaf("h1", &[], title(report.rows));
        let period = match pool::period(report.rows) {
            Some((from, to)) => {
                let rows = counted(report.rows.len() as u64, "row");
                format!("{} of the history, {} to {} UTC.", rows, date(from), date(to))
            }
            None => "The history has no rows in this period.".to_owned(),
        };
        header.leaf("p", &[("class", &"lead")], period);
        if !report.filters.is_empty() {
            header.leaf("p", &[("class", &"lead")], format!("Only {}.", report.filters.join(", ")));
        }
        pool::write_figures(report.rows, header);
        header.element("nav", &[("aria-label", &"Sections")], |nav| {
            nav.element("ul", &[], |list| {
                for (id, name) in SECTIONS {
                    let target = format!("#{id}");
                    list.element("li", &[], |item| item.leaf("a", &[("href", &target)], name));
                }
            });
        });
    });
}

fn write_sections(report: &Report<'_>, out: &mut Markup) {
    let rows = report.rows;
    let first = report.since.or(pool::period(rows).map(|(from, _)| from)).unwrap_or(report.now);
    let last = pool::period(rows).map_or(report.now, |(_, to)| to);
    let summaries = summarize(rows, (first, last));
    section(
        0,
        "Busy is the share of the period in which at least one build had a slot. Lost attempts failed because of the machine, and were repeated on another one. Overhead is the median time of a build for connecting, sending, retrieving and placing.",
        out,
        |out| {
            if let Err(why) = &report.machines {
                let text = format!("The machine file cannot be used, so that slots and states are unknown: {why}");
                out.leaf("p", &[("class", &"empty")], text);
            }
            pool::write_machines(report.machines.as_deref().unwrap_or(&[]), &summaries, out);
        },
    );
    let detail = "Each line is a slot of a machine. The longest builds are drawn one by one, and have their times as a tooltip; bars show how much of a slot the others took.";
    section(1, detail, out, |out| write_timeline(rows, out));
    section(
        2,
        "An accepted build waits if all slots of its machines are taken. It follows the build that releases the slot.",
        out,
        |out| {
            waiting::write(&lanes(rows), out);
        },
    );
    section(3, "", out, |out| {
        out.element("div", &[("class", &"pair")], |pair| {
            pair.element("div", &[], |half| builds::write_slowest(rows, half));
            pair.element("div", &[], |half| builds::write_frequent(rows, half));
        });
    });
    section(4, "", out, |out| causes::write_failures(rows, out));
    let local = "Requests that were declined are built on this machine; guix-daemon repeats those that were postponed.";
    section(5, local, out, |out| causes::write_local(rows, out));
    let bytes = "Inputs go from this machine to the build machine, or the machine fetches them from its substitute servers. Outputs come back.";
    section(6, bytes, out, |out| pool::write_bytes(&summaries, out));
    section(7, "", out, |out| builds::write_last(rows, out));
}

fn section(number: usize, lead: &str, out: &mut Markup, content: impl FnOnce(&mut Markup)) {
    let (id, name) = SECTIONS[number];
    let heading = format!("{id}-heading");
    out.element("section", &[("id", &id), ("aria-labelledby", &heading)], |section| {
        section.leaf("h2", &[("id", &heading)], name);
        if !lead.is_empty() {
            section.leaf("p", &[("class", &"lead")], lead);
        }
        content(section);
    });
}

fn write_timeline(rows: &[Row], out: &mut Markup) {
    let Some(whole) = Chart::of(rows, None) else {
        return out.leaf("p", &[("class", &"empty")], "No build was on a machine in this period.");
    };
    let (from, to) = whole.period();
    let day = to.saturating_sub(DETAIL).max(from);
    out.element("ul", &[("class", &"legend")], |list| {
        LEGEND.iter().for_each(|(name, class)| legend_item(class, name, list));
    });
    if day > from {
        out.leaf("h3", &[], "The last day");
        if let Some(chart) = Chart::of(rows, Some((day, to))) {
            write_chart("the last day", &chart, out);
        }
        out.leaf("h3", &[], "The whole period");
    }
    write_chart("the whole period", &whole, out);
}

fn write_chart(name: &str, chart: &Chart<'_>, out: &mut Markup) {
    let (from, to) = chart.period();
    let height = chart.height();
    let note = chart.note().unwrap_or_default();
    let text = format!("{} to {} UTC, {}. {note}", date(from), date(to), duration(to - from));
    out.leaf("p", &[("class", &"quiet")], text.trim_end());
    let title = format!("Timeline of slots, {name}");
    out.element("div", &[("class", &"timeline")], |timeline| {
        let attributes: Attributes<'_> =
            &[("class", &"chart"), ("width", &LABELS), ("height", &height), ("aria-hidden", &"true")];
        timeline.element("svg", attributes, |svg| chart.labels(LABELS, svg));
        let region: Attributes<'_> =
            &[("class", &"scroll"), ("tabindex", &0), ("role", &"region"), ("aria-label", &title)];
        timeline.element("div", region, |scroll| {
            let builds =
                format!("{title}: {} builds in {}", count(chart.builds()), counted(chart.lanes() as u64, "slot"));
            let attributes: Attributes<'_> = &[
                ("class", &"chart"),
                ("width", &"100%"),
                ("height", &height),
                ("role", &"img"),
                ("aria-label", &builds),
            ];
            scroll.element("svg", attributes, |svg| chart.wide_plot(svg));
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::history::Outcome;

    fn page(rows: &[Row], machines: Result<Vec<MachineRecord>, String>) -> String {
        let filters = vec!["machine 'b<1>'".to_owned()];
        text(&Report { rows, machines, filters, since: None, now: 9_000_000, version: "1.2.3" })
    }

    #[test]
    fn text_from_outside_is_nowhere_a_part_of_the_page() {
        let hostile = "<script>alert(1)</script>\"'&\u{202e}";
        let row = Row::new(&format!("/gnu/store/x-{hostile}.drv"), hostile, Outcome::Built, 1000);
        let row = Row { user: Some(hostile.to_owned()), head: hostile.to_owned(), ..row };
        let machine = Some(hostile.to_owned());
        let reason = Some(hostile.to_owned());
        let rows = Outcome::ALL.iter().map(|&outcome| match outcome.is_request() {
            true => Row { outcome, reason: reason.clone(), ..row.clone() },
            false => Row {
                outcome,
                reason: reason.clone(),
                machine: machine.clone(),
                waiting: 2000,
                building: 5000,
                sent_bytes: 7,
                ..row.clone()
            },
        });
        let record = MachineRecord { name: hostile.to_owned(), ..MachineRecord::default() };
        let rows: Vec<Row> = rows.collect();
        for machines in [Ok(vec![record]), Err(hostile.to_owned())] {
            let page = page(&rows, machines);
            assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;\\u{202e}"));
            assert_eq!((page.matches("<script").count(), page.matches("alert(1)<").count()), (1, 0));
            assert!(!page.contains('\u{202e}') && page.contains("machine &#39;b&lt;1&gt;&#39;"));
        }
    }

    #[test]
    fn an_empty_history_has_a_page_that_says_so() {
        let page = page(&[], Ok(Vec::new()));
        for (id, _) in SECTIONS {
            assert!(page.contains(&format!("<section id=\"{id}\"")), "{id}");
        }
        assert!(
            page.contains("Nothing failed in this period.") && page.contains("Written by offload 1.2.3 on 1 Jan 1970")
        );
        assert_eq!(page.matches("class=\"empty\"").count(), 9);
    }
}
