//! Phrases that the documents avoid, each with the words to write instead.
//!
//! The documents are written in plain sentences: subject, verb, object, with the terms of the Guix manual and of
//! OpenSSH. [`AVOIDED`] lists words and constructions that break this rule and that a regular expression finds with
//! few false alarms. [`ROOTS`] lists the texts that are read. A text keeps its line breaks, so that a finding names
//! the line; everything that is not prose (code, quoted messages, links) is blanked out first.
//!
//! To read more texts, such as the doc comments of `src/`, add a function to [`ROOTS`].

use crate::page::pages;
use clap::Command as Definition;
use offload::commands::documents::documents;
use offload::commands::help::definition;
use regex_lite::Regex;

/// A text with its name, such as a file.
type Text = (String, String);

/// The texts that are read, by kind: each function returns names and texts.
const ROOTS: [(&str, fn() -> Vec<Text>); 3] =
    [("pages", page_texts), ("help texts", help_texts), ("manual pages", manual_page_texts)];

/// The lines that a paragraph may have.
const PARAGRAPH: usize = 5;

/// A phrase to avoid.
struct Avoided {
    /// A regular expression. A blank stands for any white space, a line break too. Letters match in both cases.
    pattern: &'static str,
    /// The words to write instead.
    instead: &'static str,
    /// A text in which the pattern is found.
    example: &'static str,
}

const fn avoid(pattern: &'static str, instead: &'static str, example: &'static str) -> Avoided {
    Avoided { pattern, instead, example }
}

const AVOIDED: &[Avoided] = &[
    // Constructions.
    avoid(
        r"(^|[.!?:|*>-]) *(?-i:What) ([^\s.?!]+ ){2,9}(is|are|was|were|has|have|does|gets?|goes|costs?|counts?|stands?|comes?|becomes?|ends?|belongs?|stays?|follows|enters?|did|must|can|cannot) [^.?!|:]{0,200}[.;]",
        "a sentence with an actor as its subject: 'Problems are reported', not 'What is odd is told'",
        "What is odd is told.",
    ),
    avoid(r"\bwho(m|so)?ever\b", "'anyone who', 'a user who', 'a client that'", "Whoever has a slot waits no more."),
    avoid(
        r"(^|[.!?|] ) *(?-i:The same|Nor|Neither)\.",
        "a whole sentence that repeats the fact",
        "It fails. The same.",
    ),
    avoid(
        r"(^|[.!?|] ) *(?-i:Nor) (does|do|is|are|has|have|can|did)\b",
        "a sentence of its own: '… does not …'",
        "| Nor does what is cut |",
    ),
    avoid(
        r"\b(has|have|had|having) (\S+ ){1,6}(done|built|made) by\b",
        "'runs … on': 'runs your builds on other machines'",
        "has the builds of GNU Guix done by other machines",
    ),
    avoid(
        r"\b(has|have|had|having) (systemd|guix-daemon|it|them|the daemon|the machine's daemon|the machine|this machine) (use|build|read|run|import|take|accept|restart|choose|trust)\b",
        "the plain verb, or 'tells … to', 'makes', 'configures'",
        "has the machine's daemon build",
    ),
    avoid(r"\b(is|are|was|were) to have\b", "'gets', 'should get'", "when it is to have builds again"),
    avoid(r"\b(that|which|it) (is|are) none\b", "'that is not a …'", "a path that is none"),
    avoid(
        r"\b(it|that|this|which) (is|are|was|were) no ([a-km-z]|l[a-np-z])",
        "'is not a …'",
        "what listens there, and it is no daemon",
    ),
    avoid(r"\bone that does not (is|are|has|was)\b", "name the subject again", "one that does not is not used"),
    avoid(r"\bnothing of (it|this|that|a|an|the|what)\b", "'no part of', or name the thing", "nothing of it is left"),
    // Words for reports.
    avoid(
        r"\b(is|are|was|were|be|been|being) told\b",
        "'is reported', 'is printed', 'is logged'; of two things: 'is distinguished from'",
        "the error is told",
    ),
    avoid(r"\b(is|are|was|were|be|been) said\b", "'is reported', 'is printed', 'is logged'", "it is said once a day"),
    avoid(
        r"\b(it|them|they|machine|machines) tells? (its|their|of|only|nothing)\b",
        "'reports'",
        "the machine tells its load",
    ),
    avoid(r"\bown words?\b", "'the message of …'", "SQLite's own words"),
    avoid(r"\bwith nothing (printed|said)\b", "'and prints nothing'", "with nothing printed"),
    avoid(r"\b(without|with) a word\b", "'without a message'", "the server went without a word"),
    // Words for repairs.
    avoid(r"\bmend(s|ed|ing)?\b", "'fix'", "the command that mends it"),
    avoid(r"\blook(s|ed|ing)? after\b", "'maintain', 'handle'", "it is looked after"),
    avoid(r"\bput right\b", "'fix', 'correct'", "it can be put right"),
    // Words for checks.
    avoid(
        r"\b(to|would|must|will|can|may|could|should) be asked\b",
        "'is probed', 'is checked', 'is queried'",
        "the machine has to be asked",
    ),
    avoid(
        r"\bask(s|ed|ing)? (\S+ )?how (it|they|the \S+) (is|are)\b",
        "'probes', 'checks the status of'",
        "the hook asks it how it is",
    ),
    avoid(
        r"\b(machine|machines|it|them|they) (is|are|was|were) (not )?asked\b",
        "'is probed', 'is checked'",
        "the machines are asked",
    ),
    avoid(r"\b(has|have|had|not) (\S+ )?been asked\b", "'has been probed', 'checked'", "it had not been asked before"),
    avoid(r"\b(is|are|was|were) (not )?asked for\b", "'is requested', 'is required'", "it was not asked for"),
    avoid(r"\bnobody (has )?asked for\b", "'that was not requested'", "data that nobody asked for"),
    avoid(
        r"\bheld against\b",
        "'counts as a failure of'; of two things: 'is compared with'",
        "it is not held against it",
    ),
    avoid(
        r"\bhow (it|they|the machines|the build machines) (is|are)($|[.,;:)]| and\b| now\b)",
        "'its status'",
        "how the machines are, and",
    ),
    avoid(r"\b(is|are) (all )?in order\b", "'is valid', 'passes'", "the file is in order"),
    avoid(r"\b(is|are) (all )?well\b", "'passes'", "none of them is well"),
    avoid(r"\b(is|are) no answers?\b", "'is invalid'", "a result that is no answer"),
    avoid(r"\bmeans? nothing\b", "'is invalid'", "A value that means nothing"),
    avoid(r"\bmakes? no sense\b", "'is invalid'", "a record that makes no sense"),
    avoid(
        r"\b(go|goes|going|went) by (what|the|its|a)\b",
        "'uses', 'is based on', 'relies on'",
        "It goes by what is known.",
    ),
    avoid(r"\b(see|sees|saw) to it\b", "'ensures'", "the hook sees to it"),
    // Words for waiting, skipping and ending.
    avoid(r"\bnobody waits\b", "'no build waits', 'builds skip it'", "and nobody waits for it"),
    avoid(r"\banswers? nobody\b", "'cannot be reached', 'does not respond'", "the daemon answers nobody"),
    avoid(r"\bpatience\b|\bpatient\b", "'timeout', 'limit'", "the patience of the hook"),
    avoid(r"\bleft alone\b|\bleaves? (it|them) alone\b", "'is skipped'", "it is left alone for 10 s"),
    avoid(r"\bpass(es|ed|ing)? over\b", "'skip', 'reject'", "why a machine is passed over"),
    avoid(r"\b(in|of|with) trouble\b", "'failing', 'failures'", "a machine in trouble"),
    avoid(r"\b(held|holds|hold) (\S+ )?up\b", "'block', 'delay'", "the daemon is held up"),
    avoid(r"\bwithout (an )?end\b|\bfor ever\b", "'indefinitely', 'without a limit'", "it waits without end"),
    avoid(r"\b(go|goes|going|went) on\b", "'continue'", "the builds there go on"),
    avoid(r"\bserves? on\b", "'stays in use'", "the old value serves on"),
    avoid(r"\b(come|comes|came|coming) to an end\b|\b(is|are) at an end\b", "'ends'", "it comes to an end"),
    avoid(
        r"\bno turn\b|\bin turns\b|\bturns? to (transfer|connect)\b",
        "'transfer slot'; of two things: 'alternately'",
        "no turn came",
    ),
    avoid(r"\bplaces? in line\b", "'place in the queue'", "keeps its place in line"),
    avoid(r"\bfor the time being\b", "'temporarily'", "it is refused for the time being"),
    avoid(r"\blets? (nobody|no one|somebody) in\b", "'refuses logins'", "the server lets nobody in"),
    avoid(r"\bcounts? (at once|for the next|from)\b", "'takes effect'", "a change counts at once"),
    avoid(
        r"\bnothing the (second|next) time\b",
        "'can be repeated'",
        "Nothing is changed the first, and nothing the second time.",
    ),
    // Words for places, paths and latency.
    avoid(r"\bover there\b", "'on the build machine', 'on the other side'", "the daemon over there"),
    avoid(r"\bthere (lies|stands|goes)\b", "'is', 'is in'", "there stands the file"),
    avoid(
        r"\bstands? (in|below|above|beside|behind|there|where|before|at|on)\b",
        "'is in', 'is below'",
        "it stands in the file",
    ),
    avoid(r"\blies? (in|below|above|beside|behind|on)\b", "'is in', 'is below'", "the state lies in /var/guix"),
    avoid(
        r"\b(on|for|of|over) (the|its|their) way\b",
        "'in transit', 'in flight'; of time: 'latency'",
        "what is on its way",
    ),
    avoid(r"\bin (the|their|its|your) way\b", "'conflicts with', 'exists already'", "a file is in the way"),
    avoid(
        r"\bthe way (to|into|there|over|back|of)\b",
        "'the connection to', 'the route', 'latency'",
        "the way to the machine",
    ),
    avoid(r"\blong way\b", "'high latency'", "it is a long way"),
    avoid(r"\bby way of\b", "'through', 'with'", "by way of a link"),
    avoid(r"\bin the place of\b|\btakes? the place of\b", "'instead of', 'replaces'", "it takes the place of the link"),
    avoid(r"\bleads? (back|there|elsewhere|anywhere|nowhere)\b", "'points to', 'refers to'", "the link leads there"),
    avoid(
        r"\bhand(s|ed|ing)? (\S+ ){0,4}?(on|over) to\b",
        "'passes to', 'runs'",
        "hands every other command on to guix",
    ),
    avoid(
        r"\b(bring|brings|brought|come|comes|came) along\b|\bbrings? \S+( \S+)? along\b",
        "'includes'",
        "brings Lua 5.4 along",
    ),
    avoid(
        r"\b(bring|brings|brought) (it|them) back\b",
        "'undrains', 'restores'",
        "until it is brought; this brings it back",
    ),
    // Connections that persist.
    avoid(r"\blends?\b|\blent\b|\blending\b", "'passes', 'gives to'", "a connection is lent"),
    avoid(r"\bkeepers?\b", "'holder process'", "a keeper holds it"),
    avoid(
        r"\bkept connections?\b|\bconnections? (that|which) (was|were|is|are) kept\b",
        "'persistent connection'",
        "over a connection that was kept",
    ),
    // Single words.
    avoid(
        r"\b(all|everything|anything|nothing|none|alike|effect) but\b",
        "'except', 'apart from'",
        "everything but this",
    ),
    avoid(r"\bbut for\b", "'except', 'apart from'", "all of it, but for the last"),
    avoid(r"\banew\b", "'again', 'new'", "each build connects anew"),
    avoid(r"\bas ever\b", "'as before'", "slots count as ever"),
    avoid(r"\blately\b", "'recently'", "builds that ran lately"),
    avoid(r"\bin the midst\b", "'during'", "in the midst of a call"),
    avoid(r"\b(is|are|was) dear\b", "'is expensive'", "a file is dear"),
    avoid(r"\bgood name\b", "'does not count as a failure of'", "costs its good name"),
    avoid(r"\bmaybe none\b", "'can be empty'", "a list, maybe none"),
];

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
    let pages = documents().unwrap().into_iter().filter(|document| document.path.starts_with("share/man"));
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

#[test]
fn documents_avoid_the_phrases_of_the_list() {
    let mut found = Vec::new();
    for (kind, texts) in ROOTS {
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
    let mut long = Vec::new();
    for page in pages() {
        let mut length = 0;
        for (number, line) in (1..).zip(prose_lines(&page.text)) {
            let is_entry = line.trim_start().starts_with("- ") || line.split(". ").next().is_some_and(is_number);
            let is_text = !line.is_empty() && !line.starts_with(['|', '#', '!']);
            length = if is_text && !is_entry { length + 1 } else { usize::from(is_text) };
            if length == PARAGRAPH + 1 {
                long.push(format!("{}:{number}: this paragraph has more than {PARAGRAPH} lines", page.name));
            }
        }
    }
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
fn code_and_messages_of_a_page_are_not_read() {
    let page = "a `b but for c` d\n\n```sh\nmend\n```\n\n> mend\n\n| message | |\n|---|---|\n| mend \\| x | fine |\n\n\
                [text](mend.md)\n\n| a | b |\n|---|---|\n| mend | c |\n";
    let prose = prose(page);
    assert_eq!(prose.matches("mend").count(), 1, "{prose}");
    assert_eq!(prose.lines().position(|line| line.contains("mend")), Some(16), "{prose}");
    assert!(prose.contains("fine") && prose.contains("[text]"), "{prose}");
}
