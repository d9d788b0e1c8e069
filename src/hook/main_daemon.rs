//! The daemon that this hook belongs to.
//!
//! guix-daemon has a process for each client, which starts the hooks, and is a child of the daemon itself. All of these
//! have the same name, so the last ancestor of the hook that has the name of its parent is the daemon.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, getppid, pidfd_open};

/// A descriptor of the daemon's process; `None` where the system has none, or the daemon is not to be found.
pub fn main_daemon() -> Option<OwnedFd> {
    let (mut daemon, name) = (getppid()?, name(getppid()?)?);
    while let Some(parent) = parent(daemon).filter(|parent| self::name(*parent).as_ref() == Some(&name)) {
        daemon = parent;
    }
    pidfd_open(daemon, PidfdFlags::empty()).ok()
}

/// The name of a process's program, as the kernel has it.
fn name(process: Pid) -> Option<String> {
    fs::read_to_string(format!("/proc/{}/comm", process.as_raw_nonzero())).ok()
}

fn parent(process: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).ok()?;
    // The name before may have anything in it.
    let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?;
    parent.parse().ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_parents() {
        let own = rustix::process::getpid();
        assert_eq!(parent(own), getppid());
        assert!(name(own).is_some_and(|name| name.starts_with("offload")));
        assert!(main_daemon().is_some());
    }
}
