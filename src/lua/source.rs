//! Texts of Lua programs: reading one, and where things stand in it.
//!
//! Lua tells the line of a call, not those of the fields of the table that it is given. They are found here by a light scan of the
//! text: names, strings, comments and brackets are told apart (Lua 5.4 manual, section 3.1), the rest of the grammar
//! is not looked at. What is found serves messages only; a text that cannot be made sense of gives no lines.

use crate::permissions;
use std::collections::HashMap;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

mod scanner;

use scanner::{Kind, Scanner, Token};

/// A file of Lua may have this many bytes.
const MAX_CHUNK: u64 = 16 << 20;
/// More than most have: what is read in one piece.
const USUAL_CHUNK: usize = 8 << 10;

/// A Lua text, as tokens.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    tokens: Vec<Token<'a>>,
}

/// Where the items of a table constructor stand.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Items {
    /// Line on which the table begins.
    pub line: Option<u32>,
    /// Line of each field that is written `name =` or `["name"] =`.
    pub fields: HashMap<String, u32>,
    /// Line on which each item without a name begins.
    pub positional: Vec<u32>,
}

impl<'a> Source<'a> {
    pub fn new(text: &'a str) -> Source<'a> {
        Source { tokens: Scanner::new(text).collect() }
    }

    /// The items of the table that is given to the call of `constructor` on `line`.
    ///
    /// Where the constructor goes by another name, the first table that begins on the line is taken.
    pub fn call(&self, constructor: &str, line: u32) -> Items {
        let on_line = |kind: Kind| self.tokens.iter().position(|token| token.line == line && token.kind == kind);
        let from = on_line(Kind::Name(constructor)).or_else(|| on_line(Kind::Brace));
        let brace = from.and_then(|from| (from..self.tokens.len()).find(|&at| self.tokens[at].kind == Kind::Brace));
        brace.map(|brace| self.items(brace)).unwrap_or_default()
    }

    /// The items of the table that the last `return {` of the text gives.
    pub fn returned(&self) -> Items {
        let found = self.tokens.windows(2).rposition(|pair| {
            let [first, second] = pair else { return false };
            first.kind == Kind::Name("return") && second.kind == Kind::Brace
        });
        found.map(|at| self.items(at + 1)).unwrap_or_default()
    }

    /// The items of the table constructor that is written after the last `name =`.
    pub fn named(&self, name: &str) -> Items {
        self.brace_after(name).map(|brace| self.items(brace)).unwrap_or_default()
    }

    /// The bytes of the table constructor that is written after the last `name =`, its braces included.
    pub fn table_after(&self, name: &str) -> Option<Range<usize>> {
        let open = self.brace_after(name)?;
        let close = self.inside(open).last()?.0 + 1;
        let close = self.tokens.get(close)?;
        Some(self.tokens[open].bytes.start..close.bytes.end)
    }

    /// Line of the innermost bracket that nothing closes.
    pub fn unclosed(&self) -> Option<u32> {
        let mut open = Vec::new();
        for token in &self.tokens {
            match token.kind {
                Kind::Brace | Kind::Bracket | Kind::Open => open.push(token.line),
                Kind::Close => drop(open.pop()),
                _ => {}
            }
        }
        open.pop()
    }

    fn brace_after(&self, name: &str) -> Option<usize> {
        let assigned = self.tokens.windows(3).rposition(|triple| {
            let [first, second, third] = triple else { return false };
            first.kind == Kind::Name(name) && second.kind == Kind::Assign && third.kind == Kind::Brace
        });
        assigned.map(|at| at + 2)
    }

    /// The items of the table constructor that begins with the token `open`.
    fn items(&self, open: usize) -> Items {
        let mut items = Items { line: Some(self.tokens[open].line), ..Items::default() };
        let mut first = true;
        for (at, depth) in self.inside(open) {
            let token = &self.tokens[at];
            let kind = |offset: usize| self.tokens.get(at + offset).map(|token| token.kind);
            if first && at > open {
                match (token.kind, kind(1), kind(2), kind(3)) {
                    (Kind::Name(name), Some(Kind::Assign), ..)
                    | (Kind::Bracket, Some(Kind::Text(name)), Some(Kind::Close), Some(Kind::Assign)) => {
                        items.fields.insert(name.to_owned(), token.line);
                    }
                    (Kind::Separator, ..) => {}
                    _ => items.positional.push(token.line),
                }
            }
            first = depth == 1 && (at == open || token.kind == Kind::Separator);
        }
        items
    }

    /// The tokens from the bracket `open` up to, not including, the one that closes it; each with the depth after it.
    fn inside(&self, open: usize) -> impl Iterator<Item = (usize, usize)> {
        let mut depth = 0_usize;
        (open..self.tokens.len()).map_while(move |at| {
            match self.tokens[at].kind {
                Kind::Brace | Kind::Bracket | Kind::Open | Kind::Name("function" | "do" | "if" | "repeat") => {
                    depth += 1
                }
                Kind::Close | Kind::Name("end" | "until") => depth -= 1,
                _ => {}
            }
            (depth > 0).then_some((at, depth))
        })
    }
}

/// Reads a file of Lua: no more than `MAX_CHUNK` bytes, without the first line if that begins with `#`, as `lua` does.
pub(crate) fn read_chunk(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(USUAL_CHUNK);
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
