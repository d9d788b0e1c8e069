//! The descriptors that the daemon gives its hook, and their protection from other code in the process.
//!
//! The hook starts with 0 (requests), 1 and 2 (one pipe: replies, trace lines, text for the client) and 4 (the build
//! log). The daemon could take a stray line on 1 or 2 for a reply. A child that keeps one of them open keeps the build
//! "running" for the daemon after the hook has ended. So before anything else the hook moves them to private
//! close-on-exec descriptors. 0 becomes `/dev/null`. 1 and 2 become a pipe for children, Lua's `print` and libraries;
//! the hook copies its lines with a prefix. All other descriptors that the daemon left open are marked close-on-exec.
//!
//! Descriptor 4 is known by its number only. It is opened again through `/proc/self/fd`, which needs no `unsafe` and
//! gives the same pipe. The daemon itself holds a writing end of that pipe, so one more in this process has no effect.
//!
//! A hook needs about thirty descriptors for a build, and some more if many machines are slow to respond. A hook that
//! runs out of them cannot connect, and would count that as a failure of one machine after the other. So the limit of
//! open files (`RLIMIT_NOFILE`) is raised first ([`raise_open_files`]).

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};

/// The prefix of every line that does not belong to the daemon's protocol.
pub const LINE_PREFIX: &str = "offload: ";

/// The longest stray line that is copied in one piece, in bytes: with its prefix it must fit into one atomic write to a
/// pipe (`PIPE_BUF`).
const MAX_STRAY_LINE: u64 = 4096 - LINE_PREFIX.len() as u64 - 1;

/// How long the process waits at its end for the output of its children.
const STRAY_OUTPUT_GRACE: Duration = Duration::from_millis(200);

/// The limit that a hook sets if it may: the usual limit of a process.
const OPEN_FILES_WANTED: u64 = 1024;

/// With a lower limit a hook accepts no build.
const OPEN_FILES_MIN: u64 = 64;

/// The daemon's descriptors, under private numbers.
#[derive(Debug)]
pub struct Descriptors {
    /// The daemon's requests, which arrive on descriptor 0.
    pub requests: File,
    /// Replies: what was descriptor 1.
    pub replies: File,
    /// Trace lines and text for the client: what was descriptor 2.
    pub messages: File,
    /// The build log: what was descriptor 4; standard error if there was none.
    pub build_log: File,
    /// Receives a message when the last stray line has been copied.
    strays: Receiver<()>,
}

impl Descriptors {
    /// Moves the descriptors. The caller must call it once, before the process has started a thread or opened a file.
    pub fn take() -> io::Result<Descriptors> {
        let requests = private(io::stdin())?;
        let replies = private(io::stdout())?;
        let messages = private(io::stderr())?;
        // Appending matters if the hook is run by hand with a file as descriptor 4.
        let build_log = match OpenOptions::new().append(true).open("/proc/self/fd/4") {
            Ok(file) => file,
            Err(_) => messages.try_clone()?,
        };
        close_fds::set_fds_cloexec(3, &[]);

        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        rustix::stdio::dup2_stdout(&writer)?;
        rustix::stdio::dup2_stderr(&writer)?;
        drop(writer);
        let strays = pass_on_strays(reader, messages.try_clone()?);
        Ok(Descriptors { requests, replies, messages, build_log, strays })
    }

    /// Waits briefly until the stray lines written so far have been copied. Afterwards standard output and error are
    /// closed.
    pub fn finish(self) -> io::Result<()> {
        let null = OpenOptions::new().write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        // Children may hold the pipe open; their last output is not worth a wait.
        let _ = self.strays.recv_timeout(STRAY_OUTPUT_GRACE);
        Ok(())
    }
}

fn private(descriptor: impl AsFd) -> io::Result<File> {
    // From 10 on, so that the private numbers never meet those that the daemon uses.
    let descriptor: OwnedFd = rustix::io::fcntl_dupfd_cloexec(descriptor, 10)?;
    Ok(File::from(descriptor))
}

/// Starts the thread that copies every line from standard output or error with a prefix, each in one write.
fn pass_on_strays(reader: OwnedFd, mut messages: File) -> Receiver<()> {
    let (done, strays) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(File::from(reader));
        loop {
            let mut line = LINE_PREFIX.as_bytes().to_vec();
            match reader.by_ref().take(MAX_STRAY_LINE).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            if line.last() != Some(&b'\n') {
                line.push(b'\n');
            }
            if messages.write_all(&line).is_err() {
                break;
            }
        }
        let _ = done.send(());
    });
    strays
}

/// The limit of open files is too low to build anything.
#[derive(Debug, thiserror::Error)]
#[error(
    "no builds are offloaded: this process may open {limit} files, and needs {OPEN_FILES_MIN}\n  hint: give guix-daemon a higher \
     limit: `LimitNOFILE=1024` in its systemd unit, or `ulimit -n 1024` in the shell that starts it"
)]
pub struct TooFewFiles {
    limit: u64,
}

/// Raises the limit of open files as far as needed and allowed. Returns an error if it stays too low.
pub fn raise_open_files() -> Result<(), TooFewFiles> {
    let mut limit = getrlimit(Resource::Nofile);
    // `None` means that there is no limit.
    let Some(current) = limit.current.filter(|&current| current < OPEN_FILES_WANTED) else { return Ok(()) };
    let raised = limit.maximum.map_or(OPEN_FILES_WANTED, |maximum| maximum.min(OPEN_FILES_WANTED));
    limit.current = Some(raised);
    let limit = if setrlimit(Resource::Nofile, limit).is_ok() { raised } else { current };
    if limit < OPEN_FILES_MIN { Err(TooFewFiles { limit }) } else { Ok(()) }
}
