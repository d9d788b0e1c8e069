//! The supervisor's side: one program, and the orphans below it.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::{emulate_default_handler, pipe};

use super::streams::Streams;

/// The status of a supervisor that cannot serve, or whose program could not be started: that of a shell.
const EXIT_NOT_STARTED: i32 = 127;

/// The status of a supervisor that has killed its program.
const EXIT_KILLED: i32 = 137;

/// How long a supervisor tries to kill all processes below it.
pub(super) const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a supervisor kills the processes below it again.
const KILL_INTERVAL: Duration = Duration::from_millis(20);

/// Runs the program that the arguments name; returns the exit status for this process.
pub(super) fn serve(arguments: &[OsString]) -> i32 {
    match run(arguments) {
        Ok(Some(status)) => end_like(status),
        Ok(None) => EXIT_KILLED,
        Err(_) => EXIT_NOT_STARTED,
    }
}

/// Starts the program, waits until it has ended or is no longer wanted, and kills its remaining children.
fn run(arguments: &[OsString]) -> io::Result<Option<WaitStatus>> {
    let [word, program, arguments @ ..] = arguments else { return Err(io::ErrorKind::InvalidInput.into()) };
    let mut control = UnixStream::from(private(rustix::stdio::stdin())?);
    let (child_ended, asked_to_end) = (wake_on(&[SIGCHLD])?, wake_on(&[SIGTERM, SIGINT, SIGHUP])?);
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let started = start(word, program, arguments);
    let error = started.as_ref().err().map_or(0, |error| error.raw_os_error().unwrap_or(Errno::IO.raw_os_error()));
    control.write_all(&error.to_ne_bytes())?;
    let main = started?;
    let status = watch(main, &control, &child_ended, &asked_to_end);
    kill_all(&child_ended);
    Ok(status)
}

/// Starts the program with the streams of this process. This process closes its own copies, because a reader of the
/// program's output must see when the program closes them.
fn start(word: &OsString, program: &OsString, arguments: &[OsString]) -> io::Result<Pid> {
    let (output, messages) = (private(rustix::stdio::stdout())?, private(rustix::stdio::stderr())?);
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    let streams = Streams::from_pair(word, output, messages).ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    // A program that signals its process group must not reach its supervisor.
    command.args(arguments).process_group(0);
    streams.give(&mut command)?;
    let child = command.spawn()?;
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| Errno::SRCH.into())
}

fn private(descriptor: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, 3)?)
}

/// Returns a socket that becomes readable when one of these signals arrives.
fn wake_on(signals: &[i32]) -> io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    for &signal in signals {
        pipe::register(signal, writer.try_clone()?)?;
    }
    Ok(reader)
}

/// Waits for the end of the program; `None` if it is no longer wanted before that.
fn watch(main: Pid, control: &UnixStream, child_ended: &UnixStream, asked_to_end: &UnixStream) -> Option<WaitStatus> {
    loop {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == main {
                return Some(status);
            }
        }
        let mut wanted = [control, child_ended, asked_to_end].map(|socket| PollFd::new(socket, PollFlags::IN));
        match poll(&mut wanted, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return None,
        }
        let [control, _, asked_to_end] = wanted.map(|socket| !socket.revents().is_empty());
        if control || asked_to_end {
            return None;
        }
        drain(child_ended);
    }
}

fn drain(mut socket: &UnixStream) {
    let mut bytes = [0; 64];
    while let Ok(1..) = io::Read::read(&mut socket, &mut bytes) {}
}

/// Kills all processes below this one. The children of a killed process become children of this process, which kills
/// them next.
fn kill_all(child_ended: &UnixStream) {
    let until = Instant::now() + KILL_TIMEOUT;
    while has_children() && Instant::now() < until {
        for child in children() {
            // It may have ended, or belong to another user.
            let _ = rustix::process::kill_process(child, Signal::KILL);
        }
        let time = Timespec { tv_sec: 0, tv_nsec: KILL_INTERVAL.subsec_nanos().into() };
        if has_children() {
            let _ = poll(&mut [PollFd::new(child_ended, PollFlags::IN)], Some(&time));
            drain(child_ended);
        }
    }
}

/// Returns whether there are children, after it has waited for those that have ended.
fn has_children() -> bool {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Returns the processes whose parent is this one.
fn children() -> Vec<Pid> {
    let own = rustix::process::getpid().as_raw_pid().to_string();
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The state and the parent follow the name, which may contain any text.
        stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(1)) == Some(&own)
    };
    pids.filter(is_child).filter_map(Pid::from_raw).collect()
}

/// Ends as the program did: returns its exit status, or dies of the same signal.
fn end_like(status: WaitStatus) -> i32 {
    let Some(signal) = status.terminating_signal() else { return status.exit_status().unwrap_or(EXIT_NOT_STARTED) };
    // The program has already dumped its core, if it had to.
    let _ = rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = emulate_default_handler(signal);
    // For a signal without a name, a shell returns this status.
    128 + signal
}
