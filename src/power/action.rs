//! Runs `start` or `stop` of a machine: a program below a supervisor, or a function of the machine file.
//!
//! A program gets no input. Its output is not used. If it fails, the last line of its messages is part of the error.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, PipeReader};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use super::Head;
use crate::cancel;
use crate::machine::{Action, Machine, StartedAs};
use crate::machine_file::ActionFunction;
use crate::supervisor::{Program, Streams};

/// How often a program is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long the last message of a program that has failed is awaited.
const MESSAGES_TIMEOUT: Duration = Duration::from_secs(1);

/// The number of the last bytes of messages that are kept.
const MAX_MESSAGES: usize = 4096;

/// Runs `start` or `stop` of the machine, within `timeout`. Returns what `start` has returned.
pub(super) fn run(
    head: Head<'_>,
    machine: &Machine,
    action: &Action,
    function: ActionFunction,
    timeout: Duration,
) -> Result<StartedAs, String> {
    match action {
        Action::Function => head.pool.call_on_demand(machine, function, timeout),
        Action::Program(words) => run_program(words, timeout).map(|()| StartedAs::default()),
    }
}

fn run_program(words: &[String], timeout: Duration) -> Result<(), String> {
    let Some((name, arguments)) = words.split_first() else { return Ok(()) };
    let failed = |error: io::Error| format!("cannot run '{name}': {error}");
    let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    let (output, messages) = io::pipe().map_err(failed)?;
    let streams = Streams::Output { output: messages.try_clone().map_err(failed)?.into(), messages: messages.into() };
    let mut program = Program::start(OsStr::new(name), &arguments, streams).map_err(failed)?;
    let messages = last_line(output).map_err(failed)?;
    let deadline = Instant::now() + timeout;
    let status = loop {
        match program.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if Instant::now() >= deadline => {
                program.kill();
                return Err(format!("'{name}' did not end within {} s, and was killed", timeout.as_secs_f64()));
            }
            None if cancel::is_cancelled() => {
                program.kill();
                return Err(format!("'{name}' was cancelled"));
            }
            None => cancel::sleep(POLL_INTERVAL),
        }
    };
    if status.success() {
        return Ok(());
    }
    // Its children are gone, so its messages end, unless one with the rights of another user is left.
    let line = messages.recv_timeout(MESSAGES_TIMEOUT).unwrap_or_default();
    let line = if line.is_empty() { line } else { format!(": {line}") };
    Err(format!("'{name}' failed ({status}){line}"))
}

/// Reads all messages, and returns the last line that is not empty.
fn last_line(messages: PipeReader) -> io::Result<Receiver<String>> {
    let (sender, receiver) = mpsc::channel();
    let read = move || {
        let mut last = VecDeque::new();
        let mut reader = BufReader::new(messages);
        while let Ok(bytes) = reader.fill_buf() {
            let count = bytes.len();
            if count == 0 {
                break;
            }
            last.extend(bytes);
            last.drain(..last.len().saturating_sub(MAX_MESSAGES));
            reader.consume(count);
        }
        let text = String::from_utf8_lossy(last.make_contiguous()).into_owned();
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        // Nobody may wait for it any more.
        let _ = sender.send(line.chars().filter(|c| !c.is_control()).collect());
    };
    thread::Builder::new().name("messages".to_owned()).spawn(read).map(|_| receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> Result<(), String> {
        let words: Vec<String> = words.iter().copied().map(String::from).collect();
        run_program(&words, Duration::from_millis(300))
    }

    #[test]
    fn a_program_that_fails_is_reported_with_its_last_message() {
        assert_eq!(run(&["true"]), Ok(()));
        let error = run(&["sh", "-c", "echo one >&2; echo two >&2; echo; exit 3"]).unwrap_err();
        assert_eq!(error, "'sh' failed (exit status: 3): two");
        assert!(run(&["/nonexistent/x"]).unwrap_err().starts_with("cannot run '/nonexistent/x': "));
        assert_eq!(run(&["sleep", "60"]), Err("'sleep' did not end within 0.3 s, and was killed".to_owned()));
        // More messages than a pipe holds.
        assert_eq!(run(&["sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x"]), Ok(()));
    }
}
