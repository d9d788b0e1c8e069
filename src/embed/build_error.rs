//! The reasons why a build did not succeed.

use std::error::Error;

use super::built::Attempt;
use crate::error::{Failure, split_hint};

type Cause = Box<dyn Error + Send + Sync>;

/// The reason why a build did not succeed.
///
/// `Display` says what failed and why, [`source`](Error::source) has the cause if there is one below, and
/// [`hint`](BuildError::hint) the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The program has cancelled it.
    #[error("the build was cancelled")]
    Cancelled,
    /// The name is not that of a derivation in the store, or the file cannot be read.
    #[error("'{derivation}' cannot be built: it is not a derivation that can be read")]
    #[non_exhaustive]
    Derivation {
        /// What was given.
        derivation: String,
        /// The reason.
        source: Cause,
    },
    /// This machine's daemon cannot provide an input.
    #[error("the inputs of '{derivation}' cannot be provided on this machine: {message}")]
    #[non_exhaustive]
    Inputs {
        /// The derivation.
        derivation: String,
        /// The daemon's message.
        message: String,
    },
    /// The daemon of a build machine reports that the build itself failed. It would fail elsewhere as well.
    #[error("'{derivation}' failed to build on '{machine}': {message}")]
    #[non_exhaustive]
    Failed {
        /// The derivation.
        derivation: String,
        /// The name of the machine.
        machine: String,
        /// The daemon's message.
        message: String,
        /// The build directory on the machine, if it was kept ([`Build::keep_failed`](super::Build::keep_failed)).
        kept: Option<String>,
    },
    /// The build took longer, or was silent for longer, than the engine allows.
    #[error("'{derivation}' exceeded a time limit on '{machine}': {message}")]
    #[non_exhaustive]
    TimedOut {
        /// The derivation.
        derivation: String,
        /// The name of the machine.
        machine: String,
        /// The daemon's message.
        message: String,
        /// The build directory on the machine, if it was kept.
        kept: Option<String>,
    },
    /// No machine has built it: none matches, none became free in time, or all attempts failed.
    #[error("no machine has built '{derivation}': {reason}")]
    #[non_exhaustive]
    NoMachine {
        /// The derivation.
        derivation: String,
        /// The reason why the search ended.
        reason: String,
        /// The attempts that failed.
        attempts: Vec<Attempt>,
        #[doc(hidden)]
        hint: Option<String>,
    },
    /// This machine is at fault: its store, its daemon, its keys, its state.
    #[error("this machine cannot have '{derivation}' built: {message}")]
    #[non_exhaustive]
    ThisMachine {
        /// The derivation.
        derivation: String,
        /// What failed.
        message: String,
        #[doc(hidden)]
        hint: Option<String>,
        /// The cause, if there is one below.
        #[source]
        source: Option<Cause>,
    },
}

impl BuildError {
    /// Returns the remedy, if one is known. It can be shown to people.
    pub fn hint(&self) -> Option<&str> {
        match self {
            BuildError::NoMachine { hint, .. } | BuildError::ThisMachine { hint, .. } => hint.as_deref(),
            _ => None,
        }
    }

    pub(super) fn derivation(derivation: &str, source: impl Into<Cause>) -> BuildError {
        BuildError::Derivation { derivation: derivation.to_owned(), source: source.into() }
    }

    /// Returns an error of this machine. A hint in the text of the error is the hint.
    pub(super) fn this_machine(derivation: &str, error: impl Into<Cause>) -> BuildError {
        let source = error.into();
        let (message, hint) = split_hint(&source.to_string());
        BuildError::ThisMachine { derivation: derivation.to_owned(), message, hint, source: Some(source) }
    }

    /// Returns the error of a build that ended after these attempts.
    pub(super) fn of_failure(derivation: &str, failure: Failure, attempts: Vec<Attempt>) -> BuildError {
        let derivation = derivation.to_owned();
        match failure {
            Failure::Cancelled => BuildError::Cancelled,
            Failure::Build { machine, message, kept, .. } => BuildError::Failed { derivation, machine, message, kept },
            Failure::TimedOut { machine, message, kept, .. } => {
                BuildError::TimedOut { derivation, machine, message, kept }
            }
            Failure::NoMachineLeft { last, hint, .. } => {
                let failed = attempts.iter().rev().find_map(|one| Some((&one.machine, one.failure.as_ref()?)));
                let (reason, hint) = match failed {
                    Some((machine, cause)) => {
                        let (cause, remedy) = split_hint(cause);
                        (format!("{last}; '{machine}' failed: {cause}"), hint.or(remedy))
                    }
                    None => (last, hint),
                };
                BuildError::NoMachine { derivation, reason, attempts, hint }
            }
            Failure::Machine { cause, .. } | Failure::Refused { cause, .. } => {
                let (reason, hint) = split_hint(&cause);
                BuildError::NoMachine { derivation, reason, attempts, hint }
            }
            Failure::Head(text) => {
                let (message, hint) = split_hint(&text);
                BuildError::ThisMachine { derivation, message, hint, source: None }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_is_apart_from_the_reason() {
        let failure = Failure::Head("the store is full\n  hint: make room".to_owned());
        let error = BuildError::of_failure("x.drv", failure, Vec::new());
        assert_eq!(error.to_string(), "this machine cannot have 'x.drv' built: the store is full");
        assert_eq!(error.hint(), Some("make room"));
        let attempt = |machine: &str, failure: &str| Attempt {
            machine: machine.to_owned(),
            failure: Some(format!("{failure}\n  hint: look at {machine}")),
        };
        let failure = |hint: Option<&str>| {
            let (derivation, last) = ("x.drv".to_owned(), "no other machine matches".to_owned());
            Failure::NoMachineLeft { derivation, tried: Vec::new(), last, hint: hint.map(str::to_owned) }
        };
        let attempts = || vec![attempt("b1", "it is full"), attempt("b2", "it is gone")];
        let error = BuildError::of_failure("x.drv", failure(None), attempts());
        let text = "no machine has built 'x.drv': no other machine matches; 'b2' failed: it is gone";
        assert_eq!((error.to_string().as_str(), error.hint()), (text, Some("look at b2")));
        let error = BuildError::of_failure("x.drv", failure(Some("wait")), attempts());
        assert_eq!((error.to_string().as_str(), error.hint()), (text, Some("wait")));
        let error = BuildError::of_failure("x.drv", failure(None), Vec::new());
        assert_eq!(error.to_string(), "no machine has built 'x.drv': no other machine matches");
        let error = BuildError::derivation("x", std::io::Error::other("no such file"));
        assert_eq!(error.source().unwrap().to_string(), "no such file");
        assert_eq!(error.hint(), None);
    }
}
