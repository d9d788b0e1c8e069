//! The manual page of a command, from its section of `doc/manual/commands.md` and the definition of its options.
//!
//! The section is the one source of the page. Its parts go to the headings that readers of manual pages look for, by these
//! rules:
//!
//! | part of the section | heading |
//! |---|---|
//! | the lines of code at its beginning | SYNOPSIS |
//! | a block of commands, except after a colon | EXAMPLES |
//! | a table with `JSON` in its first heading, what introduces it, and what follows it | FIELDS |
//! | what follows "Exit statuses:", and a table of them | EXIT STATUS |
//! | all others | DESCRIPTION |

use super::markdown::{Block, Font, Span, Text, parse, plain};
use super::page::Page;

/// The page of the manual about all commands.
const COMMANDS: &str = include_str!("../../../doc/manual/commands.md");

/// Begins the statuses in a paragraph.
const STATUSES: &str = "Exit statuses: ";

/// Beginnings of paragraphs that introduce fields.
const BEFORE_FIELDS: [&str; 3] = ["With `--json`", "Unknown values are null", "With --json"];

/// What the manual says about a command.
#[derive(Debug, Default)]
pub struct Section {
    /// The forms of the command.
    pub synopsis: Vec<String>,
    description: Vec<Block>,
    examples: Vec<Block>,
    fields: Vec<Block>,
    statuses: Vec<Block>,
}

/// Returns what applies to all commands: the text at the top of the page.
pub fn rules() -> Vec<Block> {
    let blocks = parse(COMMANDS).into_iter().skip(1).take_while(|block| !matches!(block, Block::Heading(_, true)));
    blocks.filter(|block| !is_table_of(block, "exit status")).collect()
}

/// Returns the section about the command with this name; `None` if there is none.
pub fn section(name: &str) -> Option<Section> {
    let blocks = parse(COMMANDS);
    let is_about = |text: &Text| text.iter().any(|span| span.is_code && is_form(&span.text, name));
    let start = blocks.iter().position(|block| matches!(block, Block::Heading(text, true) if is_about(text)))?;
    let blocks = blocks.into_iter().skip(start + 1).take_while(|block| !matches!(block, Block::Heading(_, true)));
    let mut section = Section::default();
    blocks.for_each(|block| section.add(block, name));
    Some(section)
}

/// Returns whether code is a form of the command: its name, perhaps with arguments.
fn is_form(code: &str, name: &str) -> bool {
    code.strip_prefix("offload ")
        .and_then(|rest| rest.strip_prefix(name))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

fn is_table_of(block: &Block, heading: &str) -> bool {
    matches!(block, Block::Table { header, .. } if header.first().is_some_and(|cell| plain(cell).contains(heading)))
}

impl Section {
    fn add(&mut self, block: Block, name: &str) {
        let is_begun = !self.description.is_empty();
        match block {
            Block::Paragraph(text) if !is_begun && text.iter().all(|span| span.is_code || span.text == " ") => {
                let forms = text.into_iter().filter(|span| span.is_code && is_form(&span.text, name));
                self.synopsis.extend(forms.map(|span| span.text));
            }
            Block::Example { ref language, .. } if language == "sh" && !self.ends_with_colon() => {
                self.examples.push(block);
            }
            block if is_table_of(&block, "exit status") => self.statuses.push(block),
            block if is_table_of(&block, "JSON") => {
                if self.fields.is_empty() {
                    self.take_introduction();
                }
                self.fields.push(block);
            }
            Block::Paragraph(text) => {
                let (before, statuses) = split_statuses(text);
                self.statuses.extend(statuses.map(Block::Paragraph));
                if !before.is_empty() {
                    self.last_part().push(Block::Paragraph(before));
                }
            }
            block => self.last_part().push(block),
        }
    }

    /// Returns the part that the next block belongs to. A block after fields is about them.
    fn last_part(&mut self) -> &mut Vec<Block> {
        if self.fields.is_empty() { &mut self.description } else { &mut self.fields }
    }

    fn ends_with_colon(&self) -> bool {
        matches!(self.description.last(), Some(Block::Paragraph(text)) if plain(text).ends_with(':'))
    }

    /// Moves the paragraphs that introduce fields to these.
    fn take_introduction(&mut self) {
        while let Some(Block::Paragraph(text)) = self.description.last() {
            let text = plain(text);
            if !text.ends_with(':') && !BEFORE_FIELDS.iter().any(|begin| text.starts_with(begin)) {
                break;
            }
            self.fields.splice(0..0, self.description.pop());
        }
    }

    /// Adds the description, and later the others, to a page.
    pub fn describe(&self, page: &mut Page) {
        page.section("DESCRIPTION");
        page.blocks(&self.description);
    }

    /// Adds what follows the options.
    pub fn conclude(&self, page: &mut Page) {
        for (heading, blocks) in
            [("EXAMPLES", &self.examples), ("FIELDS", &self.fields), ("EXIT STATUS", &self.statuses)]
        {
            if !blocks.is_empty() {
                page.section(heading);
                page.blocks(blocks);
            }
        }
    }
}

/// Splits a paragraph before its statuses.
fn split_statuses(text: Text) -> (Text, Option<Text>) {
    let Some(at) = text.iter().position(|span| format!("{} ", span.text).contains(STATUSES)) else {
        return (text, None);
    };
    let (mut before, mut statuses) = (text, Vec::new());
    let rest = before.split_off(at + 1);
    if let Some(span) = before.pop() {
        let (begin, end) = span.text.split_once(STATUSES.trim_end()).unwrap_or((&span.text, ""));
        let span = |text: &str| Span { text: text.to_owned(), font: Font::Roman, is_code: false };
        before.extend((!begin.trim().is_empty()).then(|| span(begin.trim_end())));
        statuses.extend((!end.trim().is_empty()).then(|| span(end.trim_start())));
    }
    statuses.extend(rest);
    let begin = statuses.iter().take_while(|span: &&Span| span.text == " ").count();
    statuses.drain(..begin);
    (before, Some(statuses))
}
