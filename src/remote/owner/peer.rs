//! The process at the other end of a control socket: its user, and whether it is able to serve.
//!
//! The directory of the sockets may belong to another user than the one whose hook runs, for example if root runs the
//! daemon of an account without privileges. That user could put a socket of its own there. So a hook reads the user of
//! the listening process from the kernel (`SO_PEERCRED`) and trusts only a process of its own user, as `ssh-agent`
//! does. An owner also accepts clients of root, because root could act as the owner anyway.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, Uid, geteuid};

use crate::permissions::files;

/// Connects to an owner of the same user. Removes a socket on which no process listens. The error says why the owner
/// cannot serve: another user, a stopped process, or no connection.
pub(super) fn connect(socket: &Path) -> io::Result<UnixStream> {
    connect_to(socket, &[geteuid()])
}

/// Connects to an owner process of one of these users. Root may ask the processes of the daemon's user for reports.
pub(super) fn connect_to(socket: &Path, users: &[Uid]) -> io::Result<UnixStream> {
    let stream = files::connect(socket).inspect_err(|error| {
        if error.kind() == ErrorKind::ConnectionRefused {
            // Its owner was killed. Another hook may remove it at the same time.
            let _ = files::remove(socket);
        }
    })?;
    let peer = socket_peercred(&stream)?;
    if !users.contains(&peer.uid) {
        let message = format!("the owner belongs to another user (user ID {})", peer.uid.as_raw());
        return Err(io::Error::new(ErrorKind::PermissionDenied, message));
    }
    if is_stopped_or_dead(peer.pid) {
        return Err(io::Error::other("the owner is stopped"));
    }
    Ok(stream)
}

/// Returns whether an owner listens on the socket that is able to serve. Removes a socket on which no process listens.
pub(super) fn can_serve(socket: &Path) -> bool {
    connect(socket).is_ok()
}

/// Returns whether an owner serves the requests of the process at the other end.
pub(super) fn is_authorized(control: &UnixStream) -> bool {
    socket_peercred(control).is_ok_and(|peer| peer.uid == geteuid() || peer.uid.is_root())
}

/// Returns whether a process cannot run: stopped by a signal or a debugger, or a zombie.
pub(super) fn is_stopped_or_dead(process: Pid) -> bool {
    process_state(process).is_some_and(|state| "TtZX".contains(state))
}

/// Returns the identifier of the process at the other end.
pub(super) fn pid(stream: &UnixStream) -> Option<Pid> {
    socket_peercred(stream).ok().map(|peer| peer.pid)
}

/// Returns the state of a process, a letter, from `/proc/PID/stat`.
fn process_state(process: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).ok()?;
    // The name before it may contain any characters.
    stat.rsplit_once(") ")?.1.chars().next()
}
