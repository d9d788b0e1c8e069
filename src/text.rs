//! Text from outside, escaped for messages: the text of a build machine or its daemon may be printed on a terminal.

use std::fmt::Write;

/// Returns `text` in at most `max` bytes, plus a note if it was cut. Newlines and tabs stay; other control characters,
/// and those that change the direction of writing, are escaped, such as `\u{1b}`.
pub fn printable(text: &str, max: usize) -> String {
    let mut printed = String::new();
    for character in text.chars() {
        if printed.len() >= max {
            printed.push_str(" ...");
            break;
        }
        match character {
            '\n' | '\t' => printed.push(character),
            _ if is_terminal_control(character) => escape(&mut printed, character),
            _ => printed.push(character),
        }
    }
    printed
}

/// Returns whether a terminal interprets a character instead of showing it: a control character, or one that changes
/// the direction of writing.
pub fn is_terminal_control(character: char) -> bool {
    let turns =
        matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || character.is_control()
}

fn escape(printed: &mut String, character: char) {
    // Writing to a string does not fail.
    let _ = write!(printed, "{}", character.escape_unicode());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\tb\nc é", 99), "a\tb\nc é");
        assert_eq!(
            printable("\u{1b}[2J\r# accept\u{9b}\u{202e}x\0", 99),
            "\\u{1b}[2J\\u{d}# accept\\u{9b}\\u{202e}x\\u{0}"
        );
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(printable("abcdef", 6), "abcdef");
        assert_eq!(printable("abcdefg", 6), "abcdef ...");
        assert!(printable(&"\0".repeat(1 << 20), 100).len() < 120);
    }
}
