//! The text of a block `console`: commands behind a prompt (`$ `, or `HOST# ` for a host of the lab), and below each what
//! it prints, in which `…` stands for anything.

/// The commands of a block, each with its prompt and what it prints.
pub fn commands(text: &str) -> Vec<(String, String, String)> {
    let mut commands: Vec<(String, String, String)> = Vec::new();
    for line in text.lines() {
        let prompt = line.split_once(' ').filter(|(prompt, _)| {
            *prompt == "$"
                || prompt
                    .strip_suffix('#')
                    .is_some_and(|host| !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric()))
        });
        match (prompt, commands.last_mut()) {
            (Some((prompt, command)), _) => commands.push((prompt.to_owned(), command.to_owned(), String::new())),
            (None, Some((_, command, printed))) if printed.is_empty() && command.ends_with('\\') => {
                command.push_str(&format!("\n{line}"));
            }
            (None, Some((_, _, printed))) => printed.push_str(&format!("{line}\n")),
            (None, None) => panic!("no prompt before: {line}"),
        }
    }
    commands
}

/// Whether `text` is what a page shows, in which `…` stands for anything.
pub fn fits(shown: &str, text: &str) -> bool {
    let mut pieces = shown.split('…');
    let Some(mut rest) = text.strip_prefix(pieces.next().unwrap()) else { return false };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, pieces)) = pieces.split_last() else { return rest.is_empty() };
    for piece in pieces {
        match rest.find(piece) {
            Some(place) => rest = &rest[place + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[test]
fn an_ellipsis_matches_any_output() {
    assert!(fits("a … b\n", "a 1 b\n") && fits("a\n", "a\n") && fits("…z", "xyz") && fits("a…b…c", "abbc"));
    assert!(!fits("a … b\n", "a 1 c\n") && !fits("a", "ab") && !fits("a…b…c", "ac"));
    let text = "$ offload eval \\\n  x\nfirst\n$ second\nb1# true\n";
    let found = commands(text);
    assert_eq!(found[0], ("$".into(), "offload eval \\\n  x".into(), "first\n".into()));
    assert_eq!((found[1].1.as_str(), found[2].0.as_str()), ("second", "b1#"));
}
