//! Errors of builds by hand: their texts and their exit statuses.

use log::error;

use crate::commands::failure::CommandError;
use crate::embed::BuildError;
use crate::error::with_causes;
use crate::exit::ExitStatus;

/// Returns the error of the command for a build that could not be done.
pub fn failure(error: &BuildError) -> CommandError {
    CommandError::new(status(error), message(error)).with_hint(error.hint().map(str::to_owned))
}

/// Returns the text of an error with its causes, without the hint.
pub fn message(error: &BuildError) -> String {
    match error {
        // Its text has the cause, with the hint.
        BuildError::ThisMachine { .. } => error.to_string(),
        error => with_causes(error),
    }
}

/// Prints the error of one build of several, with the hint on its own line.
pub fn print(error: &BuildError) {
    let hint = error.hint().map(|hint| format!("\n  hint: {hint}")).unwrap_or_default();
    error!("{}{hint}", message(error));
}

/// Returns the exit status for a build that could not be done.
pub fn status(error: &BuildError) -> ExitStatus {
    match error {
        BuildError::Failed { .. } => ExitStatus::BuildFailed,
        BuildError::TimedOut { .. } => ExitStatus::TimedOut,
        BuildError::Cancelled
        | BuildError::Derivation { .. }
        | BuildError::Inputs { .. }
        | BuildError::NoMachine { .. }
        | BuildError::ThisMachine { .. } => ExitStatus::Failure,
    }
}
