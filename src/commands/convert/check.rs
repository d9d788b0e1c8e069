//! Checks whether `offload eval` accepts the converted file: evaluates its text as the hook would.

use std::path::Path;

use super::lua::{Document, Entry, Value, plain};
use crate::machine_file::{self, Diagnostic, LoadContext, Severity};

/// The line that begins an entry in the text.
const CONSTRUCTOR: &str = "  build_machine {";

/// The errors that the evaluation found.
#[derive(Debug, Default)]
pub struct Check {
    /// The errors that no warning has announced, each as `FILE:LINE: error: …` with the place in the file that was converted.
    /// A hint is a second line.
    pub errors: Vec<String>,
    /// The number of all errors.
    pub count: usize,
}

/// Evaluates the machine file that `document` writes.
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

/// Returns whether a warning of the entry has announced this error.
fn is_told(entry: &Entry, error: &Diagnostic) -> bool {
    let warns = |words: &str| entry.notes.iter().any(|note| note.warning && note.text.contains(words));
    match error.field.as_deref() {
        Some("host_key") if entry.get("host_key") == Some(&Value::Missing) => true,
        Some("private_key") => warns("not an absolute file name"),
        _ => error.message.contains("differs from that of") && warns("wants them to agree"),
    }
}
