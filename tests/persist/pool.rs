//! A pool with one machine behind a proxy, and the connections that its head keeps.

use std::fs;
use std::path::PathBuf;

use crate::lab::{BuildResult, Drv, Entry, Host, HostOptions, LONG, Lab, Process, Proxy, RunningBuild, wait_until};

pub const MIB: usize = 1 << 20;

/// Where the sockets of kept connections are.
pub const PERSIST_DIRECTORY: &str = "/var/guix/offload/persist";

/// In seconds: longer than any test.
pub const FOR_LONG: i32 = 600;

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
        let lab = Lab::new();
        let machine = machine(lab.build_machine("b1")).start();
        let link = lab.proxy("link", machine.ssh_address());
        let head = head(lab.head().env("OFFLOAD_LOG", "debug")).start();
        let pool = Pool { lab, machine, link, head };
        pool.head.write_machines(&[pool.entry()]);
        pool
    }

    pub fn entry(&self) -> Entry {
        self.machine.entry().via(&self.link).set("keep_connection", FOR_LONG).set("compression", "none")
    }

    /// Builds on the machine, unless it fails there, without asking it how it is, which would take a connection.
    #[track_caller]
    pub fn build(&self, drv: &Drv) -> BuildResult {
        self.start(drv).wait().succeeded()
    }

    pub fn start(&self, drv: &Drv) -> RunningBuild {
        self.head.mark_healthy(self.link.name());
        self.head.client().start(&[drv])
    }

    /// The processes that own sessions.
    pub fn holders(&self) -> Vec<Process> {
        let mut processes = self.head.processes();
        processes.retain(|process| process.name == "offload-session");
        processes
    }

    pub fn sockets(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.head.path(PERSIST_DIRECTORY)).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Waits until there are so many sessions for all.
    #[track_caller]
    pub fn await_idle(&self, count: usize) {
        wait_until(&format!("{count} sessions are kept"), LONG, || {
            self.holders().len() == count && self.sockets().len() == count
        });
    }

    /// Builds, and returns the process that keeps the only connection then.
    #[track_caller]
    pub fn kept_by(&self, drv: &Drv) -> Process {
        self.build(drv);
        self.await_idle(1);
        self.holders().remove(0)
    }

    /// An output of the head's own, which must be signed to be imported elsewhere.
    pub fn made_here(&self, name: &str, size: usize) -> Drv {
        let drv = Drv::new(name).script(&format!("head -c {size} /dev/urandom >$out"));
        self.head.client().no_offload().max_jobs(1).build(&[&drv]).succeeded();
        drv
    }

    /// A build that goes on until [`Pool::let_go`].
    pub fn long(&self, name: &str) -> Drv {
        Drv::new(name).script("echo here we are; until test -e /var/lab/go; do sleep 0.05; done; echo done >$out")
    }

    pub fn let_go(&self) {
        self.machine.write("/var/lab/go", "");
    }

    /// Nobody is logged in to the machine, and its daemon serves nobody.
    pub fn is_left(&self) -> bool {
        let processes = self.machine.processes();
        let count = |name: &str| processes.iter().filter(|process| process.name.starts_with(name)).count();
        count("sshd") == 1 && count("guix-daemon") == 1
    }
}

/// Whether a build was done over a connection that was kept, going by its log.
pub fn is_reused(result: &BuildResult) -> bool {
    result.log.contains("debug: borrow: ")
}

/// The machine behind the proxy is the better one of two.
pub fn prefer(pool: &Pool, link: Entry, near: &Host) {
    pool.head.write_machines(&[link.set("speed", 1000), near.entry().set("keep_connection", false)]);
}
