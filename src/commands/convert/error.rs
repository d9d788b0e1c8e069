//! Why a file could not be converted.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process;

use super::lua::plain;
use crate::commands::failure::CommandError;
use crate::commands::guix_wrapper::WrapperError;
use crate::exit::ExitStatus;

/// The size of the longest file that is read, in bytes. It is enough for some thousand machines.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// Why a file could not be converted.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    #[error("cannot read '{}': {cause}", plain(&path.to_string_lossy()))]
    Read { path: PathBuf, cause: io::Error },
    #[error("'{}' is no regular file, and nothing comes out of it", plain(&.0.to_string_lossy()))]
    Nothing(PathBuf),
    #[error("'{}' is longer than {MAX_FILE} bytes", plain(&.0.to_string_lossy()))]
    TooLong(PathBuf),
    #[error("'{}' is in Lua already", plain(&.0.to_string_lossy()))]
    Lua(PathBuf),
    #[error("the name of '{}' is not UTF-8, which Guile needs", plain(&.0.to_string_lossy()))]
    FileName(PathBuf),
    #[error("a machines.scm is a program, and needs Guix to run it: {0}")]
    NoGuix(#[from] WrapperError),
    #[error("cannot run '{} repl': {cause}", guix.display())]
    Run { guix: PathBuf, cause: io::Error },
    #[error("'{} repl' ended with {status} before it said what the machines are", guix.display())]
    NoAnswer { guix: PathBuf, status: process::ExitStatus },
    #[error("cannot understand what '{} repl' says about the machines: {cause}", guix.display())]
    Answer { guix: PathBuf, cause: serde_json::Error },
    /// The file has errors. The list is not empty, and each problem has its place.
    #[error("{}", lines(.0))]
    InFile(Vec<Problem>),
    /// The file has errors, and it is the configuration of a whole system, or code for one.
    #[error(
        "{}\n  hint: convert /etc/guix/machines.scm instead: `guix system reconfigure` makes it of 'build-machines', and Guix reads it",
        lines(.0)
    )]
    OfSystem(Vec<Problem>),
}

/// An error in the file to convert.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    /// The first line and column are 1. A column is a number of characters.
    pub line: Option<u32>,
    pub column: Option<u32>,
    pub message: String,
}

/// Writes `FILE:LINE:COLUMN: error: MESSAGE`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", plain(&self.file))?;
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, "{number}:")?;
        }
        write!(f, " error: {}", self.message)
    }
}

impl From<ConvertError> for CommandError {
    fn from(error: ConvertError) -> CommandError {
        match error {
            ConvertError::InFile(_) | ConvertError::OfSystem(_) => CommandError::report(ExitStatus::MachineFile, error),
            _ => CommandError::failure(error),
        }
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}
