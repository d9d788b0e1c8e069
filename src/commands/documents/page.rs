//! Manual pages in roff (man(7)), from text in which `` `code` `` is set bold and `*variables*` italic.

use roff::{Inline, Roff, bold, italic, roman};

/// A page, or a part of one.
#[derive(Default)]
pub struct Page(Roff);

impl Page {
    /// Adds the line at the top: name, section of the manual.
    pub fn title(&mut self, name: &str, section: &str) {
        let source = concat!("offload ", env!("CARGO_PKG_VERSION"));
        self.0.control("TH", [name, section, "", source, "offload"]);
    }

    pub fn section(&mut self, heading: &str) {
        self.0.control("SH", [heading]);
    }

    pub fn paragraph(&mut self, text: &str) {
        self.0.control("PP", []);
        self.0.text(inlines(text));
    }

    /// Adds a term with its meaning.
    pub fn item(&mut self, what: &str, meaning: &str) {
        self.0.control("TP", []);
        self.0.text(inlines(what));
        self.0.text(inlines(meaning));
    }

    /// Adds unchanged lines.
    pub fn example(&mut self, lines: &str) {
        self.0.control("PP", []);
        self.0.control("EX", []);
        for line in lines.lines() {
            self.0.text([roman(line.replace('…', "..."))]);
        }
        self.0.control("EE", []);
    }

    /// Returns a part of a page, in roff.
    pub fn part(&self) -> String {
        self.0.to_roff()
    }

    /// Returns a whole page in roff, with the preamble that keeps apostrophes unchanged.
    pub fn whole(&self) -> String {
        self.0.render()
    }
}

/// Splits text at its marks. A mark that is not closed is plain text.
fn inlines(text: &str) -> Vec<Inline> {
    // In pages without a declared encoding, programs expect ASCII.
    let text = text.replace('…', "...");
    let mut inlines = Vec::new();
    let mut rest = text.as_str();
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
        let text = page.part();
        assert!(text.ends_with(".PP\nsee \\fBa\\-b\\fR(1), \\fIx\\fR and 2 * 3\n"), "{text}");
    }
}
