//! The text of a log on a terminal.
//!
//! A builder can print any bytes. Colours (the control sequences `ESC [ … m`) are left out where a terminal gets no colours,
//! and pass elsewhere. Other control characters are escaped, such as `\u{1b}`. A carriage return ends a line, so that no text
//! replaces another one. Source of the sequences: ECMA-48, 8.3.117.

use crate::text::is_terminal_control;

/// The longest sequence for a colour, in bytes.
const MAX_COLOUR: usize = 40;

/// Makes text safe, piece by piece. A character or a sequence may be in two pieces.
#[derive(Debug, Default)]
pub struct Escaper {
    has_colours: bool,
    /// The beginning of a character in UTF-8.
    bytes: Vec<u8>,
    /// The beginning of a control sequence.
    sequence: String,
    /// The last character was a carriage return.
    is_after_return: bool,
    /// A colour was passed.
    is_coloured: bool,
}

impl Escaper {
    pub fn new(has_colours: bool) -> Escaper {
        Escaper { has_colours, ..Escaper::default() }
    }

    /// Returns the safe text of the next piece.
    pub fn next(&mut self, piece: &[u8]) -> String {
        self.bytes.extend_from_slice(piece);
        let bytes = std::mem::take(&mut self.bytes);
        let mut text = String::new();
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            chunk.valid().chars().for_each(|character| self.add(character, &mut text));
            let is_begun =
                chunks.peek().is_none() && str::from_utf8(chunk.invalid()).is_err_and(|e| e.error_len().is_none());
            match chunk.invalid() {
                [] => {}
                begun if is_begun => self.bytes = begun.to_vec(),
                _ => self.add(char::REPLACEMENT_CHARACTER, &mut text),
            }
        }
        text
    }

    /// Returns what is left at the end of the log.
    pub fn finish(mut self) -> String {
        let mut text = String::new();
        if !self.bytes.is_empty() {
            self.add(char::REPLACEMENT_CHARACTER, &mut text);
        }
        self.end_sequence(&mut text);
        if self.is_coloured {
            text.push_str("\u{1b}[0m");
        }
        text
    }

    fn add(&mut self, character: char, text: &mut String) {
        if !self.sequence.is_empty() {
            match (self.sequence.len(), character) {
                (1, '[') | (2..MAX_COLOUR, '0'..='9' | ';' | ':') => return self.sequence.push(character),
                (2.., 'm') => {
                    let colour = std::mem::take(&mut self.sequence);
                    if self.has_colours {
                        self.is_coloured = true;
                        text.push_str(&colour);
                        text.push(character);
                    }
                    return;
                }
                _ => self.end_sequence(text),
            }
        }
        let is_after_return = std::mem::replace(&mut self.is_after_return, character == '\r');
        match character {
            '\n' if is_after_return => {}
            '\n' | '\r' => text.push('\n'),
            '\t' => text.push('\t'),
            '\u{1b}' => self.sequence.push(character),
            _ if is_terminal_control(character) => text.extend(character.escape_unicode()),
            _ => text.push(character),
        }
    }

    /// The sequence is not a colour.
    fn end_sequence(&mut self, text: &mut String) {
        for character in std::mem::take(&mut self.sequence).chars() {
            match character {
                '\u{1b}' => text.extend(character.escape_unicode()),
                _ => text.push(character),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of the pieces, of which a terminal with colours gets each byte alone, too.
    fn escaped(log: &[u8], has_colours: bool) -> String {
        let whole = {
            let mut escaper = Escaper::new(has_colours);
            escaper.next(log) + &escaper.finish()
        };
        let mut escaper = Escaper::new(has_colours);
        let each: String = log.chunks(1).map(|piece| escaper.next(piece)).collect();
        assert_eq!(each + &escaper.finish(), whole);
        whole
    }

    #[test]
    fn colours_pass_and_nothing_else() {
        for (log, shown) in [
            (&b"a\tb\nc"[..], "a\tb\nc"),
            (b"\x1b[1;38:5:1mred\x1b[m", "\x1b[1;38:5:1mred\x1b[m\x1b[0m"),
            (b"\x1b[2J\x1b[3;4Hx", "\\u{1b}[2J\\u{1b}[3;4Hx"),
            (b"\x1b[1\x1b[31mx", "\\u{1b}[1\x1b[31mx\x1b[0m"),
            (b"\x1b]0;title\x07", "\\u{1b}]0;title\\u{7}"),
            (b"\x1b[?1mx", "\\u{1b}[?1mx"),
            (b"\x1b", "\\u{1b}"),
            (b"\x1b[1\n", "\\u{1b}[1\n"),
            (b"1 %\r2 %\r\nend\r", "1 %\n2 %\nend\n"),
            ("é\u{9b}\u{202e}".as_bytes(), "é\\u{9b}\\u{202e}"),
            (b"\x9b2J\xff\xc3", "\u{fffd}2J\u{fffd}\u{fffd}"),
            (b"\xe2\x82", "\u{fffd}"),
            (b"\x08\x7f\0", "\\u{8}\\u{7f}\\u{0}"),
        ] {
            assert_eq!(escaped(log, true), shown, "{log:?}");
        }
        assert_eq!(escaped(b"\x1b[31mred\x1b[0m \x1b[2J", false), "red \\u{1b}[2J");
        // A sequence that never ends takes no memory.
        let long = [b"\x1b[".to_vec(), b"1".repeat(100), b"m".to_vec()].concat();
        assert_eq!(escaped(&long, true), format!("\\u{{1b}}[{}m", "1".repeat(100)));
    }
}
