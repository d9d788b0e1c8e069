//! Whether `offload eval` accepts what was converted: the text is evaluated as the hook would evaluate it.

use std::path::Path;

use super::lua::{Document, Entry, Value, plain};
use crate::machine_file::{self, Diagnostic, LoadContext, Severity};

/// Where an entry begins in the text.
const CONSTRUCTOR: &str = "  build_machine {";

/// What the evaluation found.
#[derive(Debug, Default)]
pub struct Check {
    /// A line or more each: `FILE:LINE: error: …`, with the place in the file that was converted. Without those that a
    /// warning has told.
    pub errors: Vec<String>,
    /// How many errors there were.
    pub count: usize,
}

/// Evaluates what `document` is in Lua.
pub fn check(document: &Document) -> Check {
    let text = document.to_string();
    let starts: Vec<usize> =
        (1..).zip(text.lines()).filter(|(_, line)| *line == CONSTRUCTOR).map(|(line, _)| line).collect();
    let Err(report) = machine_file::load_text(Path::new("machines.lua"), text.into_bytes(), &LoadContext::default())
    else {
        return Check::default();
    };
    let errors: Vec<Diagnostic> =
        report.diagnostics.into_iter().filter(|diagnostic| diagnostic.severity == Severity::Error).collect();
    let machines: Vec<&Entry> = document.entries.iter().filter(|entry| !entry.fields.is_empty()).collect();
    let entry_of = |error: &Diagnostic| {
        let line = error.line? as usize;
        let before = starts.iter().filter(|&&start| start <= line).count();
        machines.get(before.checked_sub(1)?).copied()
    };
    let count = errors.len();
    let untold = errors.iter().filter(|error| !entry_of(error).is_some_and(|entry| is_told(entry, error)));
    let errors = untold.map(|error| {
        let place = entry_of(error).map_or_else(|| plain(&document.file), |entry| entry.place(&document.file));
        let hint = error.hint.as_ref().map_or(String::new(), |hint| format!("\n  hint: {}", plain(hint)));
        format!("{place}: error: {}{hint}", plain(&error.message))
    });
    Check { errors: errors.collect(), count }
}

/// Whether a warning has told of an error.
fn is_told(entry: &Entry, error: &Diagnostic) -> bool {
    let warns = |words: &str| entry.notes.iter().any(|note| note.warning && note.text.contains(words));
    match error.field.as_deref() {
        Some("host_key") if entry.get("host_key") == Some(&Value::Missing) => true,
        Some("private_key") => warns("not an absolute file name"),
        _ => error.message.contains("differs from that of") && warns("wants them to agree"),
    }
}
