//! The options of a host, and its start.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use offload::internals::machine::HostKeyKind;

use super::host::Host;
use super::roots::made_by_setup;
use super::supervisor::Supervisor;
use super::{SSH_PORT, keys, systemd, unprivileged};

/// The Debian release of a host, and with it the version of its Guix and its sshd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Guix 1.5.0 or newer.
    Sid,
    /// Guix 1.2.0. A program built on the machine does not run there by itself: a head gets the libraries of the machine
    /// along with the hook, by `packaging/bundle`.
    Bullseye,
}

/// Both.
pub const RELEASES: [Release; 2] = [Release::Sid, Release::Bullseye];

/// The build hook of a host's daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hook {
    /// The program under test.
    Offload,
    /// The `guix offload` of the host's own Guix.
    Upstream,
    /// A program in the host's root directory that the daemon runs instead of `guix`.
    Program(String),
    /// No hook: nothing is offloaded.
    None,
}

/// The options of a host; [`start`](HostOptions::start) starts it.
pub struct HostOptions {
    supervisor: Arc<Supervisor>,
    pub(super) name: String,
    pub(super) release: Release,
    pub(super) hook: Hook,
    pub(super) max_jobs: u32,
    pub(super) daemon_arguments: Vec<String>,
    pub(super) substitute_urls: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) descriptor_limit: Option<u32>,
    program: PathBuf,
    pub(super) account: String,
    pub(super) host_keys: Vec<HostKeyKind>,
    sshd: bool,
    sshd_options: Vec<String>,
    open: bool,
    trusted: bool,
    trusting: bool,
    pub(super) unprivileged: bool,
    pub(super) systemd: bool,
}

impl HostOptions {
    pub(super) fn new(supervisor: Arc<Supervisor>, name: &str) -> HostOptions {
        HostOptions {
            supervisor,
            name: name.to_owned(),
            release: Release::Sid,
            hook: Hook::None,
            max_jobs: 1,
            daemon_arguments: Vec::new(),
            substitute_urls: Vec::new(),
            environment: Vec::new(),
            descriptor_limit: None,
            program: env!("CARGO_BIN_EXE_offload").into(),
            account: "root".to_owned(),
            host_keys: vec![HostKeyKind::Ed25519],
            sshd: true,
            sshd_options: Vec::new(),
            open: true,
            trusted: true,
            trusting: true,
            unprivileged: false,
            systemd: false,
        }
    }

    /// The host's name, for a second head or the like. Default `head` for a head.
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// Default: sid.
    pub fn release(mut self, release: Release) -> Self {
        self.release = release;
        self
    }

    /// Default: `offload` on a head, none on a build machine.
    pub fn hook(mut self, hook: Hook) -> Self {
        self.hook = hook;
        self
    }

    /// The daemon's `--max-jobs`. Default: 0 on a head, 4 on a build machine.
    pub fn max_jobs(mut self, jobs: u32) -> Self {
        self.max_jobs = jobs;
        self
    }

    /// The daemon has substitutes on, with one more server: what `guix publish` serves at this address
    /// ([`Host::publish`]), be it through a proxy. Without a server it has them off.
    pub fn substitute_server(mut self, address: SocketAddr) -> Self {
        self.substitute_urls.push(format!("http://{address}"));
        self
    }

    /// One more argument for guix-daemon.
    pub fn daemon_argument(mut self, argument: &str) -> Self {
        self.daemon_arguments.push(argument.to_owned());
        self
    }

    /// One more variable in guix-daemon's environment, which its hook inherits. It has no HOME otherwise, as under
    /// systemd.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// How many descriptors each process of guix-daemon may have, `ulimit -n`.
    pub fn descriptor_limit(mut self, limit: u32) -> Self {
        self.descriptor_limit = Some(limit);
        self
    }

    /// The file that is the hook `offload`. Default: the program under test.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// Whether sshd runs. Default: on build machines only.
    pub fn sshd(mut self, sshd: bool) -> Self {
        self.sshd = sshd;
        self
    }

    /// A line for sshd's configuration, before those of the lab: sshd takes the first that it finds.
    pub fn sshd_option(mut self, line: &str) -> Self {
        self.sshd_options.push(line.to_owned());
        self
    }

    /// The types of host key that sshd shows. The first is in the host's machine entry. Default: Ed25519 alone.
    pub fn host_keys(mut self, kinds: &[HostKeyKind]) -> Self {
        self.host_keys = kinds.to_vec();
        self
    }

    /// The account in the host's machine entry: `root` (the default) or `offload` (uid 1000).
    pub fn account(mut self, account: &str) -> Self {
        self.account = account.to_owned();
        self
    }

    /// No user key opens an account.
    pub fn closed(mut self) -> Self {
        self.open = false;
        self
    }

    /// The host signs with a key that no other host trusts.
    pub fn untrusted(mut self) -> Self {
        self.trusted = false;
        self
    }

    /// The host trusts no other host's signing key.
    pub fn untrusting(mut self) -> Self {
        self.trusting = false;
        self
    }

    /// The daemon runs as the user `guix-daemon`, as in the service unit of Guix 1.5, and owns the directories that
    /// the manual of Guix names. For all others the store is read-only.
    pub fn unprivileged(mut self) -> Self {
        self.unprivileged = true;
        self
    }

    /// systemd boots the host, with what the packages of Debian have installed and nothing else: no key, no machine file,
    /// no sshd, and the daemon of the package's unit. See [`systemd`].
    pub(super) fn systemd(mut self) -> Self {
        self.systemd = true;
        self
    }

    /// Brings the host up; returns when its daemon and its sshd answer.
    pub fn start(self) -> Host {
        let base = made_by_setup(match self.release {
            Release::Sid => "sid",
            Release::Bullseye => "bullseye",
        });
        let address = self.supervisor.next_address();
        self.supervisor.add_name(&self.name, address);
        let (number, directory) = self.supervisor.add_host(&self.name, &base, self.systemd);
        let root = directory.join("root");
        if self.systemd {
            systemd::prepare(&root);
            let supervisor = Arc::clone(&self.supervisor);
            let host = Host::new(self, number, address, directory, supervisor);
            host.boot();
            return host;
        }

        keys::install_signing_key(&root, self.trusted.then_some(number));
        keys::install_acl(&root, self.trusting);
        keys::install_user_keys(&root);
        if self.open {
            keys::authorize_users(&root);
        }
        if self.hook == Hook::Offload {
            match self.release {
                Release::Sid => install_offload(&self.program, &root.join("opt/offload")),
                Release::Bullseye => install_bundle(&self.program, &root.join("opt/offload")),
            }
        }
        let host_keys = keys::install_host_keys(&root, number, &self.host_keys);
        let configuration = self.sshd_configuration(&host_keys, &address.to_string());
        std::fs::write(root.join("etc/ssh/sshd_config"), configuration).unwrap();

        if self.unprivileged {
            unprivileged::give_files(&root);
        }
        let (supervisor, sshd) = (Arc::clone(&self.supervisor), self.sshd);
        let host = Host::new(self, number, address, directory, supervisor);
        host.start_services(sshd);
        host
    }

    fn sshd_configuration(&self, host_keys: &str, address: &str) -> String {
        let mut lines: String = self.sshd_options.iter().map(|line| format!("{line}\n")).collect();
        lines += host_keys;
        lines += &format!("ListenAddress {address}\nPort {SSH_PORT}\n");
        lines += "PermitRootLogin yes\nUsePAM no\nPrintMotd no\nLogLevel VERBOSE\n";
        if self.release == Release::Sid {
            // Else it turns away an address from which connections have been broken off, and all come from one.
            lines += "PerSourcePenalties no\n";
        }
        lines
    }
}

/// Puts `program` in `directory` as `offload`, and a link `guix` to it.
fn install_offload(program: &Path, directory: &Path) {
    std::fs::create_dir_all(directory).unwrap();
    std::fs::copy(program, directory.join("offload")).expect("the program cannot be copied into the head");
    std::os::unix::fs::symlink("offload", directory.join("guix")).unwrap();
}

/// Puts `program` in `directory` with the loader and the libraries of this machine.
fn install_bundle(program: &Path, directory: &Path) {
    std::fs::create_dir_all(directory.parent().unwrap()).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/bundle");
    let output = Command::new(script).arg("--program").arg(program).arg(directory).output().unwrap();
    assert!(output.status.success(), "packaging/bundle: {}", String::from_utf8_lossy(&output.stderr));
}
