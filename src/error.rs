//! The ways in which an accepted build may fail, with the exit statuses of the hook.
//!
//! guix-daemon reads 100 as a failure of the build itself and may record that permanently, so 100 requires the report
//! of the build machine's daemon. In doubt every other failure is transient.

use std::error::Error;
use std::fmt::Display;

use crate::exit::ExitStatus;

/// The reason why an accepted build did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The machine's daemon reports that the build failed.
    #[error("'{derivation}' failed to build on '{machine}': {message}")]
    Build {
        derivation: String,
        machine: String,
        message: String,
        /// The build directory on the machine, if it was kept.
        kept: Option<String>,
    },

    /// The machine's daemon reports that a time limit was exceeded.
    #[error("'{derivation}' exceeded a time limit on '{machine}': {message}")]
    TimedOut { derivation: String, machine: String, message: String, kept: Option<String> },

    /// The machine or the connection to it failed. The hook may retry on another machine.
    #[error("{cause}")]
    Machine { machine: String, cause: String },

    /// The machine's daemon did not build it, for reasons that do not come from the derivation and would remain. The
    /// hook may retry on another machine.
    #[error("{cause}")]
    Refused { machine: String, cause: String },

    /// The caller has cancelled the build.
    #[error("the build was cancelled")]
    Cancelled,

    /// The fault is on this side, so no other machine is tried.
    #[error("{0}")]
    Head(String),

    /// No machine was left to try, or none became free in time.
    #[error("{}", with_hint(&format!("'{derivation}' could not be offloaded: {}", summary(.tried, .last)), hint.clone()))]
    NoMachineLeft {
        derivation: String,
        /// The machine and the cause of each attempt.
        tried: Vec<(String, String)>,
        /// The reason why the search ended.
        last: String,
        /// The remedy, if there is one.
        hint: Option<String>,
    },
}

impl Failure {
    /// Returns the hook's exit status.
    pub fn status(&self) -> ExitStatus {
        match self {
            Failure::Build { .. } => ExitStatus::BuildFailed,
            Failure::TimedOut { .. } => ExitStatus::TimedOut,
            Failure::Machine { .. }
            | Failure::Refused { .. }
            | Failure::Cancelled
            | Failure::Head(_)
            | Failure::NoMachineLeft { .. } => ExitStatus::Failure,
        }
    }
}

/// Returns an error with its hint on a line of its own.
pub fn with_hint(error: &dyn Display, hint: Option<String>) -> String {
    match hint {
        Some(hint) => format!("{error}\n  hint: {hint}"),
        None => error.to_string(),
    }
}

/// Returns a text without its hint, and the hint: the reverse of [`with_hint`].
pub fn split_hint(text: &str) -> (String, Option<String>) {
    match text.split_once("\n  hint: ") {
        Some((text, hint)) => (text.to_owned(), Some(hint.to_owned())),
        None => (text.to_owned(), None),
    }
}

/// Returns an error with its causes, in one line of text.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// Returns a summary. The causes were reported when they occurred
/// ([`Event::Abandoned`](crate::events::Event::Abandoned)).
fn summary(tried: &[(String, String)], last: &str) -> String {
    if tried.is_empty() {
        return last.to_owned();
    }
    let machines: Vec<String> = tried.iter().map(|(machine, _)| format!("'{machine}'")).collect();
    format!("{last}; tried: {}", machines.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_report_of_the_machines_daemon_is_permanent() {
        let text = || "x".to_owned();
        let failures = [
            (Failure::Build { derivation: text(), machine: text(), message: text(), kept: None }, 100),
            (Failure::TimedOut { derivation: text(), machine: text(), message: text(), kept: None }, 101),
            (Failure::Machine { machine: text(), cause: text() }, 1),
            (Failure::Refused { machine: text(), cause: text() }, 1),
            (Failure::Cancelled, 1),
            (Failure::Head(text()), 1),
            (Failure::NoMachineLeft { derivation: text(), tried: Vec::new(), last: text(), hint: None }, 1),
        ];
        for (failure, code) in failures {
            assert_eq!(failure.status().code(), code, "{failure}");
        }
    }

    #[test]
    fn the_summary_names_the_machines_tried() {
        let tried = ["b1", "b2"].map(|machine| (machine.to_owned(), "connection lost".to_owned())).to_vec();
        let last = "no other machine matches".to_owned();
        let text = "'/d.drv' could not be offloaded: no other machine matches; tried: 'b1', 'b2'";
        let failure = |hint| Failure::NoMachineLeft {
            derivation: "/d.drv".into(),
            tried: tried.clone(),
            last: last.clone(),
            hint,
        };
        assert_eq!(failure(None).to_string(), text);
        assert_eq!(failure(Some("more".to_owned())).to_string(), format!("{text}\n  hint: more"));
    }
}
