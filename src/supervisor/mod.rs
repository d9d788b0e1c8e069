//! Programs that end with the process that started them, and everything that they have started with them.
//!
//! A program of a machine file or a `proxy_command` may start others, in sessions of their own, and guix-daemon ends a
//! hook with SIGKILL, which leaves no time to clean up. So a program runs below a *supervisor*: this executable, started
//! a second time. The supervisor adopts whatever loses its parent below it (it is a "child subreaper", prctl(2)), and
//! kills all of it when
//!
//! - the program has ended, or
//! - the process that started it closes its end of a socket, the control socket, or has ended itself, however that came.
//!
//! **Between the two**: the supervisor's name (`argv[0]`) is [`NAME`]. Its first argument says where the program's
//! standard streams are (`Streams::word`), then come the program and its arguments. Standard input is the control
//! socket, standard output and error are streams of the program. The supervisor writes four bytes to the control
//! socket: 0, or the number of the error with which the program could not be started. It ends as the program did.
//!
//! A process that has not called [`serve_if_asked`] has no supervisors, since its executable does not know what to do as
//! one. Its programs are killed with their process groups when they are no longer wanted, and outlive it when it is
//! killed. The same holds where `/proc` is missing.
//!
//! What a supervisor may not signal (a program with the rights of another user) stays, after `KILL_TIMEOUT`.

mod serve;
mod streams;

pub use streams::Streams;

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{self, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use self::serve::KILL_TIMEOUT;
use rustix::process::{Pid, Signal, kill_process_group};

/// The name that a supervisor has in lists of processes.
pub const NAME: &str = "offload-supervisor";

/// The executable of this process, whatever has become of its file.
const OWN_EXECUTABLE: &str = "/proc/self/exe";

/// Time allowed for a supervisor to start a program, which takes milliseconds.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a caller checks whether a supervisor has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

static HAS_SUPERVISORS: AtomicBool = AtomicBool::new(false);

/// Serves as a supervisor, and ends the process, if it was started as one; otherwise the programs that this process
/// starts get supervisors from now on. For the first line of `main`, before any thread is started. `arguments` are those
/// of the process, its own name first.
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
    /// Starts a program with these arguments, below a supervisor if there can be one.
    pub fn start(program: &OsStr, arguments: &[OsString], streams: Streams) -> io::Result<Program> {
        if HAS_SUPERVISORS.load(Ordering::Relaxed) && Path::new(OWN_EXECUTABLE).exists() {
            return start_supervised(program, arguments, streams);
        }
        let mut command = Command::new(program);
        command.args(arguments).process_group(0);
        streams.give(&mut command)?;
        let child = command.spawn()?;
        let killer = Killer { pid: child.id(), control: None };
        Ok(Program { child, killer })
    }

    /// What kills it.
    pub fn killer(&self) -> Killer {
        self.killer.clone()
    }

    /// How it has ended, if it has. Everything that it started is gone then.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Kills it with everything that it has started, and waits until that is done, which takes a moment.
    pub fn kill(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        self.killer.kill();
        // What cannot be killed is in the hands of the kernel (a file server that is gone), and is not waited for.
        let until = Instant::now() + 2 * KILL_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            thread::sleep(POLL_INTERVAL);
        }
    }
}

/// The same program.
impl PartialEq for Killer {
    fn eq(&self, other: &Killer) -> bool {
        self.pid == other.pid
    }
}

impl Killer {
    /// Kills the program with everything that it has started, and waits for nothing. Not to be called once it is known
    /// that the program has ended.
    pub fn kill(&self) {
        match &self.control {
            // It may be gone already.
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
        let mut command = Command::new(OWN_EXECUTABLE);
        command.arg0(NAME).arg(streams.word()).arg(program).args(arguments).process_group(0);
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
        // It ends when the control socket does.
        drop(control);
        let _ = child.wait();
        return Err(error);
    }
    let killer = Killer { pid: child.id(), control: Some(Arc::new(control)) };
    Ok(Program { child, killer })
}
