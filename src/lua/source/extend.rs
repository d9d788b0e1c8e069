//! The place for one more item in the table that a Lua text returns.
//!
//! The text must end in `return { … }`, outside of any block. The new item follows the last item that is a call of a
//! known constructor, else it is the first. So it never follows a call of another function: such a call at the end of a
//! table gives all of its results, and before another item only one (Lua 5.4 manual, section 3.4.9).

use std::ops::Range;

use super::{Source, TokenKind};

/// Adds `item` to the table that the Lua text `text` returns, and changes nothing else in it. `item` is the lines of an
/// expression with a comma at the end. Returns `None` if the text does not end in `return { … }`.
pub(crate) fn with_item(text: &str, constructors: &[&str], item: &str) -> Option<String> {
    let source = Source::new(text);
    let place = source.place(constructors)?;
    let line_end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let rest = text.get(place.after..)?;
    let line = &rest[..rest.find(line_end).unwrap_or(rest.len())];
    // A comment on the line belongs to what is before. A long one may end on another line.
    let is_free =
        line.trim().is_empty() || line.trim_start().starts_with("--") && !line.trim_start().starts_with("--[");
    let (at, end) = if is_free { (place.after + line.len(), "") } else { (place.after, line_end) };
    let indent = place.indent(text);
    let lines: String = item.lines().map(|line| format!("{line_end}{indent}{line}")).collect();
    let separator = if place.needs_separator { "," } else { "" };
    Some([&text[..place.before], separator, &text[place.before..at], &lines, end, &text[at..]].concat())
}

/// The place of a new item.
struct Place {
    /// The end of the item before it, or of the brace that begins the table.
    before: usize,
    /// The end of the separator after that item, if there is one.
    after: usize,
    needs_separator: bool,
    /// The start of the item before it; `None` if it is the first.
    item_start: Option<usize>,
}

impl Place {
    /// Returns the indentation of the new item: that of the item before it, or two columns.
    fn indent<'a>(&self, text: &'a str) -> &'a str {
        let start_of_line = |at: usize| text[..at].rfind('\n').map_or(0, |end| end + 1);
        let before = self.item_start.map(|at| &text[start_of_line(at)..at]);
        before.filter(|before| before.trim().is_empty()).unwrap_or("  ")
    }
}

impl Source<'_> {
    fn place(&self, constructors: &[&str]) -> Option<Place> {
        let table = self.returned_at_the_end()?;
        let open = table.start;
        let is_constructor = |at: usize| {
            let TokenKind::Name(name) = self.tokens[at].kind else { return false };
            constructors.contains(&name) && self.tokens.get(at + 1).is_some_and(|next| next.kind == TokenKind::Brace)
        };
        let mut last: Option<(usize, usize)> = None;
        let mut start = open + 1;
        for (at, depth) in self.inside(open) {
            let ends = at > open && depth == 1 && self.tokens[at].kind == TokenKind::Separator;
            if ends || at + 1 == table.end {
                let end = if ends { at } else { at + 1 };
                if end > start && is_constructor(start) {
                    last = Some((start, end));
                }
                start = at + 1;
            }
        }
        let Some((first, end)) = last else {
            let after = self.tokens[open].bytes.end;
            return Some(Place { before: after, after, needs_separator: false, item_start: None });
        };
        let before = self.tokens[end - 1].bytes.end;
        let separator = Some(&self.tokens[end]).filter(|token| token.kind == TokenKind::Separator);
        Some(Place {
            before,
            after: separator.map_or(before, |token| token.bytes.end),
            needs_separator: separator.is_none(),
            item_start: Some(self.tokens[first].bytes.start),
        })
    }

    /// Returns the tokens of the braces of the table that the text returns as its last statement.
    fn returned_at_the_end(&self) -> Option<Range<usize>> {
        let mut depth = 0_usize;
        for (at, token) in self.tokens.iter().enumerate() {
            match token.kind {
                TokenKind::Brace
                | TokenKind::Bracket
                | TokenKind::Open
                | TokenKind::Name("function" | "do" | "if" | "repeat") => depth += 1,
                TokenKind::Close | TokenKind::Name("end" | "until") => depth = depth.saturating_sub(1),
                TokenKind::Name("return") if depth == 0 => {
                    let open = at + 1;
                    let brace = self.tokens.get(open)?;
                    let close = self.inside(open).last()?.0 + 1;
                    let is_end = self.tokens.get(close + 1..)?.iter().all(|token| token.kind == TokenKind::Separator);
                    return (brace.kind == TokenKind::Brace && is_end).then_some(open..close);
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEM: &str = "m {\n  n = 9,\n},\n";

    fn extended(text: &str) -> Option<String> {
        with_item(text, &["m", "head"], ITEM)
    }

    #[test]
    fn the_item_follows_the_last_constructor_and_all_else_stays() {
        for (text, expected) in [
            // With a separator and a comment, without either, and in one line.
            ("return {\n  m { n = 1 },  -- one\n}\n", "return {\n  m { n = 1 },  -- one\n  m {\n    n = 9,\n  },\n}\n"),
            ("return {\n\tm { n = 1 } -- one\n}", "return {\n\tm { n = 1 }, -- one\n\tm {\n\t  n = 9,\n\t},\n}"),
            ("return { m { n = 1 } }", "return { m { n = 1 },\n  m {\n    n = 9,\n  },\n }"),
            ("return { m { n = 1 }; x = 2 }\n", "return { m { n = 1 };\n  m {\n    n = 9,\n  },\n x = 2 }\n"),
            // A comment that ends on another line.
            (
                "return {\n  m { n = 1 }, --[[ a\n  b ]] x = 2,\n}",
                "return {\n  m { n = 1 },\n  m {\n    n = 9,\n  },\n --[[ a\n  b ]] x = 2,\n}",
            ),
            // After the second constructor, and before other items.
            (
                "return {\n  m { n = 1 },\n  x = function() return { m { n = 2 } } end,\n  head { },\n  all(m { n = 3 }),\n}",
                "return {\n  m { n = 1 },\n  x = function() return { m { n = 2 } } end,\n  head { },\n  m {\n    n = 9,\n  },\n  all(m { n = 3 }),\n}",
            ),
            // The first one, so that the call still gives all of its results.
            ("return {\n  all(),\n}", "return {\n  m {\n    n = 9,\n  },\n  all(),\n}"),
            ("return { all() }", "return {\n  m {\n    n = 9,\n  },\n all() }"),
            ("return {}\n", "return {\n  m {\n    n = 9,\n  },\n}\n"),
            ("return {\r\n  m { },\r\n}\r\n", "return {\r\n  m { },\r\n  m {\r\n    n = 9,\r\n  },\r\n}\r\n"),
            // Not the table that a function or a block returns.
            (
                "local function f() return { m { } } end\nif x then return {} end\nreturn { };;  -- the end\n",
                "local function f() return { m { } } end\nif x then return {} end\nreturn {\n  m {\n    n = 9,\n  },\n };;  -- the end\n",
            ),
        ] {
            assert_eq!(extended(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_text_of_another_shape_is_not_extended() {
        for text in [
            "",
            "return list",
            "local t = { }\nreturn t",
            "return { }, 2",
            "return setmetatable({ }, t)",
            "return {",
            "x = { }",
        ] {
            assert_eq!(extended(text), None, "{text}");
        }
    }
}
