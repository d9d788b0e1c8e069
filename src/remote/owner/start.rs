//! Who owns sessions: a process for each, or this one.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::NAME;
use super::process::detach;
use super::serve::serve;
use crate::supervisor;

/// The executable of this process, whatever has become of its file.
const OWN_EXECUTABLE: &str = "/proc/self/exe";

static HAS_OWNERS: AtomicBool = AtomicBool::new(false);

/// Serves as the owner of a session or as a supervisor, and ends the process, if it was started as one; otherwise the
/// connections of this process get owners from now on, and the programs that it starts supervisors. For the first line
/// of `main`, before any thread is started. `arguments` are those of the process, its own name first.
pub fn serve_if_asked(arguments: &[OsString]) {
    if arguments.first().is_some_and(|name| name == NAME) {
        // For a program that carries the session.
        supervisor::serve_if_asked(arguments);
        // Nobody hears what went wrong; a hook makes another session.
        process::exit(detach().and_then(|control| serve(control, true)).is_err().into());
    }
    supervisor::serve_if_asked(arguments);
    HAS_OWNERS.store(true, Ordering::Relaxed);
}

/// Who owns sessions.
pub trait SessionOwner: fmt::Debug {
    /// Starts one, which serves what is asked over `control`.
    fn start(&self, control: UnixStream) -> io::Result<Owned>;
}

/// What was started.
#[derive(Debug)]
pub enum Owned {
    /// A process, which may go on when this one has ended.
    ByProcess(Child),
    /// This process, until it ends.
    Here,
}

/// A process for each session, which is the executable of this one.
#[derive(Debug)]
pub struct OwnProcess;

impl SessionOwner for OwnProcess {
    fn start(&self, control: UnixStream) -> io::Result<Owned> {
        let mut command = Command::new(OWN_EXECUTABLE);
        command.arg0(NAME).stdin(OwnedFd::from(control)).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(Owned::ByProcess)
    }
}

/// A thread of this process for each session.
#[derive(Debug)]
pub struct OwnThread;

impl SessionOwner for OwnThread {
    fn start(&self, control: UnixStream) -> io::Result<Owned> {
        // Whoever asks sees that it has ended.
        let own = move || drop(serve(control, false));
        thread::Builder::new().name("session".to_owned()).spawn(own).map(|_| Owned::Here)
    }
}

/// The usual owner: a process, if this program knows how to be one.
pub(super) fn usual() -> &'static dyn SessionOwner {
    match HAS_OWNERS.load(Ordering::Relaxed) && Path::new(OWN_EXECUTABLE).exists() {
        true => &OwnProcess,
        false => &OwnThread,
    }
}
