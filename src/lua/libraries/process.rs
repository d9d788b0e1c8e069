//! Programs of user code. They get no input, and their messages go to standard error. They are killed with all their
//! children when their time limit passes or the evaluation is cancelled.

use super::super::context::{Context, Messages};
use super::cancellable_io::{CancellableIo, Canceller};
use crate::supervisor::{self, Streams};
use mlua::Lua;
use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

/// How often a child is checked that has closed its output: it is about to end.
const END_GRACE: Duration = Duration::from_millis(1);

/// A program that runs; dropping it kills it.
pub(super) struct Program {
    program: supervisor::Program,
    canceller: Canceller,
}

/// The end of a program.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ended {
    With(ExitStatus),
    /// It was killed at its time limit.
    Late,
}

impl Program {
    /// Starts a program with these arguments.
    pub fn start(
        lua: &Lua,
        context: &Rc<Context>,
        program: &OsStr,
        arguments: &[OsString],
        streams: Streams,
    ) -> io::Result<Program> {
        let canceller = Canceller::new(lua, context);
        let program = context.cancel_state.start(program, arguments, streams)?;
        Ok(Program { program, canceller })
    }

    /// Starts a shell that runs `command`.
    pub fn shell(lua: &Lua, context: &Rc<Context>, command: &OsStr, streams: Streams) -> io::Result<Program> {
        let arguments = [OsString::from("-c"), command.to_owned()];
        Program::start(lua, context, OsStr::new("/bin/sh"), &arguments, streams)
    }

    /// Returns our end of one of its pipes, for cancellable reads and writes.
    pub fn pipe(&self, end: impl Into<OwnedFd>) -> CancellableIo {
        self.canceller.on(end)
    }

    /// Waits for its end, until `deadline` at the latest.
    pub fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Ended> {
        loop {
            let status = self.canceller.cancel_state().ended(&mut self.program)?;
            self.park_if_cancelled();
            if let Some(status) = status {
                return Ok(Ended::With(status));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(self.late());
            }
            thread::sleep(END_GRACE);
        }
    }

    /// Parks this thread if the evaluation is cancelled.
    pub fn park_if_cancelled(&self) {
        self.canceller.park_if_cancelled();
    }

    /// Kills it because its time limit has passed.
    pub fn late(&mut self) -> Ended {
        self.kill();
        Ended::Late
    }

    /// Kills it and its children.
    pub fn kill(&mut self) {
        self.canceller.cancel_state().kill(&mut self.program);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns a copy of our standard error for a program, if that is the place of messages.
pub(super) fn messages(context: &Context) -> io::Result<OwnedFd> {
    let copy = || rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3).ok();
    match (context.messages == Messages::StandardError).then(copy).flatten() {
        Some(copy) => Ok(copy),
        None => Ok(OpenOptions::new().write(true).open("/dev/null")?.into()),
    }
}

/// Returns the three results of Lua's standard library about the end of a program.
pub(super) fn lua_status(status: ExitStatus) -> (Option<bool>, &'static str, i32) {
    match (status.code(), status.signal()) {
        (Some(0), _) => (Some(true), "exit", 0),
        (Some(code), _) => (None, "exit", code),
        (None, signal) => (None, "signal", signal.unwrap_or(0)),
    }
}
