//! The lab: real Guix pools on one machine.
//!
//! A [`Lab`] is a directory, a network of loopback addresses and a few [`Host`]s. A host is a root directory of its own
//! (an overlay over one of those that `tests/setup` makes) in which a real guix-daemon and a real sshd run. Many labs
//! can be up at the same time, in threads of a test program and in several programs; all needs root.
//!
//! ```ignore
//! let lab = Lab::new();
//! let b1 = lab.build_machine("b1").max_jobs(2).start();
//! let head = lab.head().env("OFFLOAD_LOG", "debug").start();
//! head.write_machines(&[b1.entry().set("speed", 2.0)]);
//! let hello = Drv::new("hello").script("echo hi >$out");
//! let result = head.build(&[&hello]).succeeded();
//! assert_eq!(head.read(result.output("hello")), b"hi\n");
//! assert_eq!(b1.builds().len(), 1);
//! ```
//!
//! All of it is taken down when the last of `Lab` and its hosts is dropped, be it by a panic, and when the test process
//! is killed: the script `supervisor` beside this file ensures this.
//!
//! Names, keys and trust in a lab:
//! - every host knows every other by name (`/etc/hosts`); sshd listens on port [`SSH_PORT`] of the host's own address;
//! - every host trusts the signing keys of all the others, unless an option says otherwise;
//! - a head has the users' private keys in [`USER_KEYS`]: `ed25519`, `ecdsa`, `rsa`, `passphrase` (encrypted) open
//!   root's account and that of `offload` on all hosts, `stranger` opens none;
//! - a host's clock, load and memory are those of the machine.

// Each test program uses a part of this, and what goes wrong here is a failed test.
#![allow(dead_code, unused_imports)]

mod client;
mod command;
mod derivation;
mod direct;
mod entry;
mod host;
mod keys;
mod options;
mod postgres;
mod processes;
mod proxy;
mod record;
mod roots;
mod service;
mod state;
mod store;
mod supervisor;
mod systemd;
mod unprivileged;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use client::{BuildResult, Client, RunningBuild};
pub use command::{Said, derivations, drv};
pub use derivation::Drv;
pub use direct::{Direct, Made};
pub use entry::{Entry, Value};
pub use host::Host;
pub use options::{Hook, HostOptions, RELEASES, Release};
pub use postgres::{PASSWORD, Postgres};
pub use processes::{Process, peak_memory, processes};
pub use proxy::{Direction, Proxy};
pub use record::{BuildRecord, max_concurrency, uptime};
pub use rustix::process::Signal;
pub use store::PathInfo;

use supervisor::Supervisor;

/// Where sshd listens in all hosts: not 22, since an sshd of the machine itself may listen there on all addresses.
pub const SSH_PORT: u16 = 2022;

/// Where a head has the private keys of its users.
pub const USER_KEYS: &str = "/etc/guix/keys";

/// The system type of all hosts.
pub const SYSTEM: &str = if cfg!(target_arch = "aarch64") { "aarch64-linux" } else { "x86_64-linux" };

/// How long something is waited for that takes a moment, on a machine with much else to do.
pub const LONG: Duration = Duration::from_secs(60);

/// A pool that stands by itself.
pub struct Lab {
    supervisor: Arc<Supervisor>,
    /// The substitute server of the build machines, and its address.
    server: Option<(Host, SocketAddr)>,
}

impl Lab {
    /// An empty lab. Clears what dead labs have left.
    pub fn new() -> Lab {
        Lab { supervisor: Arc::new(Supervisor::start()), server: None }
    }

    /// An empty lab in a network of its own, in which all ports are free. This thread and what it starts are in it from
    /// now on.
    pub fn in_own_network() -> Lab {
        systemd::unshare_network();
        Lab::new()
    }

    /// An empty lab whose build machines have substitutes on, as real ones have: a host `server` publishes its store.
    pub fn with_substitutes() -> Lab {
        let mut lab = Lab::new();
        let server = lab.daemon("server", Release::Sid).start();
        let address = server.publish();
        lab.server = Some((server, address));
        lab
    }

    /// The names of the items about which the substitute server was asked, or that were downloaded there: requests, one
    /// a line.
    pub fn substitute_requests(&self) -> Vec<String> {
        let (server, _) = self.server.as_ref().expect("the lab has no substitute server");
        let log = server.publish_log();
        log.lines().filter(|line| line.starts_with("GET ")).map(str::to_owned).collect()
    }

    /// A build machine: daemon and sshd, four jobs, no hook. Substitutes are on in a lab that has a server for them.
    pub fn build_machine(&self, name: &str) -> HostOptions {
        let host = HostOptions::new(Arc::clone(&self.supervisor), name).max_jobs(4).sshd(true).hook(Hook::None);
        match &self.server {
            Some((_, address)) => host.substitute_server(*address),
            None => host,
        }
    }

    /// A daemon and nothing else: four jobs, no hook, no sshd.
    pub fn daemon(&self, name: &str, release: Release) -> HostOptions {
        self.build_machine(name).release(release).sshd(false)
    }

    /// A head: a daemon without local builds whose hook is `offload`, no sshd.
    pub fn head(&self) -> HostOptions {
        HostOptions::new(Arc::clone(&self.supervisor), "head").max_jobs(0).sshd(false).hook(Hook::Offload)
    }

    /// A head that systemd boots: see [`systemd`]. Only one lab in its own network can have one.
    pub fn systemd_head(&self) -> Host {
        HostOptions::new(Arc::clone(&self.supervisor), "head").systemd().start()
    }

    /// A proxy that passes TCP connections on to `target`, with the requested faults. Hosts that start later know it
    /// by `name`.
    pub fn proxy(&self, name: &str, target: SocketAddr) -> Proxy {
        let address = self.supervisor.next_address();
        self.supervisor.add_name(name, address);
        Proxy::start(name, SocketAddr::from((address, SSH_PORT)), target)
    }

    /// One more name for a host, or whatever has this address.
    pub fn add_name(&self, name: &str, address: Ipv4Addr) {
        self.supervisor.add_name(name, address);
    }

    /// An address of this lab where nothing listens.
    pub fn unused_address(&self) -> Ipv4Addr {
        self.supervisor.next_address()
    }

    /// A host key, in OpenSSH form, that no host has.
    pub fn stranger_host_key(&self) -> String {
        keys::stranger_host_key()
    }

    /// The secret half of a signing key that nobody trusts; the public half is beside it.
    pub fn stranger_signing_key(&self) -> std::path::PathBuf {
        roots::made_by_setup("keys").join("stranger/signing-key.sec")
    }

    /// The directory that holds everything of this lab.
    pub fn directory(&self) -> &Path {
        self.supervisor.directory()
    }
}

/// Runs `recsel` of GNU recutils on these records, and returns what it prints.
pub fn recsel(records: &str, arguments: &[&str]) -> String {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut recsel = Command::new("recsel");
    let mut recsel = recsel.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let recsel_process = recsel.as_mut().expect("recsel; tests/setup installs it");
    recsel_process.stdin.take().unwrap().write_all(records.as_bytes()).unwrap();
    let output = recsel.unwrap().wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{arguments:?}: {errors}:\n{records}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until `condition` holds; panics with `what` after `limit`.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
