//! Tables of the page, and the legends of pictures. A table has a caption, and headings for columns and rows. One that is too wide scrolls by itself.

use crate::commands::pictures::markup::Markup;
use crate::commands::pictures::units::{count, date, duration, iso, percent};
use crate::events::iec;
use crate::state::health::Time;
use crate::state::history::Outcome;

/// A cell. A number is aligned to the right.
#[derive(Clone, Debug)]
pub enum Cell {
    Text(String),
    /// Of several words.
    Long(String),
    Count(u64),
    Duration(u64),
    Bytes(u64),
    /// From 0 to 1.
    Share(f64),
    Time(Time),
    Outcome(Outcome),
    /// A state, with its class in the style sheet.
    State(&'static str, &'static str),
    /// Parts of a bar, from 0 to 1, with the class of each.
    Bar(Vec<(&'static str, f64)>),
    Unknown,
}

impl Cell {
    fn class(&self) -> &'static str {
        match self {
            Cell::Count(_) | Cell::Duration(_) | Cell::Bytes(_) => "number",
            Cell::Share(_) | Cell::Bar(_) => "share",
            Cell::Long(_) => "long",
            Cell::Time(_) | Cell::Outcome(_) | Cell::State(..) => "short",
            Cell::Text(_) | Cell::Unknown => "",
        }
    }

    fn write(&self, out: &mut Markup) {
        match self {
            Cell::Text(text) | Cell::Long(text) => out.text(text),
            Cell::Count(number) => out.text(count(*number)),
            Cell::Duration(millis) => out.text(duration(*millis)),
            Cell::Bytes(0) | Cell::Unknown => out.text("–"),
            Cell::Bytes(bytes) => out.text(iec(*bytes)),
            Cell::Share(share) => {
                bar(&[("fill-build", *share)], out);
                out.leaf("span", &[], percent(*share));
            }
            Cell::Time(time) => out.leaf("time", &[("datetime", &iso(*time))], date(*time)),
            Cell::Outcome(outcome) => {
                let (class, mark) = match outcome {
                    Outcome::Built => ("good", "✓"),
                    outcome if outcome.is_failure() => ("bad", "✗"),
                    _ => ("middle", "•"),
                };
                out.leaf("span", &[("class", &class)], format!("{mark} {outcome}"));
            }
            Cell::State(class, state) => out.leaf("span", &[("class", class)], state),
            Cell::Bar(parts) => bar(parts, out),
        }
    }
}

fn bar(parts: &[(&'static str, f64)], out: &mut Markup) {
    let attributes: crate::commands::pictures::markup::Attributes<'_> =
        &[("class", &"bar"), ("viewBox", &"0 0 1000 10"), ("preserveAspectRatio", &"none"), ("aria-hidden", &"true")];
    out.element("svg", attributes, |svg| {
        let mut x = 0.0;
        for (class, share) in parts {
            let width = share.clamp(0.0, 1.0) * 1000.0;
            let (left, wide) = (format!("{x:.0}"), format!("{width:.0}"));
            svg.empty("rect", &[("class", class), ("x", &left), ("width", &wide), ("height", &10)]);
            x += width;
        }
    });
}

/// A table.
pub struct Table {
    pub caption: String,
    pub class: &'static str,
    /// Those of numbers are aligned to the right.
    pub headings: Vec<&'static str>,
    pub rows: Vec<Vec<Cell>>,
    /// The sums.
    pub last: Option<Vec<Cell>>,
}

impl Table {
    pub fn new(caption: impl Into<String>, headings: &[&'static str], rows: Vec<Vec<Cell>>) -> Table {
        Table { caption: caption.into(), class: "", headings: headings.to_vec(), rows, last: None }
    }

    /// Writes the table, or `empty` if it has no rows.
    pub fn write(&self, empty: &str, out: &mut Markup) {
        if self.rows.is_empty() {
            return out.leaf("p", &[("class", &"empty")], empty);
        }
        let attributes: crate::commands::pictures::markup::Attributes<'_> =
            &[("class", &"scroll"), ("tabindex", &0), ("role", &"region"), ("aria-label", &self.caption)];
        out.element("div", attributes, |scroll| {
            scroll.element("table", &[("class", &self.class)], |table| {
                table.leaf("caption", &[], &self.caption);
                table.element("thead", &[], |head| head.element("tr", &[], |row| self.write_headings(row)));
                table.element("tbody", &[], |body| self.rows.iter().for_each(|cells| self.write_row(cells, body)));
                if let Some(last) = &self.last {
                    table.element("tfoot", &[], |foot| self.write_row(last, foot));
                }
            });
        });
    }

    /// Returns the class of a column's cells: `cell` may be unknown, and is aligned as the others are.
    fn class(&self, column: usize, cell: &Cell) -> &'static str {
        let is_number = |cells: &Vec<Cell>| cells.get(column).is_some_and(|cell| cell.class() == "number");
        match cell {
            Cell::Unknown if self.rows.iter().any(is_number) => "number",
            cell => cell.class(),
        }
    }

    fn write_headings(&self, row: &mut Markup) {
        for (column, heading) in self.headings.iter().enumerate() {
            row.leaf("th", &[("scope", &"col"), ("class", &self.class(column, &Cell::Unknown))], heading);
        }
    }

    /// Writes a row. Its first cell is its heading.
    fn write_row(&self, cells: &[Cell], out: &mut Markup) {
        out.element("tr", &[], |row| {
            for (column, cell) in cells.iter().enumerate() {
                match column {
                    0 => row.element("th", &[("scope", &"row")], |content| cell.write(content)),
                    _ => row.element("td", &[("class", &self.class(column, cell))], |content| cell.write(content)),
                }
            }
        });
    }
}

/// Writes an item of a legend.
pub fn legend_item(class: &str, name: &str, list: &mut Markup) {
    list.element("li", &[], |item| {
        item.element("svg", &[("width", &12), ("height", &12), ("aria-hidden", &"true"), ("class", &"chart")], |svg| {
            svg.empty("rect", &[("class", &class), ("width", &12), ("height", &12)]);
            if class == "fill-failed" {
                svg.leaf("text", &[("class", &"cross"), ("x", &2), ("y", &10)], "×");
            }
        });
        item.text(name);
    });
}
