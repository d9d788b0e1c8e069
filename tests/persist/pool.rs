//! A pool with one machine behind a proxy, and the sessions that its head leaves open.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use offload::internals::state::Health;

use crate::lab::{BuildResult, Drv, Entry, Host, HostOptions, LONG, Lab, Process, Proxy, RunningBuild, wait_until};

pub const MIB: usize = 1 << 20;

/// The directory of the sockets of owners.
pub const PERSIST_DIRECTORY: &str = "/var/guix/offload/persist";

/// The setting `keep_connection`, in seconds: longer than any test.
pub const KEEP_CONNECTION: i32 = 600;

/// A machine behind a proxy, and the head.
pub struct Pool {
    pub lab: Lab,
    pub machine: Host,
    pub link: Proxy,
    pub head: Host,
}

impl Pool {
    pub fn new() -> Pool {
        Pool::with(|machine| machine, |head| head)
    }

    pub fn with(machine: fn(HostOptions) -> HostOptions, head: fn(HostOptions) -> HostOptions) -> Pool {
        let lab = Lab::with_substitutes();
        let machine = machine(lab.build_machine("b1")).start();
        let link = lab.proxy("link", machine.ssh_address());
        let head = head(lab.head().env("OFFLOAD_LOG", "debug")).start();
        let pool = Pool { lab, machine, link, head };
        pool.head.write_machines(&[pool.entry()]);
        pool
    }

    pub fn entry(&self) -> Entry {
        self.machine.entry().via(&self.link).set("keep_connection", KEEP_CONNECTION).set("compression", "none")
    }

    /// Builds without a probe before it, which would need a session. Only a failed machine does not get the build.
    #[track_caller]
    pub fn build(&self, drv: &Drv) -> BuildResult {
        self.start(drv).wait().succeeded()
    }

    /// Starts [`Pool::build`].
    pub fn start(&self, drv: &Drv) -> RunningBuild {
        self.head.mark_healthy(self.link.name());
        self.head.client().start(&[drv])
    }

    /// Returns the record of the machine.
    pub fn health(&self) -> Health {
        let found = Mutex::new(Health::default());
        self.head.change_health(self.link.name(), |health| {
            *found.lock().unwrap() = health.clone();
            health
        });
        found.into_inner().unwrap()
    }

    /// Returns the owners of sessions.
    pub fn owners(&self) -> Vec<Process> {
        let mut processes = self.head.processes();
        processes.retain(|process| process.name == "offload-session");
        processes
    }

    /// Returns the sockets of owners.
    pub fn sockets(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.head.path(PERSIST_DIRECTORY)).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Waits until exactly `count` sessions are open to later hooks.
    #[track_caller]
    pub fn await_idle(&self, count: usize) {
        wait_until(&format!("{count} sessions stay open"), LONG, || {
            self.owners().len() == count && self.sockets().len() == count
        });
    }

    /// Builds, and returns the owner of the only session that stays open afterwards.
    #[track_caller]
    pub fn owner_after(&self, drv: &Drv) -> Process {
        self.build(drv);
        self.await_idle(1);
        self.owners().remove(0)
    }

    /// Returns a derivation that was built on the head, whose output the head signs when it sends it.
    pub fn made_here(&self, name: &str, size: usize) -> Drv {
        let drv = Drv::new(name).script(&format!("head -c {size} /dev/urandom >$out"));
        self.head.client().no_offload().max_jobs(1).build(&[&drv]).succeeded();
        drv
    }

    /// Returns a derivation whose builder runs until [`Pool::release_builds`].
    pub fn long(&self, name: &str) -> Drv {
        Drv::new(name).script("echo here we are; until test -e /var/lab/go; do sleep 0.05; done; echo done >$out")
    }

    /// Lets the builders of [`Pool::long`] end.
    pub fn release_builds(&self) {
        self.machine.write("/var/lab/go", "");
    }

    /// Whether the machine has no SSH session, and its daemon no client.
    pub fn has_no_session(&self) -> bool {
        let processes = self.machine.processes();
        let count = |name: &str| processes.iter().filter(|process| process.name.starts_with(name)).count();
        count("sshd") == 1 && count("guix-daemon") == 1
    }
}

/// Whether a build used a session that was open before, according to its log.
pub fn is_reused(result: &BuildResult) -> bool {
    result.log.contains("debug: reuse: ")
}

/// Writes a machine file with two machines, of which the one behind the proxy is preferred.
pub fn prefer(pool: &Pool, link: Entry, near: &Host) {
    pool.head.write_machines(&[link.set("speed", 1000), near.entry().set("keep_connection", false)]);
}
