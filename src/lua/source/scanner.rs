//! The tokens of a Lua text, as far as they are needed to find its tables.

use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum TokenKind<'a> {
    /// A name or keyword.
    Name(&'a str),
    /// The contents of a literal string in quotes, with its escapes.
    Text(&'a str),
    /// `{`
    Brace,
    /// `[`
    Bracket,
    /// `(`
    Open,
    /// `}`, `]` or `)`.
    Close,
    /// `=` alone.
    Assign,
    /// `,` or `;`.
    Separator,
    /// A number, a long string or any other symbol.
    Other,
}

#[derive(Clone, Debug)]
pub(super) struct Token<'a> {
    pub kind: TokenKind<'a>,
    /// The line on which it begins, from 1.
    pub line: u32,
    pub bytes: Range<usize>,
}

pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Scanner<'a> {
        Scanner { text, at: 0, line: 1 }
    }

    fn byte(&self, offset: usize) -> u8 {
        self.text.as_bytes().get(self.at + offset).copied().unwrap_or(0)
    }

    /// Skips `count` bytes, counting lines.
    fn skip(&mut self, count: usize) {
        let end = (self.at + count).min(self.text.len());
        let newlines = self.text.as_bytes()[self.at..end].iter().filter(|&&byte| byte == b'\n').count();
        self.line = self.line.saturating_add(u32::try_from(newlines).unwrap_or(u32::MAX));
        self.at = end;
    }

    fn skip_while(&mut self, belongs: impl Fn(u8) -> bool) {
        let rest = &self.text.as_bytes()[self.at..];
        self.skip(rest.iter().take_while(|&&byte| belongs(byte)).count());
    }

    /// Skips a long string or the brackets of a long comment, if one begins here.
    fn long_bracket(&mut self) -> bool {
        let level = self.text.as_bytes()[self.at..].iter().skip(1).take_while(|&&byte| byte == b'=').count();
        if self.byte(0) != b'[' || self.byte(level + 1) != b'[' {
            return false;
        }
        let end = format!("]{}]", "=".repeat(level));
        let length = self.text.as_bytes()[self.at..].windows(end.len()).position(|window| window == end.as_bytes());
        self.skip(length.map_or(usize::MAX - self.at, |length| length + end.len()));
        true
    }

    fn skip_space_and_comments(&mut self) {
        loop {
            self.skip_while(|byte| byte.is_ascii_whitespace() || byte == 0x0b);
            if !(self.byte(0) == b'-' && self.byte(1) == b'-') {
                return;
            }
            self.skip(2);
            if !self.long_bracket() {
                self.skip_while(|byte| byte != b'\n');
            }
        }
    }

    /// Skips a string in quotes; returns the position of its contents.
    fn quoted(&mut self, quote: u8) -> Range<usize> {
        self.skip(1);
        let start = self.at;
        while self.at < self.text.len() && self.byte(0) != quote && self.byte(0) != b'\n' {
            let escape = self.byte(0) == b'\\';
            self.skip(1 + usize::from(escape));
        }
        let content = start..self.at;
        self.skip(1);
        content
    }
}

impl<'a> Iterator for Scanner<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_space_and_comments();
        let (start, line) = (self.at, self.line);
        if start >= self.text.len() {
            return None;
        }
        let kind = match self.byte(0) {
            b'{' => TokenKind::Brace,
            b'(' => TokenKind::Open,
            b'}' | b']' | b')' => TokenKind::Close,
            b',' | b';' => TokenKind::Separator,
            b'=' if self.byte(1) != b'=' => TokenKind::Assign,
            quote @ (b'"' | b'\'') => {
                let content = self.quoted(quote);
                TokenKind::Text(self.text.get(content).unwrap_or_default())
            }
            b'[' if self.long_bracket() => TokenKind::Other,
            b'[' => TokenKind::Bracket,
            byte if byte.is_ascii_alphabetic() || byte == b'_' => {
                self.skip_while(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                TokenKind::Name(&self.text[start..self.at])
            }
            byte if byte.is_ascii_digit() => {
                self.skip_while(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
                TokenKind::Other
            }
            // Two-character operators are one token, so that the second half of `==` is not taken for an assignment.
            b'=' | b'<' | b'>' | b'~' if self.byte(1) == b'=' => {
                self.skip(2);
                TokenKind::Other
            }
            _ => TokenKind::Other,
        };
        if self.at == start {
            self.skip(1);
        }
        Some(Token { kind, line, bytes: start..self.at })
    }
}
