//! The words of a line of a `machines` file, and what is wrong with them.

/// A word of the file, and the column in which it begins, from 1, in characters.
#[derive(Clone, Copy)]
pub struct Word<'a> {
    pub text: &'a str,
    pub column: u32,
}

/// What is wrong with a machine, and the column.
pub type Wrong = (u32, String);

/// The words of a line that stand between two positions in it.
pub fn words(line: &str, start: usize, end: usize) -> Vec<Word<'_>> {
    let white = |c: char| c.is_ascii_whitespace();
    let mut words = Vec::new();
    let mut at = start;
    for text in line[start..end].split(white) {
        if !text.is_empty() {
            words.push(Word { text, column: column(line, at) });
        }
        at += text.len() + 1;
    }
    words
}

/// The column of a position in a line, from 1.
pub fn column(line: &str, position: usize) -> u32 {
    u32::try_from(line[..position].chars().count()).unwrap_or(u32::MAX).saturating_add(1)
}
