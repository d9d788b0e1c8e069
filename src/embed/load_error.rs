//! The reasons why a machine file cannot be loaded.

use std::path::PathBuf;

use crate::machine_file::{Diagnostic, Report};

/// The reason why a machine file cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// There is no such file.
    #[error("there is no machine file '{}'", path.display())]
    Missing {
        /// The path that was given.
        path: PathBuf,
    },
    /// The file has errors; [`diagnostics`](LoadError::diagnostics) returns them.
    #[error("{report}")]
    #[non_exhaustive]
    Invalid {
        /// All errors, and the warnings of the same run.
        #[doc(hidden)]
        report: Report,
    },
}

impl LoadError {
    /// Returns the errors and warnings, each with its place. None if there is no file.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        match self {
            LoadError::Invalid { report } => &report.diagnostics,
            LoadError::Missing { .. } => &[],
        }
    }
}
