//! Manual pages in roff (man(7)), from text in which `` `code` `` is set bold and `*variables*` italic.

use roff::{Inline, Roff, bold, italic, roman};

use super::markdown::{Block, Font, Span, plain};

/// A page.
#[derive(Default)]
pub struct Page {
    title: String,
    body: Roff,
    /// The last control begins a section or an indented part, so that a paragraph begins there anyway.
    is_at_start: bool,
}

impl Page {
    /// Sets the line at the top: name, section of the manual. The date is empty.
    pub fn title(&mut self, name: &str, section: &str) {
        let source = concat!("offload ", env!("CARGO_PKG_VERSION"));
        let name = name.replace('-', "\\-");
        self.title = format!(".TH {name} {section} \"\" \"{source}\" \"offload\"\n");
    }

    fn control<'a>(&mut self, name: &str, arguments: impl IntoIterator<Item = &'a str>) {
        if name != "PP" || !self.is_at_start {
            self.body.control(name, arguments);
        }
        self.is_at_start = matches!(name, "SH" | "SS" | "RS");
    }

    fn text(&mut self, inlines: Vec<Inline>) {
        self.body.text(inlines);
        self.is_at_start = false;
    }

    pub fn section(&mut self, heading: &str) {
        self.control("SH", [heading]);
    }

    pub fn subsection(&mut self, heading: &str) {
        self.control("SS", [heading]);
    }

    pub fn paragraph(&mut self, text: &str) {
        self.control("PP", []);
        self.text(inlines(text));
    }

    /// Adds a term with its meaning.
    pub fn item(&mut self, what: &str, meaning: &str) {
        self.control("TP", []);
        self.text(inlines(what));
        self.text(inlines(meaning));
    }

    /// Adds unchanged lines.
    pub fn example(&mut self, lines: &str) {
        self.control("PP", []);
        self.control("EX", []);
        for line in lines.lines() {
            self.text(vec![roman(line)]);
        }
        self.control("EE", []);
    }

    /// Adds the forms of a command, each in its line.
    pub fn synopsis(&mut self, forms: &[String]) {
        self.section("SYNOPSIS");
        for form in forms {
            self.control("PP", []);
            self.text(form_inlines(form));
        }
    }

    /// Adds blocks of the manual.
    pub fn blocks(&mut self, blocks: &[Block]) {
        blocks.iter().for_each(|block| self.block(block));
    }

    fn block(&mut self, block: &Block) {
        match block {
            Block::Heading(text, _) => {
                self.control("SS", [plain(text).as_str()]);
            }
            Block::Paragraph(text) => {
                self.control("PP", []);
                self.text(spans(text));
            }
            Block::List(items) => items.iter().for_each(|(mark, item)| self.list_item(mark, item)),
            Block::Table { header, rows } => rows.iter().for_each(|row| self.row(header, row)),
            Block::Example { lines, .. } => {
                self.control("PP", []);
                self.control("RS", ["4"]);
                self.control("EX", []);
                // A line of spaces would be a paragraph to some programs.
                lines.lines().for_each(|line| {
                    self.text(vec![roman(line.trim_end())]);
                });
                self.control("EE", []);
                self.control("RE", []);
            }
            Block::Quote(blocks) => {
                self.control("RS", ["4"]);
                self.blocks(blocks);
                self.control("RE", []);
            }
        }
    }

    fn list_item(&mut self, mark: &str, blocks: &[Block]) {
        self.control("IP", [mark, "4"]);
        for (at, block) in blocks.iter().enumerate() {
            match block {
                Block::Paragraph(text) => {
                    if at > 0 {
                        self.control("IP", []);
                    }
                    self.text(spans(text));
                }
                block => {
                    self.control("RS", ["4"]);
                    self.block(block);
                    self.control("RE", []);
                }
            }
        }
    }

    /// Adds a row of a table: its first cell is a term, and the others are its meaning. If there are more than two, each
    /// has its heading.
    fn row(&mut self, header: &[Vec<Span>], row: &[Vec<Span>]) {
        let Some((term, cells)) = row.split_first() else { return };
        let mut meaning: Vec<Inline> = Vec::new();
        for (cell, heading) in cells.iter().zip(header.iter().skip(1)).filter(|(cell, _)| !cell.is_empty()) {
            if !meaning.is_empty() {
                meaning.push(roman("; "));
            }
            if cells.len() > 1 && !heading.is_empty() {
                meaning.push(roman(format!("{}: ", plain(heading))));
            }
            meaning.extend(spans(cell));
        }
        self.control("TP", []);
        self.text(spans(term));
        self.text(if meaning.is_empty() { vec![roman("See above.")] } else { meaning });
    }

    /// Returns the page in roff, with the preamble that keeps apostrophes unchanged.
    pub fn whole(&self) -> String {
        ascii(&format!("{}{}", self.title, self.body.render()))
    }
}

fn spans(text: &[Span]) -> Vec<Inline> {
    let inline = |span: &Span| match span.font {
        Font::Roman => roman(&span.text),
        Font::Bold => bold(&span.text),
        Font::Italic => italic(&span.text),
    };
    text.iter().map(inline).collect()
}

/// Sets a form of a command: its name and options bold, words for arguments italic.
fn form_inlines(form: &str) -> Vec<Inline> {
    let mut inlines = Vec::new();
    for (at, word) in form.split_inclusive([' ', '[', ']', '(', ')', '=', '|']).enumerate() {
        let is_argument = word.starts_with(|first: char| first.is_ascii_uppercase());
        inlines.push(match is_argument {
            true => italic(word),
            false if at < 2 || word.starts_with('-') => bold(word),
            false => roman(word),
        });
    }
    inlines
}

/// Replaces other characters than those of ASCII by their escapes: in pages without a declared encoding, programs expect
/// ASCII.
fn ascii(page: &str) -> String {
    let escaped = |character: char| match character.is_ascii() {
        true => character.to_string(),
        false => format!("\\[u{:04X}]", u32::from(character)),
    };
    page.chars().map(escaped).collect()
}

/// Splits text at its marks. A mark that is not closed is plain text.
fn inlines(text: &str) -> Vec<Inline> {
    let mut inlines = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(['`', '*']) {
        let mark = &rest[start..=start];
        let Some(length) = rest[start + 1..].find(mark) else { break };
        let (before, inside) = (&rest[..start], &rest[start + 1..start + 1 + length]);
        inlines.push(roman(before));
        inlines.push(if mark == "`" { bold(inside) } else { italic(inside) });
        rest = &rest[start + length + 2..];
    }
    inlines.push(roman(rest));
    inlines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_become_fonts() {
        let mut page = Page::default();
        page.paragraph("see `a-b`(1), *x* and 2 * 3");
        let text = page.whole();
        assert!(text.ends_with(".PP\nsee \\fBa\\-b\\fR(1), \\fIx\\fR and 2 * 3\n"), "{text}");
    }
}
