//! The processes of a host: those whose root directory is the host's.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use super::{LONG, wait_until};

/// A process of a host.
#[derive(Clone, Debug)]
pub struct Process {
    pub pid: u32,
    /// The process identifier of its parent.
    pub parent: u32,
    /// The program's name as the kernel has it, 15 bytes at the most.
    pub name: String,
    /// The command line, joined with blanks.
    pub command: String,
}

impl Process {
    /// Sends a signal; it may be gone.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid as i32) {
            let _ = kill_process(pid, signal);
        }
    }

    /// The most memory that it ever had resident, in bytes.
    pub fn peak_memory(&self) -> u64 {
        peak_memory_of(&self.pid.to_string())
    }
}

/// The processes whose root directory is `root`, or below it.
pub fn processes(root: &Path) -> Vec<Process> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let directory = entry.path();
        // A process that ends meanwhile has no link any more.
        if !fs::read_link(directory.join("root")).is_ok_and(|link| link.starts_with(root)) {
            continue;
        }
        let stat = fs::read_to_string(directory.join("stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|fields| fields.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
        let name = fs::read_to_string(directory.join("comm")).unwrap_or_default().trim_end().to_owned();
        let arguments = fs::read(directory.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&arguments).trim_end_matches('\0').replace('\0', " ");
        found.push(Process { pid, parent, name, command });
    }
    found
}

/// Sends `signal` to all processes in `root` that `choose` picks, and again to those that have come meanwhile.
pub fn signal_all(root: &Path, signal: Signal, choose: impl Fn(&Process) -> bool) {
    let mut reached = Vec::new();
    loop {
        let mut fresh = processes(root);
        fresh.retain(|process| choose(process) && !reached.contains(&process.pid));
        if fresh.is_empty() {
            return;
        }
        for process in fresh {
            process.signal(signal);
            reached.push(process.pid);
        }
    }
}

/// Kills all processes in `root` that `choose` picks; returns when they are gone, and with them their locks and
/// sockets.
pub fn kill_all(root: &Path, choose: impl Fn(&Process) -> bool) {
    wait_until("what was killed is gone", LONG, || {
        signal_all(root, Signal::KILL, &choose);
        !processes(root).iter().any(&choose)
    });
}

/// Kills a process in `root` and all that descend from it.
pub fn kill_tree(root: &Path, pid: u32) {
    // A stopped process makes no more children, and no child becomes an orphan of unknown origin.
    let mut tree = vec![pid];
    loop {
        signal_all(root, Signal::STOP, |process| tree.contains(&process.pid));
        let mut children = processes(root);
        children.retain(|process| tree.contains(&process.parent) && !tree.contains(&process.pid));
        if children.is_empty() {
            break;
        }
        tree.extend(children.iter().map(|process| process.pid));
    }
    kill_all(root, |process| tree.contains(&process.pid));
}

/// When a process started, in seconds since the machine did; `None` if it has ended.
pub fn started(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // `starttime` is field 22; the name, field 2, may contain anything.
    let ticks: f64 = stat.rsplit(") ").next()?.split(' ').nth(19)?.parse().ok()?;
    // Linux shows hundredths of a second to programs (USER_HZ).
    Some(ticks / 100.0)
}

/// The most memory that this process ever had resident, in bytes.
pub fn peak_memory() -> u64 {
    peak_memory_of("self")
}

fn peak_memory_of(pid: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}
