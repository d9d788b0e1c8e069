//! Running a `machines.scm`, which is a program, with the real `guix repl`.
//!
//! `dump.scm`, compiled in, does the Scheme side and documents the form of its answer. How long the program may take
//! is up to the user, who can interrupt it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::error::{ConvertError, Problem};
use super::lua::plain;

const DUMP_PROGRAM: &str = include_str!("dump.scm");

/// What begins the line with the answer.
const ANSWER_PREFIX: &str = "offload-convert ";

/// Most bytes that are read from `guix repl`.
const MAX_ANSWER: u64 = 16 << 20;

/// Longest message of Guile that is shown, in lines and in characters a line.
const MAX_MESSAGE: (usize, usize) = (8, 200);

/// The fields of one machine as Guix names them.
pub type Fields = Map<String, Json>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Machines(Vec<Fields>),
    NotMachines(String),
    Raised { message: String, line: Json, column: Json },
}

/// Runs `file` with `guix repl` and returns the machines. What `file` prints goes to our standard error.
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
        // It fails if the process has ended already, which then shows in the missing answer.
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

/// The JSON text of the answer. What comes before it are replies of the REPL to the other expressions.
pub fn answer_line(stdout: impl Read) -> io::Result<Option<String>> {
    for line in BufReader::new(stdout.take(MAX_ANSWER)).lines() {
        if let Some(json) = line?.strip_prefix(ANSWER_PREFIX) {
            return Ok(Some(json.to_owned()));
        }
    }
    Ok(None)
}

/// A string literal of Scheme, in ASCII since the REPL decodes its input as the locale says.
fn scheme_string(text: &str) -> String {
    let escape = |character: char| match character {
        '"' | '\\' => format!("\\{character}"),
        ' '..='~' => character.to_string(),
        _ => format!("\\U{:06x}", u32::from(character)),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}

/// The machines of an answer, or the error that it tells of.
pub fn machines(file: &str, answer: Answer) -> Result<Vec<Fields>, ConvertError> {
    let (message, line, column) = match answer {
        Answer::Machines(machines) => return Ok(machines),
        Answer::NotMachines(what) => (format!("expected a list of build machines, found {}", plain(&what)), None, None),
        Answer::Raised { message, line, column } => (cut(&message), position(&line), position(&column)),
    };
    Err(ConvertError::InFile(vec![Problem { file: file.to_owned(), line, column, message }]))
}

/// A message of Guile without its own preamble, and of bearable length.
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

/// A line or a column.
pub fn position(json: &Json) -> Option<u32> {
    json.as_u64().and_then(|number| u32::try_from(number).ok())
}
