//! Phrases that documents and comments avoid, each with the words to write instead.
//!
//! Documents and comments are written in plain sentences: subject, verb, object, with the terms of the Guix manual and of
//! OpenSSH. [`phrases`](crate::phrases) lists words and constructions that break this rule and that a regular expression finds with
//! few false alarms. [`ROOTS`] lists the texts that are read. A text keeps its line breaks, so that a finding names
//! the line; everything that is not prose (code, quoted messages, links) is blanked out first.
//!
//! To read more texts, add a function to [`ROOTS`].

use crate::messages::literals;
use crate::page::{pages, top};
use crate::phrases::AVOIDED;
use crate::reference::sources;
use clap::Command as Definition;
use offload::internals::commands::documents::documents;
use offload::internals::commands::help::definition;
use regex_lite::Regex;

/// A text with its name, such as a file.
type Text = (String, String);

/// A source of texts.
struct Root {
    kind: &'static str,
    texts: fn() -> Vec<Text>,
}

/// The texts that are read.
const ROOTS: [Root; 5] = [
    Root { kind: "pages", texts: page_texts },
    Root { kind: "help texts", texts: help_texts },
    Root { kind: "manual pages", texts: manual_page_texts },
    Root { kind: "comments", texts: comment_texts },
    Root { kind: "messages", texts: message_texts },
];

/// The lines that a paragraph may have.
const PARAGRAPH: usize = 5;

/// Where the phrases of [`AVOIDED`] are in `texts`, a line for each.
fn find(texts: &[Text]) -> Vec<String> {
    let mut found = Vec::new();
    for avoided in AVOIDED {
        let regex = regex(avoided.pattern);
        for (name, text) in texts {
            for hit in regex.find_iter(text) {
                let start = hit.start() + hit.as_str().len() - hit.as_str().trim_start().len();
                let line = text[..start].matches('\n').count() + 1;
                let phrase = hit.as_str().split_whitespace().collect::<Vec<_>>().join(" ");
                found.push(format!("{name}:{line}: \"{phrase}\": write {}", avoided.instead));
            }
        }
    }
    found.sort();
    found
}

fn regex(pattern: &str) -> Regex {
    let pattern = format!("(?im){}", pattern.replace(' ', r"\s+").replace(r"\s+*", r"\s*"));
    Regex::new(&pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"))
}

/// The README and the pages in `doc/`.
fn page_texts() -> Vec<Text> {
    pages().into_iter().map(|page| (page.name, prose(&page.text))).collect()
}

/// The prose of a page in Markdown. Code, quotations of messages and targets of links become blanks.
fn prose(markdown: &str) -> String {
    without_links(&without_code(&prose_lines(markdown).join("\n")))
}

/// The lines of a page; those of code, quotations and comments are empty, and so are cells with messages.
fn prose_lines(markdown: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let (mut is_code, mut quoted_cell) = (false, None);
    let source: Vec<&str> = markdown.lines().collect();
    for (number, line) in source.iter().enumerate() {
        let start = line.trim_start();
        let is_fence = start.starts_with("```");
        is_code ^= is_fence;
        let is_quotation = is_code || is_fence || start.starts_with('>') || start.starts_with("<!--");
        if is_quotation {
            lines.push(String::new());
            continue;
        }
        if !start.starts_with('|') {
            quoted_cell = None;
        } else if source.get(number + 1).is_some_and(|next| next.starts_with("|-")) {
            quoted_cell = cells(line).iter().position(|cell| cell.contains("message"));
        }
        let line = match quoted_cell {
            Some(quoted) => {
                let kept = cells(line).into_iter().enumerate().map(|(n, cell)| if n == quoted { "" } else { cell });
                kept.collect::<Vec<_>>().join("|")
            }
            None => (*line).to_owned(),
        };
        lines.push(line);
    }
    lines
}

/// The cells of a row, with an empty one before the first bar.
fn cells(row: &str) -> Vec<&str> {
    let mut cells = Vec::new();
    let mut start = 0;
    for (place, _) in row.match_indices('|') {
        if !row[..place].ends_with('\\') {
            cells.push(&row[start..place]);
            start = place + 1;
        }
    }
    cells.push(&row[start..]);
    cells
}

/// `text` with `x` for each piece between back-quotes, double quotes or single quotes, which are code or messages.
fn without_code(text: &str) -> String {
    let code = Regex::new("``[^\n]*?``|`[^`|]*?`|\"[^\"\n]*\"").unwrap();
    code.replace_all(text, |found: &regex_lite::Captures| "\n".repeat(found[0].matches('\n').count()) + "x")
        .into_owned()
}

/// `text` with the texts of links, and without their targets.
fn without_links(text: &str) -> String {
    Regex::new(r"\]\([^)]*\)").unwrap().replace_all(text, "]").into_owned()
}

/// What `--help` prints, for each command.
fn help_texts() -> Vec<Text> {
    let mut definition = definition();
    definition.build();
    let mut texts = vec![("offload --help".to_owned(), definition.render_long_help().to_string())];
    let named = |command: &mut Definition| {
        (format!("offload {} --help", command.get_name()), command.render_long_help().to_string())
    };
    texts.extend(definition.get_subcommands_mut().map(named));
    texts.into_iter().map(|(name, text)| (name, without_code(&text))).collect()
}

/// The manual pages, without the requests and fonts of roff. Examples are code.
fn manual_page_texts() -> Vec<Text> {
    let pages = documents(definition()).into_iter().filter(|document| document.path.starts_with("share/man"));
    let plain = |roff: String| {
        let mut is_example = false;
        let mut kept = Vec::new();
        for line in roff.lines() {
            is_example = line == ".EX" || (is_example && line != ".EE");
            kept.push(if is_example || line.starts_with('.') { "" } else { line });
        }
        Regex::new(r"\\f[BIRP]|\\&|\\").unwrap().replace_all(&kept.join("\n"), "").into_owned()
    };
    pages.map(|page| (page.path.display().to_string(), plain(String::from_utf8(page.contents).unwrap()))).collect()
}

/// The comments of the library and of its tests, without the code in them.
fn comment_texts() -> Vec<Text> {
    let files = ["src", "tests"].into_iter().flat_map(|directory| sources(&top().join(directory)));
    files.map(|(name, source)| (name, prose(&comments(&source)))).collect()
}

/// The messages of the library: string literals of three words or more, on their lines.
fn message_texts() -> Vec<Text> {
    let is_message = |(_, text): &(usize, String)| text.split_whitespace().count() > 2;
    let on_lines = |source: &str| {
        let mut lines = vec![String::new(); source.lines().count()];
        for (line, text) in literals(source).into_iter().filter(is_message) {
            lines[line - 1] += &format!("{}\u{2029}", without_code(&text).replace('\n', " "));
        }
        lines.join("\n")
    };
    let files = sources(&top().join("src")).into_iter();
    let files = files.filter(|(name, _)| !name.contains("/tests"));
    files.map(|(name, source)| (name, on_lines(&source))).collect()
}

/// The comments of a source file, on their lines.
fn comments(source: &str) -> String {
    let comment =
        |line: &str| line.trim_start().strip_prefix("//").map(|text| text.trim_start_matches(['/', '!']).to_owned());
    source.lines().map(|line| comment(line).unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

#[test]
fn no_text_has_the_markers_of_a_merge() {
    let files = pages().into_iter().map(|page| (page.name, page.text));
    let sources = ["src", "tests", "lua", "examples"].into_iter().flat_map(|directory| sources(&top().join(directory)));
    let marked =
        |text: &str| text.lines().position(|line| line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> "));
    let found = files.chain(sources).filter_map(|(name, text)| Some(format!("{name}:{}", marked(&text)? + 1)));
    assert_eq!(found.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn texts_avoid_the_phrases_of_the_list() {
    let mut found = Vec::new();
    for Root { kind, texts } in ROOTS {
        let texts = texts();
        let words: usize = texts.iter().map(|(_, text)| text.split_whitespace().count()).sum();
        assert!(texts.len() > 8 && words > 500, "{kind}: only {} texts with {words} words", texts.len());
        found.extend(find(&texts));
    }
    assert!(found.is_empty(), "{} phrases to reword:\n{}", found.len(), found.join("\n"));
}

/// A paragraph, or an entry of a list, has at most five lines.
#[test]
fn paragraphs_are_short() {
    let (mut long, mut lines) = (Vec::new(), 0);
    for page in pages() {
        let mut length = 0;
        for (number, line) in (1..).zip(prose_lines(&page.text)) {
            let is_entry = line.trim_start().starts_with("- ") || line.split(". ").next().is_some_and(is_number);
            let is_text = !line.is_empty() && !line.starts_with(['|', '#', '!']);
            lines += usize::from(is_text);
            length = if is_text && !is_entry { length + 1 } else { usize::from(is_text) };
            if length == PARAGRAPH + 1 {
                long.push(format!("{}:{number}: this paragraph has more than {PARAGRAPH} lines", page.name));
            }
        }
    }
    assert!(lines > 500, "only {lines} lines of text found");
    assert!(long.is_empty(), "{}", long.join("\n"));
}

fn is_number(text: &str) -> bool {
    let text = text.trim_start();
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// No pattern is dead: each finds its example, also in the middle of a text and across a line break.
#[test]
fn each_pattern_finds_its_example() {
    for avoided in AVOIDED {
        let regex = regex(avoided.pattern);
        let broken = avoided.example.replacen(' ', "\n", 1);
        for text in [avoided.example, &broken, &format!("Before this. {} And after.", avoided.example)] {
            assert!(regex.is_match(text), "{}: not found in {text:?}", avoided.pattern);
        }
        let advice = avoided.instead.split(", not '").next().unwrap();
        assert!(find(&[(String::new(), advice.to_owned())]).is_empty(), "the advice is to be avoided itself: {advice}");
    }
}

/// A finding names the text, the line, the phrase and the better words.
#[test]
fn a_finding_says_what_to_write_instead() {
    let text = "First line.\n\nIt prints the command that\nmends the problem.\n".to_owned();
    let found = find(&[("page.md".to_owned(), text)]);
    assert_eq!(found, [r#"page.md:4: "mends": write 'fix'"#]);
    let text = "A sentence.\nEverything is sent, but\nfor the last part.\n".to_owned();
    let found = find(&[("page.md".to_owned(), text)]);
    assert_eq!(found, [r#"page.md:2: "but for": write 'except', 'apart from'"#]);
}

#[test]
fn plain_sentences_pass() {
    let text = "What can it do? Builds continue on the machine. There is no limit. It is no longer used.\n\
                ## What is missing\n\nThe hook asks for a slot. By the way, look at the table below, but look first.\n";
    assert_eq!(find(&[("page.md".to_owned(), text.to_owned())]), Vec::<String>::new());
}

#[test]
fn comments_are_read_without_code() {
    let source = "//! Fine.\n\nlet mend = \"mend\"; // mend\n    /// It is told\n    // `mend` it.\n//! ```\n//! mend\n//! ```\n";
    let found = find(&[("a.rs".to_owned(), prose(&comments(source)))]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("a.rs:4: \"is told\": write "), "{found:?}");
}

#[test]
fn code_and_messages_of_a_page_are_not_read() {
    let page = "a `b but for c` d\n\n```sh\nmend\n```\n\n> mend\n\n| message | |\n|---|---|\n| mend \\| x | fine |\n\n\
                [text](mend.md)\n\n| a | b |\n|---|---|\n| mend | c |\n";
    let prose = prose(page);
    assert_eq!(prose.matches("mend").count(), 1, "{prose}");
    assert_eq!(prose.lines().position(|line| line.contains("mend")), Some(16), "{prose}");
    assert!(prose.contains("fine") && prose.contains("[text]"), "{prose}");
}
