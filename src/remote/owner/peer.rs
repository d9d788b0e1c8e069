//! Who is at the other end of a socket of a session, and whether it can do its part.
//!
//! The directory of the sockets may belong to another user than the one whose hook runs, as where root runs the daemon of
//! an account without privileges: that user could put a socket of its own there. So the kernel is asked who listens
//! (`SO_PEERCRED`), and only a process of the same user is trusted, as `ssh-agent` has it. An owner also listens to root,
//! who can do all that it can.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, Uid, geteuid};

use crate::permissions::files;

/// Connects to an owner of the same user. A socket that nobody listens on any more is removed.
pub(super) fn connect(socket: &Path) -> io::Result<UnixStream> {
    connect_to(socket, &[geteuid()])
}

/// Connects to an owner process of one of these users. Root may ask the processes of the daemon's user for reports.
pub(super) fn connect_to(socket: &Path, users: &[Uid]) -> io::Result<UnixStream> {
    let stream = files::connect(socket).inspect_err(|error| {
        if error.kind() == ErrorKind::ConnectionRefused {
            // Its owner was killed. Whoever removes it first has removed it.
            let _ = files::remove(socket);
        }
    })?;
    let peer = socket_peercred(&stream)?;
    if !users.contains(&peer.uid) {
        let message = format!("it belongs to another user (number {})", peer.uid.as_raw());
        return Err(io::Error::new(ErrorKind::PermissionDenied, message));
    }
    if is_stopped(peer.pid) {
        return Err(io::Error::other("its process is stopped"));
    }
    Ok(stream)
}

/// Whether somebody listens on the socket who could serve.
pub(super) fn can_serve(socket: &Path) -> bool {
    connect(socket).is_ok()
}

/// Whether an owner may do what the process at the other end wants.
pub(super) fn may_ask(control: &UnixStream) -> bool {
    socket_peercred(control).is_ok_and(|peer| peer.uid == geteuid() || peer.uid.is_root())
}

/// Whether a process does not run, by a signal or a debugger, so that nothing can come from it.
pub(super) fn is_stopped(process: Pid) -> bool {
    state(process).is_some_and(|state| "TtZX".contains(state))
}

/// The process that listens at the other end.
pub(super) fn process(stream: &UnixStream) -> Option<Pid> {
    socket_peercred(stream).ok().map(|peer| peer.pid)
}

/// The state of a process, a letter, as `/proc/PID/stat` has it.
fn state(process: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).ok()?;
    // The name before may have anything in it.
    stat.rsplit_once(") ")?.1.chars().next()
}
