//! Diagnostics of a machine file: errors and warnings, each with its location.
#![deny(missing_docs)]

use crate::lua::{Context, LuaError};
use serde::Serialize;
use std::fmt;

/// Whether the machine file can still be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The machine file cannot be used.
    Error,
    /// The machine file can be used.
    Warning,
}

/// One finding about a machine file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Whether the machine file can still be used.
    pub severity: Severity,
    /// The file with the error: the machine file or a module that it requires.
    pub file: String,
    /// The line in `file`, from 1: that of the field if it is known, else that of the constructor's call.
    pub line: Option<u32>,
    /// Name of the field of a build machine or of the pool.
    pub field: Option<String>,
    /// The expected and the actual value.
    pub message: String,
    /// The remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The calls in the user's own files that led to an error raised in Lua, innermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trace: Vec<String>,
}

impl Diagnostic {
    /// Returns an error in `file`.
    pub fn error(file: impl Into<String>, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            file: file.into(),
            line: None,
            field: None,
            message: message.into(),
            hint: None,
            trace: Vec::new(),
        }
    }

    /// Returns a warning about `file`.
    pub fn warning(file: impl Into<String>, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(file, message) }
    }

    /// Returns a diagnostic of an error that Lua raised.
    pub(super) fn of_lua_error(error: LuaError, context: &Context) -> Diagnostic {
        let file = error.file(context);
        let (hint, line) = (error.hint(&file), error.position.map(|position| position.line));
        Diagnostic { hint, trace: error.trace, ..Diagnostic::error(file, error.message).at(line) }
    }

    /// Adds the line.
    pub fn at(self, line: Option<u32>) -> Diagnostic {
        Diagnostic { line, ..self }
    }

    /// Adds the hint.
    pub fn hint(self, hint: impl Into<String>) -> Diagnostic {
        Diagnostic { hint: Some(hint.into()), ..self }
    }
}

/// `FILE:LINE: error: MESSAGE`, then hint and trace on indented lines of their own.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, " {severity}: {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        for call in &self.trace {
            write!(f, "\n  {call}")?;
        }
        Ok(())
    }
}

/// The reason why a machine file cannot be used: at least one error, and the warnings of the same run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Report {
    /// All findings, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// Returns the number of errors.
    pub fn errors(&self) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count()
    }
}

impl From<Diagnostic> for Report {
    fn from(diagnostic: Diagnostic) -> Report {
        Report { diagnostics: vec![diagnostic] }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}
