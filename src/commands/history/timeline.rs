//! `offload history --timeline FILE` draws the rows: in Chrome's trace format, or as a chart in SVG.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::commands::pictures::{svg_file, trace};
use crate::state::history::{Filter, Row};

/// The file, whose name has the format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    pub file: PathBuf,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Trace,
    Svg,
}

/// Parses the name of a file.
pub fn parse(file: &str) -> Result<Timeline, String> {
    let format = match Path::new(file).extension().and_then(|extension| extension.to_str()) {
        Some("json") => Format::Trace,
        Some("svg") => Format::Svg,
        _ => return Err("expected a name that ends in .json or .svg".to_owned()),
    };
    Ok(Timeline { file: PathBuf::from(file), format })
}

impl Timeline {
    /// Writes the contents of the file.
    pub fn write(&self, rows: &[Row], filter: &Filter, out: &mut dyn Write) -> io::Result<()> {
        match self.format {
            Format::Trace => trace::write(rows, out),
            Format::Svg => out.write_all(svg_file::text(rows, &title(rows, filter)).as_bytes()),
        }
    }
}

/// Returns what the picture shows.
fn title(rows: &[Row], filter: &Filter) -> String {
    let heads: std::collections::BTreeSet<&str> = rows.iter().map(|row| row.head.as_str()).collect();
    let of = match heads.into_iter().filter(|head| !head.is_empty()).collect::<Vec<_>>()[..] {
        [head] => format!("Builds of {head}"),
        _ => "Builds".to_owned(),
    };
    filter.name.iter().fold(of, |title, name| format!("{title}: {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::history::Outcome;

    #[test]
    fn the_name_of_the_file_has_the_format() {
        assert_eq!(parse("a/b.json").unwrap().format, Format::Trace);
        assert_eq!(parse("b.svg").unwrap().format, Format::Svg);
        for file in ["", "svg", ".svg", "x.png", "x.svg.gz"] {
            assert!(parse(file).is_err(), "{file}");
        }
    }

    #[test]
    fn the_title_has_the_head_if_there_is_one() {
        let row = |head: &str| Row { head: head.to_owned(), ..Row::new("/x-a.drv", "s", Outcome::Built, 1) };
        let name = Filter { name: Some("a".to_owned()), ..Filter::default() };
        assert_eq!(title(&[row("h"), row("h"), row("")], &Filter::default()), "Builds of h");
        assert_eq!(title(&[row("h"), row("i")], &name), "Builds: a");
    }
}
