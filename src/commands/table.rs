//! Tables for people: columns two spaces apart, numbers aligned to the right, no lines.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};

use super::terminal::{Terminal, plain};

/// The space between two columns.
pub const GAP: u16 = 2;

/// The heading of a column.
#[derive(Clone, Copy, Debug)]
pub enum Heading {
    Text(&'static str),
    /// A column of numbers.
    Number(&'static str),
}

impl Heading {
    pub fn text(self) -> &'static str {
        match self {
            Heading::Text(text) | Heading::Number(text) => text,
        }
    }
}

/// A column of a table that omits columns if the terminal is too narrow.
pub struct Column<T> {
    pub heading: Heading,
    /// A column of rank 0 is never omitted; the highest rank is omitted first.
    pub rank: usize,
    /// `None`: the value is not known.
    pub cell: fn(&T) -> Option<String>,
}

/// Returns the lines of a table, the heading first, and a note about the columns that were omitted, if there are any.
pub fn fitted<T>(columns: &[Column<T>], rows: &[T], terminal: Terminal) -> (Vec<String>, Option<String>) {
    let mut table = table(&columns.iter().map(|column| column.heading).collect::<Vec<_>>());
    for row in rows {
        let cell = |column: &Column<T>| (column.cell)(row).unwrap_or_else(|| "-".to_owned());
        table.add_row(columns.iter().map(|column| plain(&cell(column)).into_owned()));
    }
    let mut optional: Vec<usize> = (0..columns.len()).filter(|&at| columns[at].rank > 0).collect();
    optional.sort_by_key(|&at| columns[at].rank);
    let mut left_out = Vec::new();
    while width(&table) > terminal.width.unwrap_or(usize::MAX) {
        let Some(last) = optional.pop() else { break };
        hide(&mut table, last);
        left_out.push(columns[last].heading.text());
    }
    left_out.reverse();
    let note = format!("(too narrow for {}; --format=recutils has all)", left_out.join(", "));
    (lines(&table), (!left_out.is_empty()).then(|| terminal.wrap(0, &note)))
}

/// Returns a table with these headings, without rows.
pub fn table(headings: &[Heading]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| heading.text()));
    for (column, heading) in table.column_iter_mut().zip(headings) {
        column.set_padding((0, GAP));
        if let Heading::Number(_) = heading {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Returns the width of the printed table.
pub fn width(table: &Table) -> usize {
    let shown = table.column_iter().zip(table.column_max_content_widths()).filter(|(column, _)| !column.is_hidden());
    shown.map(|(_, width)| usize::from(width + GAP)).sum::<usize>().saturating_sub(GAP.into())
}

/// Hides a column.
pub fn hide(table: &mut Table, column: usize) {
    if let Some(column) = table.column_mut(column) {
        column.set_constraint(ColumnConstraint::Hidden);
    }
}

/// Returns the lines of the table, the heading first, without trailing spaces.
pub fn lines(table: &Table) -> Vec<String> {
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Table {
        let mut table = table(&[Heading::Text("NAME"), Heading::Number("SLOTS"), Heading::Text("NOTES")]);
        table.add_row(["b1", "12", "-"]).add_row(["été", "4", "a long note that is not wrapped"]);
        table
    }

    #[test]
    fn numbers_are_aligned_to_the_right() {
        let expected = ["NAME  SLOTS  NOTES", "b1       12  -", "été       4  a long note that is not wrapped"];
        assert_eq!(lines(&example()), expected);
        assert_eq!(width(&example()), expected[2].chars().count());
    }

    #[test]
    fn a_hidden_column_takes_no_room() {
        let mut table = example();
        hide(&mut table, 2);
        assert_eq!(lines(&table), ["NAME  SLOTS", "b1       12", "été       4"]);
        assert_eq!(width(&table), 11);
    }
}
