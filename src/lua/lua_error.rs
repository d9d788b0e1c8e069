//! Errors that Lua raises, reduced to the user's part: message, location and the calls in the user's own files.

use super::context::{Context, Position};
use super::message::plain;
use super::source::{Source, read_chunk};
use mlua::Error;
use std::path::Path;

/// The most calls of a traceback that are shown.
const MAX_TRACEBACK_CALLS: usize = 10;
const TRACEBACK_HEADING: &str = "stack traceback:";

/// An error that user code raised.
#[derive(Debug, PartialEq)]
pub(crate) struct LuaError {
    pub message: String,
    pub position: Option<Position>,
    /// Calls in the user's files, innermost first; empty if there is only one.
    pub trace: Vec<String>,
}

impl LuaError {
    pub fn new(error: &Error, context: &Context) -> LuaError {
        let (text, outer) = match error {
            Error::CallbackError { traceback, cause } => (root(cause), traceback.as_str()),
            error => (root(error), ""),
        };
        let (message, inner) = match text.rsplit_once(&format!("\n{TRACEBACK_HEADING}")) {
            Some((message, traceback)) => (message, traceback),
            None => (text.as_str(), ""),
        };
        let traceback = if inner.is_empty() { outer } else { inner };
        let mut calls: Vec<(Position, &str)> =
            traceback.lines().filter_map(|line| place(line.trim(), context)).take(MAX_TRACEBACK_CALLS).collect();
        calls.dedup();
        let (position, message) = match place(message, context) {
            Some((position, message)) => (Some(position), message),
            None => (calls.first().map(|(position, _)| position.clone()), message),
        };
        let message = match message {
            "not enough memory" => format!("not enough memory: limits.memory is {} MiB", context.memory() >> 20),
            message => match message.split_once(": 0x") {
                Some((kind @ ("table" | "function" | "thread" | "userdata"), _)) => {
                    format!("an error was raised with a {kind} instead of a message")
                }
                _ => own(message).to_owned(),
            },
        };
        let trace = match calls.len() {
            0 | 1 => Vec::new(),
            _ => calls.iter().map(|(at, call)| format!("{}:{}: {call}", at.chunk, at.line)).collect(),
        };
        LuaError { message: plain(&message), position, trace }
    }

    /// Returns the file of the error: that of its location, or the main file.
    pub fn file(&self, context: &Context) -> String {
        match &self.position {
            Some(position) => context.path_of(position),
            None => context.file.display().to_string(),
        }
    }

    /// Returns the hint for common errors. `file` is the result of `file`.
    pub fn hint(&self, file: &str) -> Option<String> {
        comma(&self.message).or_else(|| unclosed(&self.message, file)).or_else(|| memory_hint(&self.message))
    }
}

fn root(error: &Error) -> String {
    match error {
        Error::CallbackError { cause, .. } | Error::WithContext { cause, .. } => root(cause),
        Error::SyntaxError { message, .. } | Error::RuntimeError(message) | Error::MemoryError(message) => {
            message.clone()
        }
        // The author of the file does not know the types of Rust.
        Error::BadArgument { to, pos, cause, .. } => {
            let function = to.as_ref().map_or(String::new(), |to| format!(" of '{to}'"));
            format!("argument {pos}{function}: {}", root(cause))
        }
        Error::FromLuaConversionError { from, message, .. } => {
            let found = if *from == "nil" { "nothing" } else { from };
            let expected = message.as_deref().and_then(|message| message.strip_prefix("expected "));
            format!("expected {}, found {found}", expected.unwrap_or("another type"))
        }
        other => other.to_string(),
    }
}

/// Removes `CHUNK:LINE: ` from a text, if the chunk is one of the user's.
fn place<'a>(text: &'a str, context: &Context) -> Option<(Position, &'a str)> {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let mut from = 0;
    loop {
        let colon = from + text.get(from..)?.find(':')?;
        let (chunk, rest) = (&text[..colon], &text[colon + 1..]);
        if let Some((line, rest)) = rest.split_once(':')
            && digits(line)
            && context.file_of(chunk).is_some()
        {
            return Some((Position { chunk: chunk.to_owned(), line: line.parse().ok()? }, rest.trim_start()));
        }
        from = colon + 1;
    }
}

/// Removes the location in our own prelude from a message.
fn own(message: &str) -> &str {
    let rest = message.strip_prefix("[offload]:").and_then(|rest| rest.split_once(": "));
    rest.map_or(message, |(_, message)| message)
}

/// Returns a hint for the most common slip in a table: `'}' expected … near 'name'`.
fn comma(message: &str) -> Option<String> {
    let (expected, near) = message.split_once(" near ")?;
    let name = near.trim_matches('\'');
    let named = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') || name.starts_with(['"', '{']);
    (expected.starts_with("'}' expected") && named && name != "<eof>")
        .then(|| format!("is a comma missing before {near}?"))
}

/// Returns a hint for a file that ends too early.
fn unclosed(message: &str, file: &str) -> Option<String> {
    if !message.ends_with("near <eof>") || message.contains("to close") {
        return None;
    }
    let text = read_chunk(Path::new(file)).ok()?;
    let line = Source::new(&String::from_utf8_lossy(&text)).unclosed()?;
    Some(format!("the bracket on line {line} is not closed"))
}

fn memory_hint(message: &str) -> Option<String> {
    let hint = "check for an endless loop or recursion, or raise the limit: limits = { memory = … }";
    message.starts_with("not enough memory").then(|| hint.to_owned())
}
