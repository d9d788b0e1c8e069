//! The user that guix-daemon runs as, as whom root's commands make their checks.
//!
//! The hook reads the machine file and the keys as this user. What root can read says nothing about the hook: modes,
//! directories above, access-control lists and AppArmor count for a process of that user only. So root's command starts
//! itself again as this user ([`as_user`](super::as_user)), and what it records is what the hook would find.
//!
//! On a system that runs systemd, and for the usual state directory, the unit names the user. Otherwise it is the owner
//! of the daemon's socket, or of the state directory if there is no socket.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::geteuid;

use super::as_user::{self, AsUserError};
use super::install::{UNIT, Unit};
use super::machines::machine_file;
use crate::engine::STATE_SUBDIRECTORY;
use crate::local::Directories;
use crate::permissions::{Need, PermissionProblem, User};

/// A directory that exists while systemd manages the system (sd_booted(3)).
const SYSTEMD_IS_RUNNING: &str = "run/systemd/system";

/// The state directory of the daemon that the unit starts.
const USUAL_STATE: &str = "/var/guix";

/// The daemon's socket, in its state directory.
const SOCKET: &str = "daemon-socket/socket";

/// Returns the daemon's user, if this process is root's and the daemon runs as another user.
pub fn for_checks(directories: &Directories) -> Option<User> {
    if !geteuid().is_root() {
        return None;
    }
    find(Path::new("/"), &directories.state)
}

/// Returns the daemon's user as [`for_checks`] does, if that user can read `file`.
fn for_file(directories: &Directories, file: &Path) -> Option<User> {
    let can_read = |user: &User| PermissionProblem::find(user, Path::new("/"), file, Need::Read).is_none();
    for_checks(directories).filter(can_read)
}

/// Returns the user as whom root's command evaluates a machine file, and contacts no machine: the user who can write it,
/// else the daemon's user, unless that one cannot read a draft of root's that is named.
pub fn for_evaluation(directories: &Directories, named: Option<&Path>) -> Result<Option<User>, AsUserError> {
    let file = machine_file(named, directories);
    let user = as_user::for_machine_file(&file, &directories.state.join(STATE_SUBDIRECTORY))?;
    Ok(user.or_else(|| match named {
        Some(file) => for_file(directories, file),
        None => for_checks(directories),
    }))
}

/// Returns the daemon's user below `root`, unless that is root.
fn find(root: &Path, state: &Path) -> Option<User> {
    let user = of_unit(root, state).or_else(|| of_files(root, state))?;
    (user.uid != 0).then_some(user)
}

fn of_unit(root: &Path, state: &Path) -> Option<User> {
    if state != Path::new(USUAL_STATE) || !root.join(SYSTEMD_IS_RUNNING).exists() {
        return None;
    }
    User::named(root, &Unit::read(root, UNIT)?.user)
}

fn of_files(root: &Path, state: &Path) -> Option<User> {
    let state = root.join(state.strip_prefix("/").unwrap_or(state));
    let owner = fs::metadata(state.join(SOCKET)).or_else(|_| fs::metadata(&state)).ok()?;
    Some(User::numbered(root, owner.uid(), owner.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), text).unwrap();
    }

    fn chown(path: &Path, uid: u32) {
        std::os::unix::fs::chown(path, Some(uid), Some(uid)).unwrap();
    }

    #[test]
    fn the_unit_names_the_user_where_systemd_runs() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let found = |state: &str| find(root, Path::new(state)).map(|user| (user.name, user.uid));
        write(root, "etc/passwd", "root:x:0:0::/root:\nguix-daemon:x:990:990::/:\nother:x:991:991::/:\n");
        write(root, "usr/lib/systemd/system/guix-daemon.service", "[Service]\nUser=guix-daemon\nExecStart=/d\n");
        write(root, "var/guix/daemon-socket/socket", "");
        write(root, "var/other/x", "");
        // A socket that systemd has made is root's.
        assert_eq!(found("/var/guix"), None);
        fs::create_dir_all(root.join(SYSTEMD_IS_RUNNING)).unwrap();
        assert_eq!(found("/var/guix"), Some(("guix-daemon".to_owned(), 990)));
        // Another daemon.
        chown(&root.join("var/other"), 991);
        assert_eq!(found("/var/other"), Some(("other".to_owned(), 991)));
        assert_eq!(found("/var/missing"), None);
    }

    #[test]
    fn the_owner_of_the_socket_comes_before_that_of_the_state() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let found = || find(root, Path::new("/var/guix")).map(|user| user.uid);
        write(root, "var/guix/daemon-socket/socket", "");
        chown(&root.join("var/guix"), 991);
        assert_eq!(found(), None);
        chown(&root.join("var/guix/daemon-socket/socket"), 990);
        assert_eq!(found(), Some(990));
        fs::remove_file(root.join("var/guix/daemon-socket/socket")).unwrap();
        assert_eq!(found(), Some(991));
    }
}
