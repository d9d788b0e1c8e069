//! The parser of s-expressions.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{ESCAPES, MAX_SEXP_DEPTH, MAX_SEXP_SIZE, Sexp, SexpError, is_token_character};
use crate::store::base16;

impl Sexp {
    /// Parses the one list in `text`.
    pub fn parse(text: &[u8]) -> Result<Sexp, SexpError> {
        list(text)
    }
}

fn list(text: &[u8]) -> Result<Sexp, SexpError> {
    let mut scanner = Scanner { text, position: 0 };
    if text.len() > MAX_SEXP_SIZE {
        return Err(SexpError { position: MAX_SEXP_SIZE, problem: "it is too long" });
    }
    // The open lists, the innermost last.
    let mut open: Vec<Vec<Sexp>> = Vec::new();
    loop {
        scanner.skip_white_space();
        let item = match (scanner.peek(), open.is_empty()) {
            (None, false) => return Err(scanner.problem("it ends inside a list")),
            (None, true) => return Err(scanner.problem("there is none")),
            (Some(b'('), _) if open.len() == MAX_SEXP_DEPTH => return Err(scanner.problem("lists are nested too deep")),
            (Some(b'('), _) => {
                scanner.position += 1;
                open.push(Vec::new());
                continue;
            }
            (Some(_), true) => return Err(scanner.problem("it is not a list")),
            (Some(b')'), false) => {
                scanner.position += 1;
                Sexp::List(open.pop().unwrap_or_default())
            }
            (Some(_), false) => Sexp::Atom(scanner.atom()?),
        };
        match open.last_mut() {
            Some(list) => list.push(item),
            None => {
                scanner.skip_white_space();
                return match scanner.peek() {
                    None => Ok(item),
                    Some(_) => Err(scanner.problem("there is something after its end")),
                };
            }
        }
    }
}

struct Scanner<'a> {
    text: &'a [u8],
    position: usize,
}

impl<'a> Scanner<'a> {
    fn atom(&mut self) -> Result<Vec<u8>, SexpError> {
        let start = self.position;
        let length = self.length()?;
        let bytes = match self.peek() {
            Some(b':') if length.is_some() => {
                self.position += 1;
                let rest = &self.text[self.position..];
                let Some(bytes) = length.and_then(|length| rest.get(..length)) else {
                    return Err(SexpError { position: start, problem: "it ends inside a string" });
                };
                self.position += bytes.len();
                return Ok(bytes.to_vec());
            }
            Some(b'"') => self.quoted()?,
            Some(b'#') => {
                let digits: Vec<u8> =
                    self.delimited(b'#')?.iter().copied().filter(|byte| !is_white_space(*byte)).collect();
                base16::decode(&digits).ok_or(SexpError { position: start, problem: "bad hexadecimal digits" })?
            }
            Some(b'|') => {
                let text = self.delimited(b'|')?;
                let bytes = STANDARD.decode(text).ok().filter(|bytes| !bytes.is_empty());
                bytes.ok_or(SexpError { position: start, problem: "bad base 64" })?
            }
            Some(byte) if length.is_none() && is_token_character(&byte) => {
                let rest = &self.text[start..];
                let end = rest.iter().position(|byte| !is_token_character(byte)).unwrap_or(rest.len());
                self.position += end;
                rest[..end].to_vec()
            }
            _ if length.is_some() => return Err(self.problem("nothing follows a length")),
            _ => return Err(self.problem("this character has no meaning here")),
        };
        match length {
            Some(length) if length != bytes.len() => {
                Err(SexpError { position: start, problem: "the length before a string is wrong" })
            }
            _ => Ok(bytes),
        }
    }

    /// Parses the length before an atom, if there is one.
    fn length(&mut self) -> Result<Option<usize>, SexpError> {
        let mut length = None;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            if length.is_none() && digit == b'0' {
                return Err(self.problem("a length begins with zero"));
            }
            let longer = length.unwrap_or(0) * 10 + usize::from(digit - b'0');
            if longer > MAX_SEXP_SIZE {
                return Err(self.problem("a length is too large"));
            }
            length = Some(longer);
            self.position += 1;
        }
        Ok(length)
    }

    /// Returns the bytes up to the next `delimiter`.
    fn delimited(&mut self, delimiter: u8) -> Result<&'a [u8], SexpError> {
        let rest = &self.text[self.position + 1..];
        let Some(end) = rest.iter().position(|&byte| byte == delimiter) else {
            return Err(self.problem("it ends inside a string"));
        };
        self.position += end + 2;
        Ok(&rest[..end])
    }

    fn quoted(&mut self) -> Result<Vec<u8>, SexpError> {
        let start = self.position;
        let mut bytes = Vec::new();
        self.position += 1;
        while let Some(byte) = self.next() {
            match byte {
                b'"' => return Ok(bytes),
                b'\\' => self.escape(&mut bytes)?,
                other => bytes.push(other),
            }
        }
        Err(SexpError { position: start, problem: "a quoted string does not end" })
    }

    /// Parses the characters after a backslash.
    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<(), SexpError> {
        let bad = SexpError { position: self.position - 1, problem: "bad escape in a quoted string" };
        let Some(byte) = self.next() else { return Err(bad) };
        match byte {
            b'x' => {
                let digits = self.text.get(self.position..self.position + 2).and_then(base16::decode);
                bytes.extend(digits.ok_or(bad)?);
                self.position += 2;
            }
            b'0'..=b'3' => {
                let mut value = byte - b'0';
                for _ in 0..2 {
                    let Some(digit @ b'0'..=b'7') = self.next() else { return Err(bad) };
                    value = value << 3 | (digit - b'0');
                }
                bytes.push(value);
            }
            b'\r' if self.peek() == Some(b'\n') => self.position += 1,
            b'\n' if self.peek() == Some(b'\r') => self.position += 1,
            b'\r' | b'\n' => {}
            letter => match ESCAPES.iter().find(|(known, _)| *known == letter) {
                Some(&(_, escaped)) => bytes.push(escaped),
                None => return Err(bad),
            },
        }
        Ok(())
    }

    fn skip_white_space(&mut self) {
        while self.peek().is_some_and(is_white_space) {
            self.position += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.position).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.position += 1;
        Some(byte)
    }

    fn problem(&self, problem: &'static str) -> SexpError {
        SexpError { position: self.position, problem }
    }
}

fn is_white_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}
