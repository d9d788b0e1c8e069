//! Blocks of shell commands: their syntax, and that what they call exists and would understand it.

use crate::page::{pages, quoted, top};
use offload::internals::commands::help::definition;
use offload::internals::hook::HookArguments;
use std::io::Write;
use std::process::{Command, Stdio};

/// Programs that blocks may call beside `offload` and those of this repository, all of them well known.
const KNOWN: [&str; 36] = [
    "apt-get",
    "cargo",
    "cat",
    "cd",
    "chmod",
    "chown",
    "cp",
    "done",
    "do",
    "echo",
    "for",
    "getent",
    "git",
    "grep",
    "guix",
    "herd",
    "install",
    "journalctl",
    "jq",
    "ln",
    "ls",
    "mkdir",
    "mv",
    "pkill",
    "recsel",
    "rm",
    "ssh",
    "ssh-keygen",
    "ssh-keyscan",
    "sudo",
    "systemctl",
    "test",
    "tee",
    "touch",
    "useradd",
    "man",
];

/// Checks the block `text`.
pub fn check(text: &str) -> Result<(), String> {
    let mut shell = Command::new("sh").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = shell.wait_with_output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    commands(text).iter().try_for_each(|words| check_command(words))
}

/// Checks one command.
pub fn check_command(words: &[String]) -> Result<(), String> {
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    let name = program.rsplit('/').next().unwrap();
    match name {
        "sudo" | "env" => check_command(arguments),
        "offload" => understood(arguments),
        _ if KNOWN.contains(&program.as_str()) => Ok(()),
        _ if top().join(program).is_file() && program.contains('/') => Ok(()),
        _ => Err(format!("'{program}' is neither a known program nor one of this repository")),
    }
}

/// Whether `offload` takes these arguments.
fn understood(arguments: &[String]) -> Result<(), String> {
    if HookArguments::parse(arguments).is_ok() {
        return Ok(());
    }
    let words = std::iter::once("offload").chain(arguments.iter().map(String::as_str));
    match definition().try_get_matches_from(words) {
        Err(error) if error.use_stderr() => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// The words of each command; assignments before one, here-documents and comments are left out.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    let joined = text.replace("\\\n", " ");
    let mut lines = joined.lines();
    while let Some(line) = lines.next() {
        if let Some((_, end)) = line.split_once("<<") {
            let end = end.trim_matches(|c: char| !c.is_alphanumeric());
            lines.by_ref().find(|line| line.trim() == end);
        }
        commands.extend(split(line).into_iter().map(|words| {
            let is_assignment = |word: &String| word.split('=').next().is_some_and(is_name) && word.contains('=');
            words.into_iter().skip_while(is_assignment).collect()
        }));
    }
    commands
}

fn is_name(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

/// The commands of one line, each as words without quotes.
fn split(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, '|' | ';' | '&') => {
                words.extend(word.take());
                commands.push(std::mem::take(&mut words));
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    commands.push(words);
    // A redirection and what it names are no arguments.
    let plain = |words: Vec<String>| {
        let end = words.iter().position(|word| word.starts_with(['<', '>']) || word.starts_with("2>"));
        words[..end.unwrap_or(words.len())].to_vec()
    };
    commands.into_iter().map(plain).filter(|words| !words.is_empty()).collect()
}

#[test]
fn commands_are_recognized_in_a_script() {
    let text = "A=1 offload eval 'a b' | jq . >x  # no\nssh h 'guix x; y' \\\n  more <<EOF\nnot this\nEOF\n";
    let found = commands(text);
    let words: Vec<Vec<&str>> = found.iter().map(|words| words.iter().map(String::as_str).collect()).collect();
    assert_eq!(words, [vec!["offload", "eval", "a b"], vec!["jq", "."], vec!["ssh", "h", "guix x; y", "more"]]);
    assert!(check("offload eval --jsn\n").is_err() && check("frobnicate\n").is_err() && check("if\n").is_err());
    assert!(check("offload eval --json\ntests/run\noffload x86_64-linux 3600 1 0\n").is_ok());
}

/// Every `offload COMMAND` that is mentioned is one.
#[test]
fn mentioned_commands_exist() {
    let definition = definition();
    let known: Vec<&str> = definition.get_subcommands().map(|command| command.get_name()).collect();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in pages() {
        for code in quoted(&page.prose()) {
            let mut words = code.split_whitespace();
            let (Some("offload"), Some(word)) = (words.next(), words.next()) else { continue };
            count += 1;
            if word.bytes().all(|byte| byte.is_ascii_lowercase()) && !known.contains(&word) {
                wrong.push(format!("{}: `{code}`", page.name));
            }
        }
    }
    assert!(count > 20, "only {count} commands are mentioned");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
