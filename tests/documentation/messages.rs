//! Every message that the code can print has its entry in `troubleshooting.md`.
//!
//! The messages are those of the errors (`#[error("…")]`) in the source, the warnings of the log, and the texts that
//! say why a machine is passed over and what happens to a build. Where the source puts a value in, the page has `…`.

use crate::page::{manual, top};
use crate::reference::sources;

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

/// Files whose texts for people are formatted by hand.
const SAID: [&str; 4] =
    ["src/scheduler/choice.rs", "src/scheduler/matching.rs", "src/events.rs", "src/remote/connection.rs"];

/// The messages of one source file, without those that are nothing but another's.
fn messages(file: &str, text: &str) -> Vec<String> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut starts = vec!["#[error(", "warn!(", "error!("];
    if SAID.contains(&file) {
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
            // A hint stands on a line of its own, and is the entry's text.
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

/// No entry outlives its message: the longest piece of each stands somewhere in the code.
#[test]
fn every_entry_has_its_message() {
    let code: String = sources(&top().join("src")).into_iter().map(|(_, text)| text).collect();
    // A literal that goes on in the next line.
    let pieces: Vec<&str> =
        code.split("\\\n").enumerate().map(|(n, text)| if n == 0 { text } else { text.trim_start() }).collect();
    let code = pieces.concat().replace("\\\"", "\"").replace("{{", "{").replace("}}", "}");
    let mut gone = Vec::new();
    let rows = manual("troubleshooting.md").rows();
    assert!(rows.len() > 80, "only {} entries found", rows.len());
    for row in rows {
        let message = row[0].trim_matches('`').trim();
        let piece = message.split(['…', '(', ')']).max_by_key(|piece| piece.len()).unwrap().trim();
        if !code.contains(piece) {
            gone.push(message.to_owned());
        }
    }
    assert!(gone.is_empty(), "doc/manual/troubleshooting.md has entries that are no messages:\n{}", gone.join("\n"));
}
