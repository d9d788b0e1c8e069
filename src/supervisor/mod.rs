//! Programs that end with the process that started them, together with their own children.
//!
//! A program of a machine file or a `proxy_command` may start others, in sessions of their own. guix-daemon ends a hook
//! with SIGKILL, which leaves no time to clean up. So a program runs below a *supervisor*: this executable, started a
//! second time. The supervisor adopts every orphan below it (it is a "child subreaper", prctl(2)), and kills all of
//! them when
//!
//! - the program has ended, or
//! - the process that started it closes its end of the control socket, or has ended itself, for any reason.
//!
//! **Protocol**: the supervisor's name (`argv[0]`) is [`NAME`]. Its first argument names the program's standard streams
//! (`Streams::word`), followed by the program and its arguments. Standard input is the control socket; standard output
//! and error are streams of the program. The supervisor writes four bytes to the control socket: 0, or the number of
//! the error with which the program could not be started. It ends with the program's status.
//!
//! A process that has not called [`serve_if_asked`] has no supervisors, since its executable cannot act as one. It
//! kills its programs with their process groups when they are no longer wanted, and they outlive it if it is killed.
//! The same is true if `/proc` is missing.
//!
//! A program that the supervisor may not signal (one with the rights of another user) is left after `KILL_TIMEOUT`.

mod serve;
mod streams;

pub use streams::Streams;

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{self, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use self::serve::KILL_TIMEOUT;
use crate::own_executable;
use rustix::process::{Pid, Signal, kill_process_group};

/// The name of a supervisor in lists of processes.
pub const NAME: &str = "offload-supervisor";

/// Time allowed for a supervisor to start a program, which takes milliseconds.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a caller checks whether a supervisor has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

static HAS_SUPERVISORS: AtomicBool = AtomicBool::new(false);

/// If this process was started as a supervisor, serves as one and ends the process. Otherwise the programs that this
/// process starts get supervisors from now on. It belongs in the first line of `main`, before any thread is started.
/// `arguments` are those of the process, its own name first.
pub fn serve_if_asked(arguments: &[OsString]) {
    match arguments.split_first() {
        Some((name, arguments)) if name == NAME => process::exit(serve::serve(arguments)),
        _ => HAS_SUPERVISORS.store(true, Ordering::Relaxed),
    }
}

/// A program that was started. Dropping it neither ends nor awaits it.
#[derive(Debug)]
pub struct Program {
    /// The supervisor, or the program itself.
    child: process::Child,
    killer: Killer,
}

/// Kills a program, from any thread.
#[derive(Clone, Debug)]
pub struct Killer {
    pid: u32,
    /// The control socket; without a supervisor there is none.
    control: Option<Arc<UnixStream>>,
}

impl Program {
    /// Starts a program with these arguments, below a supervisor if one can be started.
    pub fn start(program: &OsStr, arguments: &[OsString], streams: Streams) -> io::Result<Program> {
        if HAS_SUPERVISORS.load(Ordering::Relaxed) && own_executable::can_start() {
            return start_supervised(program, arguments, streams);
        }
        let mut command = Command::new(program);
        command.args(arguments).process_group(0);
        streams.give(&mut command)?;
        let child = command.spawn()?;
        let killer = Killer { pid: child.id(), control: None };
        Ok(Program { child, killer })
    }

    /// Returns a handle that kills the program.
    pub fn killer(&self) -> Killer {
        self.killer.clone()
    }

    /// Returns its exit status, if it has ended. Its children are gone then.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Kills it with all its children, and waits until they are gone, which takes a moment.
    pub fn kill(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        self.killer.kill();
        // A process that cannot be killed is blocked in the kernel (on a lost file server), and is not awaited.
        let until = Instant::now() + 2 * KILL_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            thread::sleep(POLL_INTERVAL);
        }
    }
}

/// Two are equal if they kill the same program.
impl PartialEq for Killer {
    fn eq(&self, other: &Killer) -> bool {
        self.pid == other.pid
    }
}

impl Killer {
    /// Kills the program with all its children, without waiting. The caller must not call it once it is known that the
    /// program has ended.
    pub fn kill(&self) {
        match &self.control {
            // The program may have ended already.
            Some(control) => drop(control.shutdown(Shutdown::Both)),
            None => {
                if let Some(group) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
                    let _ = kill_process_group(group, Signal::KILL);
                }
            }
        }
    }
}

fn start_supervised(program: &OsStr, arguments: &[OsString], streams: Streams) -> io::Result<Program> {
    let (mut control, theirs) = UnixStream::pair()?;
    let mut child = {
        let mut command = own_executable::command(NAME);
        command.arg(streams.word()).arg(program).args(arguments).process_group(0);
        let (output, messages) = streams.into_pair();
        // The command holds these until it is dropped.
        command.stdin(OwnedFd::from(theirs)).stdout(output).stderr(messages).spawn()?
    };
    control.set_read_timeout(Some(START_TIMEOUT))?;
    let mut error = [0; 4];
    let started = control.read_exact(&mut error).and_then(|()| match i32::from_ne_bytes(error) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    });
    if let Err(error) = started {
        // The supervisor ends when the control socket does.
        drop(control);
        let _ = child.wait();
        return Err(error);
    }
    let killer = Killer { pid: child.id(), control: Some(Arc::new(control)) };
    Ok(Program { child, killer })
}
