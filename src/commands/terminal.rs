//! The properties of standard output, width and colours, and text that is safe for a terminal.
//!
//! Colours are only for a terminal, and never if `NO_COLOR` is set and not empty (no-color.org). The width is that of
//! the terminal, or the value of `COLUMNS`. A file or a pipe has no width, and then nothing is cut.
//!
//! Text of other machines is printed without control characters.

use std::borrow::Cow;
use std::env;
use std::fmt;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use anstyle::{AnsiColor, Style};
use rustix::termios::tcgetwinsize;
use serde::Serialize;
use textwrap::{Options, WordSeparator, WordSplitter, WrapAlgorithm};

use crate::text::is_terminal_control;

/// The smallest width, in columns, for which output is laid out.
const NARROWEST: usize = 40;

/// A file that text is printed to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terminal {
    /// Columns; `None`: unlimited.
    pub width: Option<usize>,
    /// Lines, if it is a terminal.
    pub height: Option<usize>,
    pub has_colours: bool,
}

/// The colours that are used, each with one meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    Ok,
    Warning,
    Error,
    Heading,
}

impl Terminal {
    /// Returns the properties of standard output.
    pub fn of_stdout() -> Terminal {
        Terminal::of(&io::stdout())
    }

    /// Returns the properties of an open file.
    pub fn of(file: &(impl AsFd + IsTerminal)) -> Terminal {
        let is_terminal = file.is_terminal();
        let size = is_terminal.then(|| tcgetwinsize(file).ok()).flatten();
        let columns = env::var("COLUMNS").ok().and_then(|columns| columns.parse::<usize>().ok());
        let own = size.map(|size| usize::from(size.ws_col)).filter(|&columns| columns > 0);
        Terminal {
            width: own.or(columns).map(|columns| columns.max(NARROWEST)),
            height: size.map(|size| usize::from(size.ws_row)).filter(|&rows| rows > 0),
            has_colours: is_terminal && !anstyle_query::no_color() && anstyle_query::term_supports_ansi_color(),
        }
    }

    /// Returns `text` in a colour, if colours are used.
    pub fn paint(&self, colour: Colour, text: &str) -> String {
        let style = match colour {
            Colour::Ok => AnsiColor::Green.on_default(),
            Colour::Warning => AnsiColor::Yellow.on_default(),
            Colour::Error => AnsiColor::Red.on_default(),
            Colour::Heading => Style::new().bold(),
        };
        if self.has_colours { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    /// Wraps `text` between words so that no line gets too long. The first line begins in column `indent`; the others
    /// are indented by `indent`. A longer word is not broken.
    pub fn wrap(&self, indent: usize, text: &str) -> String {
        let text = plain(text);
        let Some(width) = self.width else { return text.into_owned() };
        let options = Options::new(width.saturating_sub(indent).max(NARROWEST / 2))
            .break_words(false)
            .word_separator(WordSeparator::AsciiSpace)
            .word_splitter(WordSplitter::NoHyphenation)
            .wrap_algorithm(WrapAlgorithm::FirstFit);
        textwrap::wrap(&text, options).join(&format!("\n{}", " ".repeat(indent)))
    }
}

/// Returns text without control characters: they become `?`, and the end of a line becomes `; `.
pub fn plain(text: &str) -> Cow<'_, str> {
    let text = text.trim_end();
    if !text.contains(is_terminal_control) {
        return Cow::Borrowed(text);
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Cow::Owned(lines.join("; ").chars().map(|c| if is_terminal_control(c) { '?' } else { c }).collect())
}

/// Writes a value as JSON, with an end of line. Control characters are escaped, as JSON allows everywhere in a text.
pub fn write_json(value: &impl Serialize, is_pretty: bool, out: &mut (impl io::Write + ?Sized)) -> io::Result<()> {
    let text = if is_pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) }?;
    let mut escaped = String::with_capacity(text.len() + 1);
    for character in text.chars() {
        match character {
            // It can only be between values: in a text it has been escaped already.
            '\n' => escaped.push(character),
            _ if is_terminal_control(character) => escaped.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => escaped.push(character),
        }
    }
    escaped.push('\n');
    out.write_all(escaped.as_bytes())
}

/// A time in seconds, in its two greatest units.
pub struct HumanDuration(pub u64);

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, minutes, hours, days) = (self.0, self.0 / 60, self.0 / 3600, self.0 / 86_400);
        match seconds {
            0..60 => write!(f, "{seconds} s"),
            60..3600 => write!(f, "{minutes} min"),
            3600..86_400 => write!(f, "{hours} h {} min", minutes % 60),
            _ => write!(f, "{days} d {} h", hours % 24),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_between_words_if_there_is_a_width() {
        let text = "one two three four five six seven eight nine ten";
        let narrow = Terminal { width: Some(44), ..Terminal::default() };
        assert_eq!(
            narrow.wrap(20, text),
            format!("one two three four five\n{0}six seven eight nine ten", " ".repeat(20))
        );
        assert_eq!(Terminal::default().wrap(20, text), text);
        assert_eq!(narrow.wrap(20, &"x".repeat(50)), "x".repeat(50));
    }

    #[test]
    fn plain_text_has_no_control_characters() {
        assert_eq!(plain("a\x1b[2Jb\nc\r\n"), "a?[2Jb; c");
        assert_eq!(plain("unchanged\n"), "unchanged");
        assert_eq!(plain("\u{202e}desrever"), "?desrever");
    }

    #[test]
    fn json_has_no_control_characters() {
        let value = serde_json::json!({ "text": "a\u{1b}[2J\u{9b}2J\n\u{202e}é" });
        let mut text = Vec::new();
        write_json(&value, false, &mut text).unwrap();
        assert_eq!(String::from_utf8(text.clone()).unwrap(), "{\"text\":\"a\\u001b[2J\\u009b2J\\n\\u202eé\"}\n");
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn only_terminals_that_accept_colours_get_them() {
        assert_eq!(Terminal::default().paint(Colour::Error, "!!"), "!!");
        assert_eq!(
            Terminal { has_colours: true, ..Terminal::default() }.paint(Colour::Error, "!!"),
            "\x1b[31m!!\x1b[0m"
        );
    }

    #[test]
    fn durations_have_at_most_two_units() {
        let texts =
            [0, 59, 60, 3599, 3600, 7260, 86_399, 86_400, 366 * 86_400].map(|count| HumanDuration(count).to_string());
        let expected =
            ["0 s", "59 s", "1 min", "59 min", "1 h 0 min", "2 h 1 min", "23 h 59 min", "1 d 0 h", "366 d 0 h"];
        assert_eq!(texts, expected);
    }
}
