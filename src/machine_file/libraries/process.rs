//! Running programs for user code. They get no input, their messages go to standard error, and they are killed with
//! all their offspring when their time is over or nobody waits for the interpreter any more.

use super::super::context::Context;
use super::cancellable_io::{CancellableIo, Canceller};
use mlua::Lua;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

/// A child is looked at this often once it has nothing left to read from: it is about to end.
const ABOUT_TO_END: Duration = Duration::from_millis(1);

/// A program that runs; dropping it kills it.
pub(super) struct Program {
    child: Child,
    canceller: Canceller,
}

/// How a program ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ended {
    With(ExitStatus),
    /// It was killed when its time was over.
    Late,
}

impl Program {
    /// Starts `command` in a process group of its own. Its standard error is ours, unless it is set already.
    pub fn start(lua: &Lua, context: &Rc<Context>, command: &mut Command) -> io::Result<Program> {
        let canceller = Canceller::new(lua, context);
        let child = context.cancel_state.start(command.process_group(0))?;
        Ok(Program { child, canceller })
    }

    /// Its standard output, if that is a pipe.
    pub fn output(&mut self) -> Option<CancellableIo> {
        Some(self.canceller.on(std::os::fd::OwnedFd::from(self.child.stdout.take()?)))
    }

    /// Its standard error, if that is a pipe.
    pub fn messages(&mut self) -> Option<CancellableIo> {
        Some(self.canceller.on(std::os::fd::OwnedFd::from(self.child.stderr.take()?)))
    }

    /// Its standard input, if that is a pipe.
    pub fn input(&mut self) -> Option<CancellableIo> {
        Some(self.canceller.on(std::os::fd::OwnedFd::from(self.child.stdin.take()?)))
    }

    /// Waits for its end, until `deadline` at the latest.
    pub fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Ended> {
        loop {
            let status = self.canceller.cancel_state().ended(&mut self.child)?;
            self.park_if_cancelled();
            if let Some(status) = status {
                return Ok(Ended::With(status));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(self.late());
            }
            thread::sleep(ABOUT_TO_END);
        }
    }

    /// Ends the work of this thread if nobody waits for it any more.
    pub fn park_if_cancelled(&self) {
        if self.canceller.is_cancelled() {
            self.canceller.park();
        }
    }

    /// Ends it because its time is over.
    pub fn late(&mut self) -> Ended {
        self.kill();
        Ended::Late
    }

    /// Kills it and what it has started.
    pub fn kill(&mut self) {
        self.canceller.cancel_state().kill(&mut self.child);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A shell that runs `command`, without input, printing to standard error.
pub(super) fn shell(command: &std::ffi::OsStr) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).stdin(Stdio::null()).stdout(messages());
    shell
}

/// Our standard error, for a child.
pub(super) fn messages() -> Stdio {
    match rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3) {
        Ok(copy) => copy.into(),
        Err(_) => Stdio::null(),
    }
}

/// The three results with which Lua's standard library tells how a program ended.
pub(super) fn lua_status(status: ExitStatus) -> (Option<bool>, &'static str, i32) {
    match (status.code(), status.signal()) {
        (Some(0), _) => (Some(true), "exit", 0),
        (Some(code), _) => (None, "exit", code),
        (None, signal) => (None, "signal", signal.unwrap_or(0)),
    }
}
