//! Texts of Lua programs: reading them, and finding the lines of fields in them.
//!
//! Lua reports the line of a call, but not the lines of the fields of its table. They are found here by a light scan of
//! the text. It distinguishes names, strings, comments and brackets (Lua 5.4 manual, section 3.1), and ignores the rest
//! of the grammar. The result only serves messages; an incomprehensible text gives no lines.

use crate::permissions;
use std::collections::HashMap;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

mod extend;
mod scanner;

pub(crate) use extend::with_item;
use scanner::{Scanner, Token, TokenKind};

/// The size limit of a Lua file, in bytes.
const MAX_CHUNK: u64 = 16 << 20;
/// The size of most files or more: they are read in one piece.
const FIRST_READ: usize = 8 << 10;

/// A Lua text, as tokens.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    tokens: Vec<Token<'a>>,
}

/// The lines of the items of a table constructor.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ItemLines {
    /// The line on which the table begins.
    pub line: Option<u32>,
    /// The line of each field that is written `name =` or `["name"] =`.
    pub fields: HashMap<String, u32>,
    /// The line on which each item without a name begins.
    pub positional: Vec<u32>,
}

impl<'a> Source<'a> {
    pub fn new(text: &'a str) -> Source<'a> {
        Source { tokens: Scanner::new(text).collect() }
    }

    /// Returns the items of the table in the call of `constructor` on `line`.
    ///
    /// If the constructor has another name there, it takes the first table that begins on the line.
    pub fn call(&self, constructor: &str, line: u32) -> ItemLines {
        let on_line = |kind: TokenKind| self.tokens.iter().position(|token| token.line == line && token.kind == kind);
        let from = on_line(TokenKind::Name(constructor)).or_else(|| on_line(TokenKind::Brace));
        let brace =
            from.and_then(|from| (from..self.tokens.len()).find(|&at| self.tokens[at].kind == TokenKind::Brace));
        brace.map(|brace| self.items(brace)).unwrap_or_default()
    }

    /// Returns the items of the table of the last `return {` in the text.
    pub fn returned(&self) -> ItemLines {
        let found = self.tokens.windows(2).rposition(|pair| {
            let [first, second] = pair else { return false };
            first.kind == TokenKind::Name("return") && second.kind == TokenKind::Brace
        });
        found.map(|at| self.items(at + 1)).unwrap_or_default()
    }

    /// Returns the items of the table constructor after the last `name =`.
    pub fn named(&self, name: &str) -> ItemLines {
        self.brace_after(name).map(|brace| self.items(brace)).unwrap_or_default()
    }

    /// Returns the bytes of the table constructor after the last `name =`, including its braces.
    pub fn table_after(&self, name: &str) -> Option<Range<usize>> {
        let open = self.brace_after(name)?;
        let close = self.inside(open).last()?.0 + 1;
        let close = self.tokens.get(close)?;
        Some(self.tokens[open].bytes.start..close.bytes.end)
    }

    /// Returns the line of the innermost bracket that is not closed.
    pub fn unclosed(&self) -> Option<u32> {
        let mut open = Vec::new();
        for token in &self.tokens {
            match token.kind {
                TokenKind::Brace | TokenKind::Bracket | TokenKind::Open => open.push(token.line),
                TokenKind::Close => drop(open.pop()),
                _ => {}
            }
        }
        open.pop()
    }

    fn brace_after(&self, name: &str) -> Option<usize> {
        let assigned = self.tokens.windows(3).rposition(|triple| {
            let [first, second, third] = triple else { return false };
            first.kind == TokenKind::Name(name) && second.kind == TokenKind::Assign && third.kind == TokenKind::Brace
        });
        assigned.map(|at| at + 2)
    }

    /// Returns the items of the table constructor that begins with the token `open`.
    fn items(&self, open: usize) -> ItemLines {
        let mut items = ItemLines { line: Some(self.tokens[open].line), ..ItemLines::default() };
        let mut first = true;
        for (at, depth) in self.inside(open) {
            let token = &self.tokens[at];
            let kind = |offset: usize| self.tokens.get(at + offset).map(|token| token.kind);
            if first && at > open {
                match (token.kind, kind(1), kind(2), kind(3)) {
                    (TokenKind::Name(name), Some(TokenKind::Assign), ..)
                    | (
                        TokenKind::Bracket,
                        Some(TokenKind::Text(name)),
                        Some(TokenKind::Close),
                        Some(TokenKind::Assign),
                    ) => {
                        items.fields.insert(name.to_owned(), token.line);
                    }
                    (TokenKind::Separator, ..) => {}
                    _ => items.positional.push(token.line),
                }
            }
            first = depth == 1 && (at == open || token.kind == TokenKind::Separator);
        }
        items
    }

    /// Returns the tokens after the bracket `open` up to the one that closes it, each with the depth after it.
    fn inside(&self, open: usize) -> impl Iterator<Item = (usize, usize)> {
        let mut depth = 0_usize;
        (open..self.tokens.len()).map_while(move |at| {
            match self.tokens[at].kind {
                TokenKind::Brace
                | TokenKind::Bracket
                | TokenKind::Open
                | TokenKind::Name("function" | "do" | "if" | "repeat") => depth += 1,
                TokenKind::Close | TokenKind::Name("end" | "until") => depth -= 1,
                _ => {}
            }
            (depth > 0).then_some((at, depth))
        })
    }
}

/// Reads a Lua file of at most `MAX_CHUNK` bytes, without the first line if that begins with `#`, as `lua` does.
pub(crate) fn read_chunk(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(FIRST_READ);
    permissions::open_at_once(path)?.take(MAX_CHUNK + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_CHUNK {
        return Err(std::io::Error::other(format!("it has more than {MAX_CHUNK} bytes")));
    }
    if text.starts_with(b"\xef\xbb\xbf") {
        text.drain(..3);
    }
    if text.first() == Some(&b'#') {
        let line = text.iter().position(|&byte| byte == b'\n').unwrap_or(text.len());
        text.drain(..line);
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
