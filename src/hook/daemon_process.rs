//! The guix-daemon process that runs this hook: the kernel's view of its descriptors and children.
//!
//! guix-daemon has one process for each client. That process starts the hooks of the client, and waits for all of them
//! with select(2), which accepts no descriptor from 1,024 on: with one more, the C library ends the process. For each
//! hook the process holds two ends of the log pipe, one end of the reply pipe, the log file and a lock for each output.
//! It closes them only when it waits for its children, which it does not do while it has requests to make. It closes
//! one end of the log pipe of a build that the client itself requested only at the end of the client's request. This is
//! so from 1.2.0 to 1.5.0 (`Agent`, `Worker` and `LocalStore::buildPaths` in guix-daemon's sources), and was observed
//! with both.
//!
//! The process for each client is a child of the daemon itself. All these processes have the same name, so the last
//! ancestor of the hook that has the name of its parent is the daemon ([`main_daemon`]).
//!
//! [`crate::scheduler::admission`] makes the decisions.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::parent_id;
use std::path::Path;
use std::process::id;
use std::time::Duration;

use crate::permissions::passwd::accounts;
use rustix::process::{Pid, PidfdFlags, Resource, getrlimit, pidfd_open};

/// Descriptors from here on cannot be passed to select(2) (`FD_SETSIZE`).
const SELECT_LIMIT: u64 = 1024;

/// The unit of times in `/proc/PID/stat`: the same on all systems that Guix runs on (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// The process of guix-daemon that started this one.
#[derive(Clone, Debug)]
pub struct DaemonProcess {
    pid: u32,
    descriptor_limit: usize,
}

/// The children of a process: those that run, and those that have ended and were not waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Children {
    pub count: usize,
    /// The age of the median child, in the order of their starts.
    pub median_age: Duration,
}

impl DaemonProcess {
    /// Returns the daemon of this hook.
    pub fn of_this_hook() -> DaemonProcess {
        // The daemon starts its hook in a session of its own. The session leader is this process, or a program between
        // the two that did not exec this one.
        // In a PID name space the leader may be outside, and is then 0, which rustix's getsid takes for impossible.
        let leader = stat(id()).map(|own| own.session).filter(|&leader| leader != 0 && leader != id());
        let behind = leader.and_then(|leader| Some(stat(leader)?.parent));
        let pid = behind.filter(|&pid| pid != 0).unwrap_or_else(parent_id);
        DaemonProcess { pid, descriptor_limit: descriptor_limit(pid) }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns the number of descriptors that the daemon can use.
    pub fn descriptor_limit(&self) -> usize {
        self.descriptor_limit
    }

    /// Returns the number of its open descriptors. `None` if it cannot be read.
    pub fn open_descriptors(&self) -> Option<usize> {
        let directory = format!("/proc/{}/fd", self.pid);
        // Linux 6.2 and newer report the number here, so that no directory has to be listed.
        match fs::metadata(&directory).ok()?.len() {
            0 => Some(fs::read_dir(directory).ok()?.count()),
            count => usize::try_from(count).ok(),
        }
    }

    /// Returns its children. `None` if they cannot be read.
    pub fn children(&self) -> Option<Children> {
        let pids = self.listed_children().or_else(|| self.found_children())?;
        let uptime: f64 = fs::read_to_string("/proc/uptime").ok()?.split(' ').next()?.parse().ok()?;
        let median = stat(*pids.get(pids.len() / 2)?)?;
        let median_age = Duration::try_from_secs_f64(uptime - median.started).unwrap_or_default();
        Some(Children { count: pids.len(), median_age })
    }

    /// Returns the children in the order of their starts. Not all kernels have this file.
    fn listed_children(&self) -> Option<Vec<u32>> {
        let list = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid)).ok()?;
        list.split_whitespace().map(|pid| pid.parse().ok()).collect()
    }

    fn found_children(&self) -> Option<Vec<u32>> {
        let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut children: Vec<(f64, u32)> = pids
            .filter_map(|pid| Some((stat(pid)?, pid)))
            .filter(|(stat, _)| stat.parent == self.pid)
            .map(|(stat, pid)| (stat.started, pid))
            .collect();
        children.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        // This process, or an ancestor of it, is one of them.
        (!children.is_empty()).then(|| children.into_iter().map(|(_, pid)| pid).collect())
    }
}

/// Returns the soft limit of open files of a process. If it is unreadable, this process' own limit applies: a hook
/// inherits it from its daemon.
fn descriptor_limit(pid: u32) -> usize {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let soft = open_files(&limits).unwrap_or_else(|| getrlimit(Resource::Nofile).current.unwrap_or(SELECT_LIMIT));
    soft.min(SELECT_LIMIT) as usize
}

/// Parses the soft limit of open files from `/proc/PID/limits`.
fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        soft => soft.parse().ok(),
    }
}

#[derive(Debug, PartialEq)]
struct Stat {
    parent: u32,
    /// The session leader.
    session: u32,
    /// In seconds since the system started.
    started: f64,
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Parses `/proc/PID/stat`. The name of the program, in parentheses, may contain any text.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, fields) = text.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(1);
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let started: f64 = fields.nth(15)?.parse().ok()?;
    Some(Stat { parent, session, started: started / TICKS_PER_SECOND })
}

/// Opens a descriptor of the daemon's process; `None` if the system has none, or the daemon is not found.
pub fn main_daemon() -> Option<OwnedFd> {
    let mut daemon = DaemonProcess::of_this_hook().pid;
    let name = name(daemon)?;
    while let Some(parent) =
        stat(daemon).map(|stat| stat.parent).filter(|&parent| self::name(parent).as_ref() == Some(&name))
    {
        daemon = parent;
    }
    pidfd_open(Pid::from_raw(daemon.cast_signed())?, PidfdFlags::empty()).ok()
}

/// Returns the name of the user whose process is the client of the daemon, or the number of a user without an account;
/// `None` if it is not known, such as that of a client behind a socket of the network.
///
/// The daemon's process for a client has that client's process identifier instead of its first argument, as far as there
/// is room for it (`nix-daemon.cc`, from 1.2.0 to 1.5.0). A daemon without arguments does not tell it.
pub fn client_user() -> Option<String> {
    let daemon = DaemonProcess::of_this_hook().pid;
    let parent = stat(daemon)?.parent;
    let arguments = |process: u32| fs::read(format!("/proc/{process}/cmdline")).ok();
    let client = client_of(&arguments(daemon)?, &arguments(parent)?)?;
    let uid = real_user(&fs::read_to_string(format!("/proc/{client}/status")).ok()?)?;
    let account = accounts(Path::new("/")).into_iter().find(|account| account.uid == uid);
    Some(account.map_or_else(|| uid.to_string(), |account| account.name))
}

/// Returns the client's process identifier. `own` and `parents` are the arguments of the process for the client and of the
/// daemon itself, which has the first argument in full.
fn client_of(own: &[u8], parents: &[u8]) -> Option<u32> {
    let first = |arguments: &[u8]| arguments.split(|&byte| byte == 0).nth(1).map(<[u8]>::to_vec);
    let (own, parents) = (first(own)?, first(parents)?);
    // A longer number would be cut off without notice.
    if own == parents || own.len() >= parents.len() {
        return None;
    }
    str::from_utf8(&own).ok()?.parse().ok()
}

/// Parses the real user in `/proc/PID/status`.
fn real_user(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
}

fn name(process: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{process}/comm")).ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::{Command, Stdio};

    use super::*;

    fn this_process() -> DaemonProcess {
        let pid = std::process::id();
        DaemonProcess { pid, descriptor_limit: descriptor_limit(pid) }
    }

    #[test]
    fn the_client_replaces_the_first_argument_of_its_daemon() {
        let daemon = b"guix-daemon\0--disable-chroot\0--max-jobs=4\0";
        // strncpy fills the rest of the argument with zeros.
        let own = b"guix-daemon\x0031234\0\0\0\0\0\0\0\0\0\0\0\0--max-jobs=4\0";
        assert_eq!(client_of(own, daemon), Some(31234));
        assert_eq!(client_of(daemon, daemon), None);
        // Of a client behind a socket of the network the argument stays; a short argument has no room.
        assert_eq!(client_of(b"guix-daemon\012\0", b"guix-daemon\0-v\0"), None);
        assert_eq!(client_of(b"guix-daemon\0", b"guix-daemon\0"), None);
        assert_eq!(client_of(b"guix-daemon\0x1\0", b"guix-daemon\0--verbose\0"), None);
        let status = "Name:\tguix\nUmask:\t0022\nUid:\t1000\t0\t0\t0\nGid:\t5\t5\t5\t5\n";
        assert_eq!((real_user(status), real_user("Name:\tx\n")), (Some(1000), None));
    }

    #[test]
    fn descriptors_of_a_process_are_counted() {
        let process = this_process();
        let before = process.open_descriptors().unwrap();
        let files: Vec<File> = (0..300).map(|_| File::open("/dev/null").unwrap()).collect();
        // Other tests of this process open and close files concurrently.
        assert!(process.open_descriptors().unwrap() + 50 > before + files.len());
        let nobody = DaemonProcess { pid: u32::MAX, ..process };
        assert_eq!(nobody.open_descriptors(), None);
    }

    #[test]
    fn children_are_counted_until_they_are_waited_for() {
        let program = |pid| DaemonProcess { pid, descriptor_limit: 0 };
        // Some children of these shells have ended and some run; the shells wait for none of them.
        let script = "sleep 60 & sleep 60 & true & exec sleep 60";
        let mut parent = Command::new("setsid").args(["sh", "-c", script]).stdin(Stdio::null()).spawn().unwrap();
        let process = program(parent.id());
        while process.children().is_none_or(|children| children.count < 3) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(process.children().unwrap().count, 3);
        assert_eq!(process.found_children().unwrap().len(), 3);
        assert!(process.children().unwrap().median_age < Duration::from_secs(600));
        for pid in process.found_children().unwrap() {
            let _ = Command::new("kill").arg(pid.to_string()).status();
        }
        parent.kill().unwrap();
        parent.wait().unwrap();
    }

    #[test]
    fn the_limit_is_the_smaller_one() {
        let limits = |soft: &str| {
            let head = "Limit                     Soft Limit           Hard Limit           Units\n";
            format!(
                "{head}Max processes             7                    9                    processes\nMax open files            {soft:21}1048576              files\n"
            )
        };
        assert_eq!(open_files(&limits("512")), Some(512));
        assert_eq!(open_files(&limits("unlimited")), Some(u64::MAX));
        assert_eq!(open_files("Max open files"), None);
        assert_eq!(open_files(""), None);
        assert!((1..=1024).contains(&this_process().descriptor_limit()));
    }

    #[test]
    fn fields_are_read_after_any_program_name() {
        let fields = "S 41 7 8 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 99 98";
        let expected = Some(Stat { parent: 41, session: 8, started: 123.45 });
        for name in ["guix-daemon", "a b", ") S 9 9 ", "((("] {
            assert_eq!(parse_stat(&format!("12 ({name}) {fields}\n")), expected, "{name}");
        }
        for broken in ["", "12 (x)", "12 (x) S", "12 (x) S y", "12 (x) S 41 7"] {
            assert_eq!(parse_stat(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_process_has_its_name_and_parent() {
        assert_eq!(stat(id()).map(|stat| stat.parent), Some(parent_id()));
        assert!(name(id()).is_some_and(|name| name.starts_with("offload")));
        assert!(main_daemon().is_some());
    }
}
