//! The pages of the manual in Markdown, as far as they use it, in blocks.
//!
//! The format is that of pulldown-cmark with tables. Pictures are left out. A link is its text, since a manual page has no
//! links. Not kept: the difference between ordered and other lists, beside their marks, and between levels of lists.

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// A font of a piece of text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Font {
    #[default]
    Roman,
    /// Also of code.
    Bold,
    Italic,
}

/// A piece of text in one font.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub text: String,
    pub font: Font,
    pub is_code: bool,
}

/// A paragraph, or what a cell of a table has.
pub type Text = Vec<Span>;

/// Returns the text without its fonts.
pub fn plain(text: &[Span]) -> String {
    text.iter().map(|span| span.text.as_str()).collect()
}

/// A part of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    /// A heading, and whether it begins a section of the page: `##`.
    Heading(Text, bool),
    Paragraph(Text),
    /// The items, each with its mark.
    List(Vec<(String, Vec<Block>)>),
    Table {
        header: Vec<Text>,
        rows: Vec<Vec<Text>>,
    },
    /// Lines that stay as they are, with their language.
    Example {
        language: String,
        lines: String,
    },
    Quote(Vec<Block>),
}

/// Parses a page.
pub fn parse(page: &str) -> Vec<Block> {
    Reader { events: Parser::new_ext(page, Options::ENABLE_TABLES) }.blocks(None)
}

struct Reader<'a> {
    events: Parser<'a>,
}

impl Reader<'_> {
    /// Reads blocks up to this end.
    fn blocks(&mut self, end: Option<TagEnd>) -> Vec<Block> {
        let mut blocks = Vec::new();
        // An item of a list may have text without a paragraph.
        let mut loose = Vec::new();
        while let Some(event) = self.events.next() {
            let block = match event {
                Event::End(tag) if Some(tag) == end => break,
                Event::Start(Tag::Paragraph) => Some(Block::Paragraph(self.text(TagEnd::Paragraph))),
                Event::Start(Tag::Heading { level, .. }) => {
                    let text = self.text(TagEnd::Heading(level));
                    Some(Block::Heading(text, level == HeadingLevel::H2))
                }
                Event::Start(Tag::List(first)) => Some(self.list(first)),
                Event::Start(Tag::Table(_)) => Some(self.table()),
                Event::Start(Tag::CodeBlock(kind)) => Some(self.example(kind)),
                Event::Start(Tag::BlockQuote(kind)) => Some(Block::Quote(self.blocks(Some(TagEnd::BlockQuote(kind))))),
                other => {
                    self.add(other, Font::Roman, &mut loose);
                    None
                }
            };
            if let Some(block) = block {
                blocks.extend((!loose.is_empty()).then(|| Block::Paragraph(std::mem::take(&mut loose))));
                blocks.push(block);
            }
        }
        blocks.extend((!loose.is_empty()).then_some(Block::Paragraph(loose)));
        // A paragraph that is only a picture.
        blocks.retain(|block| !matches!(block, Block::Paragraph(text) if text.is_empty()));
        blocks
    }

    fn list(&mut self, first: Option<u64>) -> Block {
        let ordered = first.is_some();
        let mut items = Vec::new();
        while let Some(event) = self.events.next() {
            match event {
                Event::End(TagEnd::List(_)) => break,
                Event::Start(Tag::Item) => {
                    let number = first.unwrap_or_default() + items.len() as u64;
                    let mark = if ordered { format!("{number}.") } else { "•".to_owned() };
                    items.push((mark, self.blocks(Some(TagEnd::Item))));
                }
                _ => {}
            }
        }
        Block::List(items)
    }

    fn table(&mut self) -> Block {
        let (mut header, mut rows) = (Vec::new(), Vec::new());
        let mut row = Vec::new();
        while let Some(event) = self.events.next() {
            match event {
                Event::End(TagEnd::Table) => break,
                Event::Start(Tag::TableCell) => row.push(self.text(TagEnd::TableCell)),
                Event::End(TagEnd::TableHead) => header = std::mem::take(&mut row),
                Event::End(TagEnd::TableRow) => rows.push(std::mem::take(&mut row)),
                _ => {}
            }
        }
        Block::Table { header, rows }
    }

    fn example(&mut self, kind: CodeBlockKind<'_>) -> Block {
        let language = match kind {
            CodeBlockKind::Fenced(language) => language.to_string(),
            CodeBlockKind::Indented => String::new(),
        };
        let mut lines = String::new();
        for event in self.events.by_ref() {
            match event {
                Event::End(TagEnd::CodeBlock) => break,
                Event::Text(text) => lines.push_str(&text),
                _ => {}
            }
        }
        Block::Example { language, lines }
    }

    /// Reads text up to this end.
    fn text(&mut self, end: TagEnd) -> Text {
        let mut text = Vec::new();
        while let Some(event) = self.events.next() {
            match event {
                Event::End(tag) if tag == end => break,
                other => self.add(other, Font::Roman, &mut text),
            }
        }
        text
    }

    /// Adds an event inside a paragraph, with all that belongs to it.
    fn add(&mut self, event: Event<'_>, font: Font, text: &mut Text) {
        let (end, font) = match event {
            Event::Text(part) => return text.push(Span { text: part.to_string(), font, is_code: false }),
            Event::Code(part) => return text.push(Span { text: part.to_string(), font: Font::Bold, is_code: true }),
            Event::SoftBreak | Event::HardBreak => {
                return text.push(Span { text: " ".to_owned(), font: Font::Roman, is_code: false });
            }
            Event::Start(Tag::Emphasis) => (TagEnd::Emphasis, Font::Italic),
            Event::Start(Tag::Strong) => (TagEnd::Strong, Font::Bold),
            Event::Start(Tag::Link { .. }) => (TagEnd::Link, font),
            Event::Start(Tag::Image { .. }) => (TagEnd::Image, font),
            _ => return,
        };
        let is_picture = end == TagEnd::Image;
        let mut inside = Vec::new();
        while let Some(event) = self.events.next() {
            match event {
                Event::End(tag) if tag == end => break,
                other => self.add(other, font, &mut inside),
            }
        }
        if !is_picture {
            text.append(&mut inside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roman(text: &str) -> Span {
        Span { text: text.to_owned(), font: Font::Roman, is_code: false }
    }

    fn code(text: &str) -> Span {
        Span { text: text.to_owned(), font: Font::Bold, is_code: true }
    }

    #[test]
    fn a_page_is_read_in_blocks() {
        let page = "## `a b` and `c`\n\n![A picture\nof x](x.png)\n\n**See** [the\npage](x.md#y) `|`.\n\n- one\n- two:\n\n  \
                    `more`\n\n1. x\n\n| h | |\n|---|---|\n| `a`, b | *c* \\| d |\n\n```sh\noffload x   # …\n\ny\n```\n\n> q\n";
        let bold = |text: &str| Span { font: Font::Bold, ..roman(text) };
        let italic = |text: &str| Span { font: Font::Italic, ..roman(text) };
        let paragraph = |text: &str| Block::Paragraph(vec![roman(text)]);
        assert_eq!(
            parse(page),
            [
                Block::Heading(vec![code("a b"), roman(" and "), code("c")], true),
                Block::Paragraph(vec![
                    bold("See"),
                    roman(" "),
                    roman("the"),
                    roman(" "),
                    roman("page"),
                    roman(" "),
                    code("|"),
                    roman(".")
                ]),
                Block::List(vec![
                    ("•".to_owned(), vec![paragraph("one")]),
                    ("•".to_owned(), vec![paragraph("two:"), Block::Paragraph(vec![code("more")])]),
                ]),
                Block::List(vec![("1.".to_owned(), vec![paragraph("x")])]),
                Block::Table {
                    header: vec![vec![roman("h")], Vec::new()],
                    rows: vec![vec![vec![code("a"), roman(", b")], vec![italic("c"), roman(" "), roman("| d")]]],
                },
                Block::Example { language: "sh".to_owned(), lines: "offload x   # …\n\ny\n".to_owned() },
                Block::Quote(vec![paragraph("q")]),
            ]
        );
    }
}
