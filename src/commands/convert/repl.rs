//! Runs a `machines.scm`, which is a program, with the real `guix repl`.
//!
//! `dump.scm`, compiled in, is the Scheme side and documents the form of its answer. The program has no time limit: the user
//! can interrupt it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::error::{ConvertError, Problem};
use super::lua::plain;

const DUMP_PROGRAM: &str = include_str!("dump.scm");

/// The beginning of the line with the answer.
const ANSWER_PREFIX: &str = "offload-convert ";

/// The most bytes that are read from `guix repl`.
const MAX_ANSWER: u64 = 16 << 20;

/// The longest message of Guile that is shown: lines, and characters in a line.
const MAX_MESSAGE: (usize, usize) = (8, 200);

/// The fields of a machine, with their names in Guix.
pub type Fields = Map<String, Json>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Machines(Vec<Fields>),
    NotMachines(String),
    Raised { message: String, line: Json, column: Json },
}

/// Runs `file` with `guix repl` and returns the machines. The output of `file` goes to our standard error.
pub fn evaluate(guix: &Path, file: &Path) -> Result<Vec<Fields>, ConvertError> {
    let name = file.to_str().ok_or_else(|| ConvertError::FileName(file.to_owned()))?;
    let run_error = |cause| ConvertError::Run { guix: guix.to_owned(), cause };
    let mut repl = Command::new(guix)
        .args(["repl", "-q", "--type=machine"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(run_error)?;
    if let Some(mut stdin) = repl.stdin.take() {
        // The write fails if the process has ended already. Then the answer is missing, which is an error below.
        let _ = stdin.write_all(format!("{DUMP_PROGRAM}\n(dump {})\n", scheme_string(name)).as_bytes());
    }
    let line = match repl.stdout.take() {
        Some(stdout) => answer_line(stdout).map_err(run_error)?,
        None => None,
    };
    let status = repl.wait().map_err(run_error)?;
    let line = line.ok_or_else(|| ConvertError::NoAnswer { guix: guix.to_owned(), status })?;
    let answer = serde_json::from_str(&line).map_err(|cause| ConvertError::Answer { guix: guix.to_owned(), cause })?;
    machines(name, answer)
}

/// Returns the JSON text of the answer. The lines before it are replies of the REPL to other expressions.
pub fn answer_line(stdout: impl Read) -> io::Result<Option<String>> {
    for line in BufReader::new(stdout.take(MAX_ANSWER)).lines() {
        if let Some(json) = line?.strip_prefix(ANSWER_PREFIX) {
            return Ok(Some(json.to_owned()));
        }
    }
    Ok(None)
}

/// Returns a string literal of Scheme in ASCII, because the locale decides how the REPL decodes its input.
fn scheme_string(text: &str) -> String {
    let escape = |character: char| match character {
        '"' | '\\' => format!("\\{character}"),
        ' '..='~' => character.to_string(),
        _ => format!("\\U{:06x}", u32::from(character)),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}

/// Returns the machines of an answer, or the error in it.
pub fn machines(file: &str, answer: Answer) -> Result<Vec<Fields>, ConvertError> {
    let (message, line, column) = match answer {
        Answer::Machines(machines) => return Ok(machines),
        Answer::NotMachines(what) => (format!("expected a list of build machines, found {}", plain(&what)), None, None),
        Answer::Raised { message, line, column } => (cut(&message), position(&line), position(&column)),
    };
    Err(ConvertError::InFile(vec![Problem { file: file.to_owned(), line, column, message }]))
}

/// Returns a message of Guile without its preamble, cut to `MAX_MESSAGE`.
fn cut(message: &str) -> String {
    let message = message.trim();
    let message =
        ["ERROR:", "error:"].iter().find_map(|word| message.strip_prefix(word)).unwrap_or(message).trim_start();
    let (lines, characters) = MAX_MESSAGE;
    let lines = message.lines().take(lines).map(|line| match line.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", plain(&line[..end])),
        None => plain(line),
    });
    lines.collect::<Vec<_>>().join("\n  ")
}

/// Returns a line or a column.
pub fn position(json: &Json) -> Option<u32> {
    json.as_u64().and_then(|number| u32::try_from(number).ok())
}
