//! Every message that the code can print has its entry in `troubleshooting.md`.
//!
//! The messages are those of the errors (`#[error("…")]`) in the source, the warnings of the log, and the texts that
//! give the reason why a machine is skipped, or the progress of a build. The page has `…` for each value.

use crate::page::{Page, manual, top};
use crate::reference::sources;
use regex_lite::Regex;

/// The string literal at the start of `text`, unescaped as far as messages need it.
fn literal(text: &str) -> Option<String> {
    let mut chars = text.trim_start().strip_prefix('"')?.chars().peekable();
    let mut value = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(value),
            '\\' => match chars.next()? {
                '\n' => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
}

/// The message with `…` for each value.
fn shown(format: &str) -> String {
    let mut text = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '{' if chars.next_if_eq(&'{').is_some() => text.push('{'),
            '{' => {
                chars.by_ref().find(|&c| c == '}');
                if !text.ends_with('…') {
                    text.push('…');
                }
            }
            '}' => {
                chars.next_if_eq(&'}');
                text.push('}');
            }
            other => text.push(other),
        }
    }
    text
}

/// Files with texts for people that no macro for errors or warnings marks.
const HAND_FORMATTED: [&str; 4] =
    ["src/scheduler/choice.rs", "src/scheduler/matching.rs", "src/events.rs", "src/remote/connection.rs"];

/// The messages of one source file, except those without a text of their own.
fn messages(file: &str, text: &str) -> Vec<String> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut starts = vec!["#[error(", "warn!(", "error!("];
    if HAND_FORMATTED.contains(&file) {
        starts.extend(["write!(f, ", "f.write_str(", "format!("]);
    }
    let literals = starts.iter().flat_map(|start| text.split(start).skip(1).filter_map(literal));
    let says = |message: &String| message.replace("…", "").chars().filter(|c| c.is_alphabetic()).count() > 3;
    literals.map(|format| shown(&format)).filter(says).collect()
}

#[test]
fn messages_are_found_in_a_source() {
    let text = "#[error(\"cannot '{b}': {c} \\\n   now\")]\n#[error(transparent)]\n#[error(\n \"{0}\"\n)]\nwarn!(\"some {{y}}\\n z\")";
    assert_eq!(messages("", text), ["cannot '…': … now", "some {y}\n z"]);
}

#[test]
fn every_message_has_its_entry() {
    let page = manual("troubleshooting.md").text;
    let mut count = 0;
    let mut missing = Vec::new();
    for (file, text) in sources(&top().join("src")) {
        for message in messages(&file, &text) {
            count += 1;
            // A hint is on a line of its own, and its content is the text of the entry.
            let first = message.split("\n  hint: ").next().unwrap();
            if !page.contains(first) {
                missing.push(format!("{file}: {first}"));
            }
        }
    }
    assert!(count > 80, "only {count} messages found");
    let list = missing.join("\n");
    assert!(missing.is_empty(), "doc/manual/troubleshooting.md has no entry for:\n{list}");
}

/// Returns the string literals of a source with their lines, from 1, and with `…` for each value. Comments, raw strings and
/// tests at its end are left out.
pub fn literals(text: &str) -> Vec<(usize, String)> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let without_comment = |line| if str::trim_start(line).starts_with("//") { "" } else { line };
    let code = text.lines().map(without_comment).collect::<Vec<_>>().join("\n");
    // A quote that is a character, and raw strings, begin no literal.
    let token = Regex::new(r##"'\\?"'|\br"[^"]*"|\br#"(?s:.*?)"#|"(?s:[^"\\]|\\.)*""##).unwrap();
    let line = |start: usize| code[..start].matches('\n').count() + 1;
    let all = token.find_iter(&code).filter_map(|found| Some((line(found.start()), literal(found.as_str())?)));
    all.map(|(line, format)| (line, shown(&format))).collect()
}

/// Returns the entries of a page that are not, as a whole, in one of the messages. A page may leave out the end of a
/// message, with `…` or without.
fn entries_without_message(page: &Page, messages: &[String]) -> Vec<String> {
    let rows = page.rows().into_iter().map(|row| row[0].trim_matches('`').trim().to_owned());
    let has_message = |entry: &str| messages.iter().any(|message| message.contains(entry.trim_end_matches('…')));
    rows.filter(|entry| !has_message(entry)).collect()
}

#[test]
fn an_entry_with_one_other_word_is_found() {
    let page = |entry: &str| Page { name: String::new(), text: format!("| message |\n|---|\n| {entry} |\n") };
    let messages: Vec<String> = literals("// \"gone\"\nlet x = \"cannot '{b}': {c} \\\n   now: {d}\";")
        .into_iter()
        .map(|(line, message)| {
            assert_eq!(line, 2);
            message
        })
        .collect();
    for entry in ["cannot '…': … now: …", "cannot '…': … now", "cannot '…'…"] {
        assert_eq!(entries_without_message(&page(entry), &messages), Vec::<String>::new());
    }
    for entry in ["cannot '…': … then: …", "can '…': … now", "cannot '…': now", "gone"] {
        assert_eq!(entries_without_message(&page(entry), &messages), [entry]);
    }
}

#[test]
fn every_entry_is_a_message_of_the_code() {
    let code = sources(&top().join("src")).into_iter().filter(|(file, _)| !file.contains("/tests"));
    let messages: Vec<String> = code.flat_map(|(_, text)| literals(&text)).map(|(_, message)| message).collect();
    let page = manual("troubleshooting.md");
    assert!(page.rows().len() > 200, "only {} entries found", page.rows().len());
    let gone = entries_without_message(&page, &messages);
    assert!(gone.is_empty(), "doc/manual/troubleshooting.md has entries that are no messages:\n{}", gone.join("\n"));
}
