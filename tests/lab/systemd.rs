//! A head that a real systemd boots, in a container of systemd-nspawn: the units of Debian's packages as they are.
//!
//! guix-daemon runs as the user `guix-daemon`, the store is writable in its own mount name space only, and nothing has
//! been set up. The container has the network of the thread that boots it ([`super::Lab::in_own_network`]), so that it
//! reaches the build machines of the lab, and a control group of its own, with which the script `supervisor` kills it.
//!
//! `/tmp` and `/run` are file systems of the container: from outside, [`Host::path`] shows what is below them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use super::host::Host;
use super::service::Service;
use super::{LONG, keys, wait_until};

/// Puts this thread, and what it starts from now on, into a network without any other address than that of the machine
/// itself.
pub fn unshare_network() {
    unshare(CloneFlags::CLONE_NEWNET).expect("no network name space: the lab needs root");
    let output = Command::new("ip").args(["link", "set", "lo", "up"]).output().expect("no ip: tests/setup installs it");
    assert!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes a root directory one that has not been booted before.
pub fn prepare(root: &Path) {
    // systemd writes a new identifier.
    fs::write(root.join("etc/machine-id"), "").unwrap();
    for file in fs::read_dir(root.join("etc/guix")).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    // The package has one, with the keys of the project's substitute servers.
    keys::install_acl(root, false);
    // No sshd, no prompt, and no downloads.
    for unit in ["ssh.service", "console-getty.service", "apt-daily.timer", "apt-daily-upgrade.timer"] {
        symlink("/dev/null", root.join("etc/systemd/system").join(unit))
            .unwrap_or_else(|error| panic!("{unit}: {error}"));
    }
}

/// A container in which systemd runs. Dropping it kills everything in it.
pub struct Container {
    service: Service,
    /// The process identifier of its systemd.
    init: u32,
}

impl Container {
    /// Boots the directory `root` below `directory`; returns when systemd runs.
    pub fn boot(directory: &Path, name: &str, log: &Path) -> Container {
        let network = directory.parent().unwrap().file_name().unwrap().to_str().unwrap();
        let group = unified_hierarchy().join(format!("offload-lab.{network}.{name}"));
        fs::create_dir(&group).unwrap_or_else(|error| panic!("no control group {}: {error}", group.display()));
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ >\"$0/cgroup.procs\" && exec systemd-nspawn \"$@\""]).arg(&group);
        command.args(["--quiet", "--boot", "--register=no", "--keep-unit", "--settings=no", "--console=read-only"]);
        command.args(["--link-journal=no", "--resolv-conf=off", "--timezone=off", "--hostname", name, "--directory"]);
        // Also on a machine whose own control groups are those of version 1.
        command.arg(directory.join("root")).env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        let mut service = Service::start(command, log);
        let mut init = None;
        wait_until("systemd-nspawn starts systemd", LONG, || {
            let said = || fs::read_to_string(log).unwrap_or_default();
            assert!(!service.has_ended(), "systemd-nspawn (tests/setup installs it) has ended: {}", said());
            init = child_named(service.pid(), "systemd");
            init.is_some()
        });
        Container { init: init.unwrap(), service }
    }

    pub fn has_ended(&mut self) -> bool {
        self.service.has_ended()
    }

    /// The words before a command that is to run in the container.
    pub fn enter(&self) -> Vec<String> {
        ["nsenter", "--all", "--target"]
            .map(str::to_owned)
            .into_iter()
            .chain([self.init.to_string(), "--".into()])
            .collect()
    }
}

/// Waits until systemd has started all units; fails if one of them has failed.
pub fn await_running(host: &Host) {
    let output = host.command("systemctl").args(["is-system-running", "--wait"]).output().unwrap();
    let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if state != "running" {
        let failed = host.command("systemctl").args(["--failed", "--no-pager"]).output().unwrap();
        panic!("systemd on {} is {state}: {}", host.name(), String::from_utf8_lossy(&failed.stdout));
    }
}

/// Returns the lines of the daemon in the journal.
pub fn journal(host: &Host) -> String {
    let output = host.command("journalctl").args(["--unit=guix-daemon", "--no-pager"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// Where control groups of version 2 are mounted.
fn unified_hierarchy() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    line.and_then(|line| line.split(' ').nth(4)).expect("no control groups of version 2 are mounted").into()
}

/// A child of a process that runs this program.
fn child_named(parent: u32, name: &str) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    let mut pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.find(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name))
}
