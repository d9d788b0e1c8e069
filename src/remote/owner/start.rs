//! Starts owners of sessions: a process for each, or a thread of this process.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{self, Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::PROCESS_NAME;
use super::process::detach;
use super::serve::serve;
use crate::cancel::Cancel;
use crate::own_executable;
use crate::supervisor;

/// Whether this executable runs as an owner if it is started under that name: whether its `main` calls
/// [`serve_if_asked`].
static CAN_SPAWN_OWNERS: AtomicBool = AtomicBool::new(false);

/// Runs this process as the owner of a session or as a supervisor, and exits, if it was started as one.
///
/// Otherwise it returns. From then on, each session of this process gets an owner process, and each program that it
/// starts a supervisor. Call it in the first line of `main`, before any thread is started. `arguments` are those of
/// the process, its own name first.
pub fn serve_if_asked(arguments: &[OsString]) {
    if arguments.first().is_some_and(|name| name == PROCESS_NAME) {
        // A `proxy_command` of the owner has a supervisor.
        supervisor::serve_if_asked(arguments);
        // Nothing can report an error from here. The hook opens another session.
        process::exit(detach().and_then(|control| serve(control, None)).is_err().into());
    }
    supervisor::serve_if_asked(arguments);
    CAN_SPAWN_OWNERS.store(true, Ordering::Relaxed);
}

/// A way to start the owners of sessions.
pub trait OwnerSpawner: fmt::Debug {
    /// Starts an owner, which serves the requests on `control`.
    fn spawn(&self, control: UnixStream) -> io::Result<SpawnedOwner>;
}

/// An owner that was started.
#[derive(Debug)]
pub enum SpawnedOwner {
    /// A process, which can outlive this one.
    Process(Child),
    /// A thread of this process. The switch ends its attempt to connect.
    Thread(Cancel),
}

/// Starts a process for each session, from the executable of this process.
#[derive(Debug)]
pub struct ProcessSpawner;

impl OwnerSpawner for ProcessSpawner {
    fn spawn(&self, control: UnixStream) -> io::Result<SpawnedOwner> {
        let mut command = own_executable::command(PROCESS_NAME);
        command.stdin(OwnedFd::from(control)).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(SpawnedOwner::Process)
    }
}

/// Starts a thread of this process for each session.
#[derive(Debug)]
pub struct ThreadSpawner;

impl OwnerSpawner for ThreadSpawner {
    fn spawn(&self, control: UnixStream) -> io::Result<SpawnedOwner> {
        let cancel = Cancel::default();
        let of_thread = cancel.clone();
        // A caller sees that the socket is closed.
        let own = move || drop(serve(control, Some(&of_thread)));
        thread::Builder::new().name("session".to_owned()).spawn(own).map(|_| SpawnedOwner::Thread(cancel))
    }
}

/// Returns the default: processes, if this executable can run as an owner, otherwise threads.
pub(super) fn default_spawner() -> &'static dyn OwnerSpawner {
    match CAN_SPAWN_OWNERS.load(Ordering::Relaxed) && own_executable::can_start() {
        true => &ProcessSpawner,
        false => &ThreadSpawner,
    }
}
