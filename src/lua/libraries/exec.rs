//! `offload.exec(argv, { timeout = … })`: runs a program and returns its output.
//!
//! It returns the standard output of a program that exits with 0, else nil, a message and the exit status. There is no
//! shell and no input. The time limit is 5 seconds by default. A program `./NAME` is beside the main file.
//!
//! `os.execute` works as in the manual of Lua, except for the differences in `process`. The C function would make the
//! whole process ignore interrupts while it waits, and could not be cancelled.

use super::super::context::Context;
use super::super::message::plain_error;
use super::super::values::{describe, number};
use super::cancellable_io::CancellableIo;
use super::process::{Ended, Program, lua_status, messages};
use crate::supervisor::Streams;
use mlua::{FromLua as _, IntoLuaMulti as _, Lua, LuaString, MultiValue, Table, Value};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long a program may run, unless `timeout` is given.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// The limit of the bytes of arguments: Linux accepts no more.
const MAX_ARGUMENT_BYTES: usize = 6 << 20;
/// The limit of output; more is an error.
const MAX_OUTPUT: usize = 16 << 20;
/// The number of bytes of its messages that are stored, to show the last line.
const MAX_STDERR: usize = 64 << 10;

type Answer = (Option<LuaString>, Option<String>, Option<i32>);

pub(super) fn register(lua: &Lua, module: &Table, context: &Rc<Context>) -> mlua::Result<()> {
    register_execute(lua, context)?;
    let context = Rc::clone(context);
    let exec = move |lua: &Lua, (argv, options): (Value, Option<Table>)| {
        let argv = match &argv {
            Value::Table(_) => Vec::<LuaString>::from_lua(argv, lua)?,
            other => {
                let message = format!(
                    "exec: expected a list of arguments, such as {{ \"hostname\" }}, found {}",
                    describe(other)
                );
                return Err(mlua::Error::RuntimeError(message));
            }
        };
        if argv.iter().map(|word| word.as_bytes().len()).sum::<usize>() > MAX_ARGUMENT_BYTES {
            let message = format!("exec: the arguments have more than {} MiB", MAX_ARGUMENT_BYTES >> 20);
            return Err(mlua::Error::RuntimeError(message));
        }
        let words: Vec<OsString> = argv.iter().map(|word| OsStr::from_bytes(&word.as_bytes()).to_owned()).collect();
        let Some((program, arguments)) = words.split_first() else {
            return Err(mlua::Error::RuntimeError("exec: expected a list of arguments, found an empty one".to_owned()));
        };
        let timeout = timeout(options.as_ref())?;
        // As with files, a relative path starts at the main file; a name is searched in PATH.
        let path = match program.as_bytes().contains(&b'/') {
            true => context.resolve(program.as_bytes()).into_os_string(),
            false => program.clone(),
        };
        let shown = program.display();
        let run = || {
            let (output, messages) = (io::pipe()?, io::pipe()?);
            let streams = Streams::Output { output: output.1.into(), messages: messages.1.into() };
            let program = Program::start(lua, &context, &path, arguments, streams)?;
            let pipes = [program.pipe(output.0), program.pipe(messages.0)];
            take(program, pipes, timeout)
        };
        match run() {
            Ok(outcome) => outcome.answer(lua, &shown.to_string(), timeout),
            Err(error) => Ok((None, Some(format!("{shown}: {}", plain_error(&error))), None)),
        }
    };
    module.raw_set("exec", lua.create_function(exec)?)
}

/// Replaces `os.execute`.
fn register_execute(lua: &Lua, context: &Rc<Context>) -> mlua::Result<()> {
    let context = Rc::clone(context);
    let execute = move |lua: &Lua, command: Option<LuaString>| -> mlua::Result<MultiValue> {
        let Some(command) = command else { return true.into_lua_multi(lua) };
        let run = || {
            let streams = Streams::Output { output: messages(&context)?, messages: messages(&context)? };
            Program::shell(lua, &context, OsStr::from_bytes(&command.as_bytes()), streams)?.wait(None)
        };
        match run() {
            Ok(Ended::With(status)) => lua_status(status).into_lua_multi(lua),
            Ok(Ended::Late) => (Value::Nil, "signal", 9).into_lua_multi(lua),
            Err(error) => (Value::Nil, plain_error(&error)).into_lua_multi(lua),
        }
    };
    let os: Table = lua.globals().raw_get("os")?;
    os.raw_set("execute", lua.create_function(execute)?)
}

fn timeout(options: Option<&Table>) -> mlua::Result<Duration> {
    let wrong = |message: String| mlua::Error::RuntimeError(format!("exec: {message}"));
    let Some(options) = options else { return Ok(DEFAULT_TIMEOUT) };
    let mut timeout = DEFAULT_TIMEOUT;
    for pair in options.pairs::<Value, Value>() {
        let (key, value) = pair?;
        if key.as_string().is_none_or(|key| *key != "timeout") {
            return Err(wrong(format!("unknown option {}", describe(&key))));
        }
        let seconds = number(&value).and_then(|number| Duration::try_from_secs_f64(number).ok());
        timeout = seconds.ok_or_else(|| wrong("timeout: expected a number of seconds".to_owned()))?;
    }
    Ok(timeout)
}

struct ExecResult {
    ended: Ended,
    output: Vec<u8>,
    messages: Vec<u8>,
}

/// Reads the program's output until its end.
fn take(mut program: Program, pipes: [CancellableIo; 2], timeout: Duration) -> io::Result<ExecResult> {
    let deadline = Instant::now().checked_add(timeout);
    let mut pipes = pipes.map(Some);
    let mut texts = [Vec::new(), Vec::new()];
    while pipes.iter().any(Option::is_some) && deadline.is_none_or(|deadline| Instant::now() < deadline) {
        let mut fds: Vec<PollFd> = pipes.iter().flatten().map(|pipe| PollFd::new(pipe, PollFlags::IN)).collect();
        let time = Timespec { tv_sec: 0, tv_nsec: super::super::cancellation::POLL_INTERVAL.subsec_nanos().into() };
        match poll(&mut fds, Some(&time)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        program.park_if_cancelled();
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let open = pipes.iter_mut().zip(&mut texts).filter(|(pipe, _)| pipe.is_some());
        for ((pipe, text), _) in open.zip(ready).filter(|(_, ready)| *ready) {
            let mut buffer = [0; 64 << 10];
            match pipe.as_mut().map_or(Ok(0), |pipe| pipe.read(&mut buffer))? {
                0 => *pipe = None,
                count => text.extend_from_slice(&buffer[..count]),
            }
        }
        let [output, messages] = &mut texts;
        if output.len() > MAX_OUTPUT {
            return Err(io::Error::other(format!("it prints more than {} MiB", MAX_OUTPUT >> 20)));
        }
        let surplus = messages.len().saturating_sub(MAX_STDERR);
        messages.drain(..surplus);
    }
    // A child of the program may hold its output open after the program itself has ended.
    let ended = match pipes.iter().any(Option::is_some) {
        true => program.late(),
        false => program.wait(deadline)?,
    };
    let [output, messages] = texts;
    Ok(ExecResult { ended, output, messages })
}

impl ExecResult {
    fn answer(self, lua: &Lua, program: &str, timeout: Duration) -> mlua::Result<Answer> {
        let (how, code) = match self.ended {
            Ended::With(status) if status.success() => {
                return Ok((Some(lua.create_string(self.output)?), None, Some(0)));
            }
            Ended::With(status) => match (status.code(), status.signal()) {
                (Some(code), _) => (format!("exit status {code}"), Some(code)),
                (None, signal) => (format!("killed by signal {}", signal.unwrap_or(0)), None),
            },
            Ended::Late => (format!("killed after {} s", timeout.as_secs_f64()), None),
        };
        let messages = String::from_utf8_lossy(&self.messages);
        let reported = messages.lines().rev().find(|line| !line.trim().is_empty());
        let reported = reported.map_or(String::new(), |line| format!(": {}", line.trim()));
        Ok((None, Some(format!("{program}: {how}{reported}")), code))
    }
}
