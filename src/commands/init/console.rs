//! The conversation with the user: a line for each step, and questions where there is a terminal.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::commands::failure::CommandError;
use crate::commands::terminal::Terminal;

/// The width of the column with the outcome of a step.
const OUTCOME_WIDTH: usize = 6;

/// The width of the column with the name of a step.
const STEP_WIDTH: usize = 14;

/// Standard error, and standard input if both are a terminal.
pub struct Console {
    is_interactive: bool,
}

impl Console {
    pub fn new() -> Console {
        Console { is_interactive: io::stdin().is_terminal() && io::stderr().is_terminal() }
    }

    /// Reports a step that was done before.
    pub fn done(&self, step: &str, text: &str) {
        self.step("ok", step, text);
    }

    /// Reports a step that was done now.
    pub fn made(&self, step: &str, text: &str) {
        self.step("made", step, text);
    }

    /// Reports a step that the user has to do.
    pub fn to_do(&self, step: &str, text: &str) {
        self.step("to do", step, text);
    }

    /// Announces a step that prints more.
    pub fn begin(&self, step: &str, text: &str) {
        self.step("->", step, text);
    }

    fn step(&self, outcome: &str, step: &str, text: &str) {
        let indent = OUTCOME_WIDTH + STEP_WIDTH + 1;
        let text = Terminal::of(&io::stderr()).wrap(indent, text);
        self.say(&format!("{outcome:<OUTCOME_WIDTH$}{step:<STEP_WIDTH$} {text}"));
    }

    /// Prints lines. If standard error cannot be written, nobody reads them.
    pub fn say(&self, text: &str) {
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Prints a sentence, wrapped for the terminal.
    pub fn explain(&self, sentence: &str) {
        self.say(&Terminal::of(&io::stderr()).wrap(0, sentence));
    }

    /// Asks a question, and returns the answer; `None` if there is no terminal, or the input ended.
    pub fn ask(&self, question: &str) -> Result<Option<String>, CommandError> {
        if !self.is_interactive {
            return Ok(None);
        }
        let mut answer = String::new();
        eprint!("{question} ");
        io::stderr().flush().and_then(|()| io::stdin().lock().read_line(&mut answer)).map_err(CommandError::failure)?;
        if answer.is_empty() {
            eprintln!();
        }
        Ok((!answer.is_empty()).then(|| answer.trim().to_owned()))
    }

    /// Waits until the user has done what was printed. Without a terminal, or if the user stops, it is an error that
    /// names the command `again`, with which the user continues.
    pub fn wait_for_user(&self, again: &str) -> Result<(), CommandError> {
        match self.ask("Press Enter when it is done, or Control-D to stop:")? {
            Some(_) => Ok(()),
            None => Err(CommandError::failure("the set-up is not complete")
                .with_hint(Some(format!("do what is printed above, then: {again}")))),
        }
    }
}
