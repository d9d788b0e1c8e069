//! S-expressions, in which libgcrypt writes keys and signatures.
//!
//! An atom is a string of bytes, a list is atoms and lists in parentheses. An atom can be written in several ways,
//! freely mixed, with white space anywhere between:
//!
//! - a *token*: letters, digits and `-./_:*+=`, not beginning with a digit;
//! - `"text"` with the escapes of C: `\b` `\t` `\v` `\n` `\f` `\r` `\"` `\'` `\\`, three octal digits, `\x` and two
//!   hexadecimal ones, and a backslash before a line break for none;
//! - `#hexadecimal digits#`, an even number of them, blanks in between allowed;
//! - `|base 64|`;
//! - `LENGTH:bytes`, in the *canonical* form.
//!
//! A length may also precede the three forms in delimiters; it must then be right, although libgcrypt does not check
//! it. Display hints (`[...]`), which Guix never writes, are refused. The reader accepts one list, with only white
//! space around it.
//!
//! [`to_advanced`](Sexp::to_advanced) writes the advanced form of libgcrypt's `gcry_sexp_sprint`, byte for byte.
//! Signatures are compared and sent in that form. It is not always ASCII: an atom that happens to look like text is
//! written as text, and bytes from 0xa1 on count as text. In one case the result differs from that of libgcrypt:
//! libgcrypt takes NUL for a character of tokens, writes it bare, and cannot read it back. Source: `src/sexp.c` of
//! libgcrypt.

mod parse;

use super::base16;

/// The size limit of a text, in bytes.
pub const MAX_SEXP_SIZE: usize = 1 << 20;
/// The limit of the nesting of lists.
pub const MAX_SEXP_DEPTH: usize = 32;

/// The escapes of one character in quoted text, with their meanings.
const ESCAPES: [(u8, u8); 9] = [
    (b'b', 0x08),
    (b't', b'\t'),
    (b'v', 0x0b),
    (b'n', b'\n'),
    (b'f', 0x0c),
    (b'r', b'\r'),
    (b'"', b'"'),
    (b'\'', b'\''),
    (b'\\', b'\\'),
];

/// Characters of tokens besides letters and digits.
const TOKEN_SPECIALS: &[u8] = b"-./_:*+=";

/// An s-expression. Two are equal if they have the same structure, however they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sexp {
    Atom(Vec<u8>),
    List(Vec<Sexp>),
}

impl Sexp {
    pub fn atom(bytes: impl Into<Vec<u8>>) -> Sexp {
        Sexp::Atom(bytes.into())
    }

    pub fn list(items: impl Into<Vec<Sexp>>) -> Sexp {
        Sexp::List(items.into())
    }

    /// Returns the items of a list that begins with the atom `name`, without this atom.
    pub fn tagged(&self, name: &str) -> Option<&[Sexp]> {
        match self {
            Sexp::List(items) => match &items[..] {
                [first, rest @ ..] if first.as_atom() == Some(name.as_bytes()) => Some(rest),
                _ => None,
            },
            Sexp::Atom(_) => None,
        }
    }

    /// Returns the bytes of an atom.
    pub fn as_atom(&self) -> Option<&[u8]> {
        match self {
            Sexp::Atom(bytes) => Some(bytes),
            Sexp::List(_) => None,
        }
    }

    /// Writes libgcrypt's advanced form: one list per line, indented, with a line break at the end.
    pub fn to_advanced(&self) -> Vec<u8> {
        let mut text = Vec::new();
        self.write_advanced(&mut text, 0);
        text.push(b'\n');
        text
    }

    fn write_advanced(&self, text: &mut Vec<u8>, indent: usize) {
        let items = match self {
            Sexp::Atom(bytes) => return write_atom(text, bytes),
            Sexp::List(items) => items,
        };
        let new_line = |text: &mut Vec<u8>| {
            text.push(b'\n');
            text.extend(std::iter::repeat_n(b' ', indent + 1));
        };
        text.push(b'(');
        let mut after_list = false;
        for (index, item) in items.iter().enumerate() {
            let is_list = matches!(item, Sexp::List(_));
            if is_list || after_list {
                new_line(text);
            }
            item.write_advanced(text, indent + 1);
            if !is_list && index + 1 < items.len() {
                text.push(b' ');
            }
            after_list = is_list;
        }
        if after_list {
            new_line(text);
        }
        text.push(b')');
    }
}

fn write_atom(text: &mut Vec<u8>, bytes: &[u8]) {
    match bytes {
        _ if !looks_like_text(bytes) => {
            text.push(b'#');
            text.extend(base16::encode(bytes).to_ascii_uppercase().bytes());
            text.push(b'#');
        }
        [first, ..] if !first.is_ascii_digit() && bytes.iter().all(is_token_character) => text.extend(bytes),
        _ => {
            text.push(b'"');
            for &byte in bytes {
                match ESCAPES.iter().find(|(_, escaped)| *escaped == byte) {
                    Some(&(letter, _)) => text.extend([b'\\', letter]),
                    None if byte == 0 => text.extend(b"\\x00"),
                    None => text.push(byte),
                }
            }
            text.push(b'"');
        }
    }
}

/// Returns whether libgcrypt prints these bytes as text: no control characters except those with an escape of one
/// letter, and NUL. Bytes from 0xa1 on count as letters. At the beginning such a byte would be the sign of a negative
/// number, and NUL that of a number, so neither may be there.
fn looks_like_text(bytes: &[u8]) -> bool {
    let is_text = |byte: &u8| match byte {
        1..0x20 | 0x7f..=0xa0 => ESCAPES.iter().any(|(_, escaped)| escaped == byte),
        _ => true,
    };
    bytes.first().is_none_or(|byte| (1..0x80).contains(byte)) && bytes.iter().all(is_text)
}

fn is_token_character(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || TOKEN_SPECIALS.contains(byte)
}

/// The position of an error in an s-expression, in bytes from its beginning, and its reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid s-expression, at byte {position}: {problem}")]
pub struct SexpError {
    pub position: usize,
    pub problem: &'static str,
}

#[cfg(test)]
pub mod tests;
