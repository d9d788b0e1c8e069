//! The failure of a command: an exit status, a message, and a hint. One function prints all of them.

use std::fmt::Display;
use std::io::{self, Write};

use crate::exit::ExitStatus;

/// The result of a command. `Ok` has the exit status of a command that ran to its end, even if it is a check that found
/// problems.
pub type CommandResult = Result<ExitStatus, CommandError>;

/// The reason why a command could not do its work.
#[derive(Debug, PartialEq, Eq)]
pub struct CommandError {
    status: ExitStatus,
    text: Text,
}

#[derive(Debug, PartialEq, Eq)]
enum Text {
    /// Printed after `offload: error: `.
    Message { message: String, hint: Option<String> },
    /// Printed as it is: each line names its own file and line.
    Report(String),
    /// The reader has closed the output.
    Nothing,
}

impl CommandError {
    /// Returns an error that ends the command with `status`.
    pub fn new(status: ExitStatus, message: impl Display) -> CommandError {
        CommandError { status, text: Text::Message { message: message.to_string(), hint: None } }
    }

    /// Returns an error that ends the command with status 1.
    pub fn failure(message: impl Display) -> CommandError {
        CommandError::new(ExitStatus::Failure, message)
    }

    /// Returns an error that ends the command with `status` and prints `report`.
    pub fn report(status: ExitStatus, report: impl Display) -> CommandError {
        CommandError { status, text: Text::Report(report.to_string()) }
    }

    /// Returns an error for `what`, which could not be written to standard output. A reader that closed the pipe needs
    /// no more output, and gets no message.
    pub fn output(what: &str, error: &io::Error) -> CommandError {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return CommandError { status: ExitStatus::Failure, text: Text::Nothing };
        }
        CommandError::failure(format!("cannot print {what}: {error}"))
    }

    /// Adds a hint.
    pub fn with_hint(mut self, fix: Option<String>) -> CommandError {
        if let Text::Message { hint, .. } = &mut self.text {
            *hint = fix;
        }
        self
    }

    /// Returns the message without the hint.
    pub fn message(&self) -> String {
        match &self.text {
            Text::Message { message, .. } => message.clone(),
            Text::Report(report) => report.clone(),
            Text::Nothing => String::new(),
        }
    }

    /// Prints the error to `messages` and returns the exit status.
    pub fn print(&self, messages: &mut dyn Write) -> ExitStatus {
        // If standard error cannot be written, no message can be printed.
        let _ = match &self.text {
            Text::Message { message, hint: None } => writeln!(messages, "offload: error: {message}"),
            Text::Message { message, hint: Some(hint) } => {
                writeln!(messages, "offload: error: {message}\n  hint: {hint}")
            }
            Text::Report(report) => writeln!(messages, "{report}"),
            Text::Nothing => Ok(()),
        };
        self.status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(error: &CommandError) -> (ExitStatus, String) {
        let mut messages = Vec::new();
        let status = error.print(&mut messages);
        (status, String::from_utf8(messages).unwrap())
    }

    #[test]
    fn a_message_has_a_prefix_and_its_hint_a_line_of_its_own() {
        let error = CommandError::new(ExitStatus::NoMatch, "no machine 'b2'");
        assert_eq!(printed(&error), (ExitStatus::NoMatch, "offload: error: no machine 'b2'\n".to_owned()));
        let error = CommandError::failure("x").with_hint(Some("do y".to_owned()));
        assert_eq!(printed(&error), (ExitStatus::Failure, "offload: error: x\n  hint: do y\n".to_owned()));
    }

    #[test]
    fn a_report_is_printed_as_it_is() {
        let error = CommandError::report(ExitStatus::MachineFile, "machines.lua:1: error: x");
        assert_eq!(printed(&error), (ExitStatus::MachineFile, "machines.lua:1: error: x\n".to_owned()));
    }

    #[test]
    fn a_closed_pipe_is_not_reported_and_a_full_disk_is() {
        let closed = CommandError::output("the status", &io::ErrorKind::BrokenPipe.into());
        assert_eq!(printed(&closed), (ExitStatus::Failure, String::new()));
        let full = CommandError::output("the status", &io::ErrorKind::StorageFull.into());
        assert!(printed(&full).1.starts_with("offload: error: cannot print the status: "));
    }
}
