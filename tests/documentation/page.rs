//! Pages in Markdown: their blocks of code, headings, tables and comments.

use std::fs;
use std::path::{Path, PathBuf};

/// A page of the documentation.
pub struct Page {
    /// Its file, relative to the top directory.
    pub name: String,
    pub text: String,
}

/// A fenced block of code.
pub struct Block {
    /// `PAGE:LINE` of its first line.
    pub place: String,
    pub language: String,
    pub text: String,
    /// The last line of text before it, if no other block is between.
    pub before: String,
    /// The comment right before it.
    pub comment: String,
}

/// A block of code or a comment, in the order of the page.
pub enum Part {
    Block(Block),
    /// The text of an HTML comment on a line of its own.
    Comment(String),
}

pub fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The README and everything in `doc/`.
pub fn pages() -> Vec<Page> {
    let mut files = vec![top().join("README.md")];
    collect(&top().join("doc"), &mut files);
    files.sort();
    assert!(files.len() > 10, "{files:?}");
    files.iter().map(|file| Page::read(file.strip_prefix(top()).unwrap())).collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            files.push(path);
        }
    }
}

/// The page `name` of the manual.
pub fn manual(name: &str) -> Page {
    Page::read(&Path::new("doc/manual").join(name))
}

impl Page {
    pub fn read(file: &Path) -> Page {
        let text = fs::read_to_string(top().join(file)).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Page { name: file.display().to_string(), text }
    }

    pub fn blocks(&self) -> Vec<Block> {
        let block = |part| match part {
            Part::Block(block) => Some(block),
            Part::Comment(_) => None,
        };
        self.parts().into_iter().filter_map(block).collect()
    }

    /// Blocks and comments. A block in a list is indented, and loses that.
    pub fn parts(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        let (mut before, mut comment) = ("", "");
        let mut lines = (1..).zip(self.text.lines());
        while let Some((number, line)) = lines.next() {
            let start = line.trim_start();
            if let Some(language) = start.strip_prefix("```") {
                let indent = line.len() - start.len();
                let mut text = String::new();
                loop {
                    let (_, line) = lines.next().unwrap_or_else(|| panic!("{}:{number}: not closed", self.name));
                    if line.trim() == "```" {
                        break;
                    }
                    text += line.get(indent..).unwrap_or_default();
                    text.push('\n');
                }
                let place = format!("{}:{}", self.name, number + 1);
                let (language, before) = (language.to_owned(), std::mem::take(&mut before).to_owned());
                let comment = std::mem::take(&mut comment).to_owned();
                parts.push(Part::Block(Block { place, language, text, before, comment }));
            } else if let Some(rest) = start.strip_prefix("<!--") {
                comment = rest.strip_suffix("-->").unwrap_or_else(|| panic!("{}:{number}", self.name)).trim();
                parts.push(Part::Comment(comment.to_owned()));
            } else if !start.is_empty() {
                (before, comment) = (line, "");
            }
        }
        parts
    }

    /// The text without blocks of code.
    pub fn prose(&self) -> String {
        let mut is_code = false;
        let mut keep = |line: &&str| {
            let is_fence = line.trim_start().starts_with("```");
            is_code ^= is_fence;
            !is_code && !is_fence
        };
        self.text.lines().filter(|line| keep(line)).map(|line| format!("{line}\n")).collect()
    }

    /// The headings, without their marks.
    pub fn headings(&self) -> Vec<String> {
        let prose = self.prose();
        let heading = |line: &str| Some(line.strip_prefix('#')?.trim_start_matches('#').trim().to_owned());
        prose.lines().filter_map(heading).collect()
    }

    /// The text from the heading `heading` to the next one of the same rank or above.
    pub fn section(&self, heading: &str) -> Page {
        let is_heading = |line: &&str| line.starts_with('#') && line.trim_start_matches('#').trim() == heading;
        let mut lines = self.text.lines().skip_while(|line| !is_heading(line));
        let first = lines.next().unwrap_or_else(|| panic!("{}: no section '{heading}'", self.name));
        let rank = first.len() - first.trim_start_matches('#').len();
        let ends = |line: &str| {
            let marks = line.len() - line.trim_start_matches('#').len();
            (1..=rank).contains(&marks) && line[marks..].starts_with(' ')
        };
        let text = lines.take_while(|line| !ends(line)).map(|line| format!("{line}\n")).collect();
        Page { name: format!("{}, {heading}", self.name), text }
    }

    /// The rows of all tables, without heads; cells without blanks around them. `\|` is a bar in a cell.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let prose = self.prose();
        let lines: Vec<&str> = prose.lines().collect();
        let is_rule = |line: &&str| line.starts_with("|-") || line.starts_with("|:-");
        let mut rows = Vec::new();
        for (number, line) in lines.iter().enumerate() {
            let is_head = lines.get(number + 1).is_some_and(is_rule);
            if line.starts_with('|') && !is_rule(line) && !is_head {
                let line = line.replace("\\|", "\u{0}");
                let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().replace('\u{0}', "|"));
                rows.push(cells.collect());
            }
        }
        assert!(!rows.is_empty(), "{}: no table", self.name);
        rows
    }
}

/// The texts between back-quotes.
pub fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether a line of output is wider than a terminal without need. One line each have, for programs that read it and for
/// people who copy it: reports on a file behind its name, messages with their hints, and Lua; a long word cannot be broken.
pub fn is_too_wide(line: &str, columns: usize) -> bool {
    let text = line.trim_start();
    let is_message = text.starts_with("offload: ") || text.starts_with("hint: ") || text.starts_with("host_key = ");
    let is_diagnostic = text.starts_with('/') || text.contains(": offload: ");
    let first = columns.saturating_sub(line.len() - text.len());
    line.chars().count() > columns && text.chars().take(first).any(|c| c == ' ') && !is_message && !is_diagnostic
}
