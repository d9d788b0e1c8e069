//! Text in XML and HTML.
//!
//! Text and values of attributes are escaped by this file, so that no caller can forget it. Only text that is a part of this program
//! is written as it is. Elements are closed with `/>` or an end tag: for SVG, XML and HTML read this alike. Source: XML 1.0,
//! 2.2 (characters) and 2.4 (markup); the HTML standard, 13.1.2.
//!
//! XML excludes most control characters, and characters that change the direction of writing could show another text than the
//! real one. Both are written as their number, such as `\u{1b}`.

use std::fmt::{self, Display, Write};

use crate::text::is_terminal_control;

/// Names and values.
pub type Attributes<'a> = &'a [(&'static str, &'a dyn Display)];

/// A document, or a part of one.
#[derive(Debug, Default)]
pub struct Markup(String);

impl Markup {
    /// Adds an element, with what `content` adds.
    pub fn element(&mut self, name: &'static str, attributes: Attributes<'_>, content: impl FnOnce(&mut Markup)) {
        self.begin(name, attributes);
        self.0.push('>');
        content(self);
        self.0.push_str("</");
        self.0.push_str(name);
        self.0.push('>');
    }

    /// Adds an element with text.
    pub fn leaf(&mut self, name: &'static str, attributes: Attributes<'_>, text: impl Display) {
        self.element(name, attributes, |content| content.text(text));
    }

    /// Adds an element without content.
    pub fn empty(&mut self, name: &'static str, attributes: Attributes<'_>) {
        self.begin(name, attributes);
        self.0.push_str("/>");
    }

    /// Adds text.
    pub fn text(&mut self, text: impl Display) {
        // Writing to a string does not fail.
        let _ = write!(Escaped(&mut self.0), "{text}");
    }

    /// Adds text of this program as it is.
    pub fn trusted(&mut self, text: &'static str) {
        self.0.push_str(text);
    }

    pub fn into_string(self) -> String {
        self.0
    }

    fn begin(&mut self, name: &'static str, attributes: Attributes<'_>) {
        self.0.push('<');
        self.0.push_str(name);
        for (name, value) in attributes {
            self.0.push(' ');
            self.0.push_str(name);
            self.0.push_str("=\"");
            self.text(value);
            self.0.push('"');
        }
    }
}

/// Escapes the text that is written to it.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' | '\t' => self.0.push(character),
                _ if is_terminal_control(character) || matches!(character, '\u{fffe}' | '\u{ffff}') => {
                    self.0.extend(character.escape_unicode());
                }
                _ => self.0.push(character),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_values_of_attributes_are_escaped() {
        let mut markup = Markup::default();
        let hostile = "</p><script>\"'&\u{1b}[2J\u{0}\u{202e}\u{ffff}\n\té";
        markup.element("p", &[("title", &hostile), ("x", &1.5)], |p| {
            p.empty("br", &[]);
            p.leaf("b", &[], hostile);
            p.trusted("<i/>");
        });
        let escaped = "&lt;/p&gt;&lt;script&gt;&quot;&#39;&amp;\\u{1b}[2J\\u{0}\\u{202e}\\u{ffff}\n\té";
        let expected = format!("<p title=\"{escaped}\" x=\"1.5\"><br/><b>{escaped}</b><i/></p>");
        assert_eq!(markup.into_string(), expected);
    }
}
