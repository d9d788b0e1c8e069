//! A host: its files, commands, daemon and sshd.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use offload::internals::daemon::Client;
use offload::internals::machine::HostKeyKind;
use offload::internals::store::path::StoreDir;
use rustix::process::Signal;

use super::entry::Entry;
use super::options::{Hook, HostOptions};
use super::processes::{Process, kill_all, kill_tree, processes, signal_all};
use super::service::Service;
use super::supervisor::Supervisor;
use super::systemd::{self, Container};
use super::{LONG, SSH_PORT, keys, unprivileged, wait_until};

/// Where `guix publish` listens.
const PUBLISH_PORT: u16 = 8181;
const DAEMON_SOCKET: &str = "/var/guix/daemon-socket/socket";

/// A head or a build machine that is up. Paths are inside its root directory, except where noted.
pub struct Host {
    pub(super) options: HostOptions,
    number: usize,
    address: Ipv4Addr,
    directory: PathBuf,
    root: PathBuf,
    daemon: Mutex<Option<Service>>,
    sshd: Mutex<Option<Service>>,
    publish: Mutex<Option<Service>>,
    /// Where systemd runs it.
    container: Mutex<Option<Container>>,
    // The last field: dropped after the services.
    _supervisor: Arc<Supervisor>,
}

impl Host {
    pub(super) fn new(
        options: HostOptions,
        number: usize,
        address: Ipv4Addr,
        directory: PathBuf,
        supervisor: Arc<Supervisor>,
    ) -> Host {
        let root = directory.join("root");
        let [daemon, sshd, publish] = [const { Mutex::new(None) }; 3];
        let container = Mutex::new(None);
        Host { options, number, address, directory, root, daemon, sshd, publish, container, _supervisor: supervisor }
    }

    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Its root directory, seen from outside.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where `inside`, an absolute path, is seen from outside.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        self.root.join(inside.strip_prefix("/").unwrap_or_else(|_| panic!("{} is relative", inside.display())))
    }

    /// The contents of a file.
    pub fn read(&self, inside: impl AsRef<Path>) -> Vec<u8> {
        fs::read(self.path(inside.as_ref())).unwrap_or_else(|error| panic!("{}: {error}", inside.as_ref().display()))
    }

    /// Writes a file, and the directories above it.
    pub fn write(&self, inside: impl AsRef<Path>, contents: impl AsRef<[u8]>) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Writes `/etc/guix/machines.lua`.
    pub fn write_machine_file(&self, text: &str) {
        self.write("/etc/guix/machines.lua", text);
    }

    /// Writes the machine file that the hook of this head reads: in Lua, or in Scheme for upstream's hook.
    pub fn write_machines(&self, entries: &[Entry]) {
        match self.options.hook {
            Hook::Upstream => self.write("/etc/guix/machines.scm", super::entry::scheme_file(entries)),
            _ => self.write_machine_file(&super::entry::lua_file(entries)),
        }
    }

    /// The entry for this host in a machine file, to be changed with [`Entry::set`].
    pub fn entry(&self) -> Entry {
        Entry::new(self.name(), SSH_PORT)
            .set("user", self.options.account.as_str())
            .set("host_key", self.host_key(self.options.host_keys[0]))
            .set("parallel_builds", f64::from(self.options.max_jobs))
    }

    /// Its public host key of a type, in OpenSSH form.
    pub fn host_key(&self, kind: HostKeyKind) -> String {
        keys::host_key(self.number, kind)
    }

    /// Where its sshd listens.
    pub fn ssh_address(&self) -> SocketAddr {
        SocketAddr::from((self.address, SSH_PORT))
    }

    /// The socket of its daemon, seen from outside.
    pub fn daemon_socket(&self) -> PathBuf {
        self.path(DAEMON_SOCKET)
    }

    /// A connection to its daemon.
    pub fn connect_to_daemon(&self) -> UnixStream {
        let socket = self.daemon_socket();
        UnixStream::connect(&socket).unwrap_or_else(|error| panic!("{}: {error}", socket.display()))
    }

    /// A command to be run in the host as root. Its process is the program itself, in the directory `/`.
    pub fn command(&self, program: &str) -> Command {
        // A shell that starts tests in the background ignores SIGINT for them, and children would inherit this.
        let mut command = Command::new("env");
        command.arg("--default-signal=INT,QUIT");
        match &*self.container.lock().unwrap() {
            // The same program, but as the child of nsenter: only so it is in the container's name space of processes.
            Some(container) => command.args(container.enter()),
            None => command.arg("chroot").arg(&self.root),
        };
        command.arg(program).env_clear();
        command.envs([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root"), ("LC_ALL", "C.UTF-8")]);
        command
    }

    /// Runs a command to its end; panics if it fails. Returns what it printed on its standard output.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}: {program} {arguments:?}: {}", self.name(), both(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs Guile code that may use the modules of Guix, with `arguments` after the script's name in `(command-line)`.
    pub fn guile(&self, code: &str, arguments: &[&str]) -> Output {
        let script = format!("/tmp/script-{}.scm", super::client::serial());
        self.write(&script, code);
        self.command("guix").args(["repl", "--", &script]).args(arguments).output().unwrap()
    }

    /// Starts the daemon, and sshd if asked for; returns when they answer.
    pub(super) fn start_services(&self, sshd: bool) {
        self.spawn_daemon();
        if sshd {
            self.start_sshd();
        }
        self.await_daemon();
    }

    /// Boots it; returns when the daemon answers and systemd has started everything.
    pub(super) fn boot(&self) {
        let container = Container::boot(&self.directory, self.name(), &self.log_file("boot"));
        *self.container.lock().unwrap() = Some(container);
        self.await_unit();
        systemd::await_running(self);
    }

    /// Waits until the daemon of the unit answers.
    pub fn await_unit(&self) {
        let socket = self.daemon_socket();
        wait_until(&format!("systemd on {} has started guix-daemon", self.name()), LONG, || {
            let ended = self.container.lock().unwrap().as_mut().is_none_or(Container::has_ended);
            assert!(!ended, "{} does not boot:\n{}", self.name(), self.log("boot"));
            UnixStream::connect(&socket).is_ok()
        });
    }

    pub fn start_daemon(&self) {
        self.spawn_daemon();
        self.await_daemon();
    }

    fn spawn_daemon(&self) {
        let options = &self.options;
        let mut command = if options.unprivileged {
            unprivileged::stop_read_only_store(&self.root);
            unprivileged::daemon_command(self)
        } else if let Some(limit) = options.descriptor_limit {
            let mut command = self.command("sh");
            command.args(["-c", &format!("ulimit -n {limit} && exec guix-daemon \"$@\""), "guix-daemon"]);
            command
        } else {
            self.command("guix-daemon")
        };
        let substitutes = match &*options.substitute_urls {
            [] => "--no-substitutes".to_owned(),
            urls => format!("--substitute-urls={}", urls.join(" ")),
        };
        command.args(["--disable-chroot", &substitutes, &format!("--max-jobs={}", options.max_jobs)]);
        command.args(&options.daemon_arguments).env_remove("HOME");
        match &options.hook {
            Hook::Offload => drop(command.env("GUIX", "/opt/offload/guix")),
            Hook::Program(program) => drop(command.env("GUIX", program)),
            Hook::Upstream => {}
            Hook::None => drop(command.arg("--no-offload")),
        }
        command.envs(options.environment.iter().map(|(name, value)| (name, value)));
        let _ = fs::remove_file(self.daemon_socket());
        *self.daemon.lock().unwrap() = Some(Service::start(command, &self.log_file("daemon")));
    }

    fn await_daemon(&self) {
        let socket = self.daemon_socket();
        // A daemon makes its directories and its database for its first client, and may fail when two come at once: so
        // the first one comes alone, and is waited for.
        let greet = |stream: UnixStream| {
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            drop(Client::connect(stream, StoreDir::default()));
        };
        self.wait_for("guix-daemon", &self.daemon, || {
            socket.exists() && UnixStream::connect(&socket).map(greet).is_ok()
        });
        if self.options.unprivileged {
            unprivileged::start_read_only_store(&self.root);
        }
    }

    /// Kills the daemon and its descendants, builds and hooks among them, as an init system does.
    pub fn stop_daemon(&self) {
        if let Some(daemon) = self.daemon.lock().unwrap().take() {
            kill_tree(&self.root, daemon.pid());
        }
    }

    pub fn start_sshd(&self) {
        let mut command = self.command("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f", "/etc/ssh/sshd_config"]).env_remove("HOME");
        *self.sshd.lock().unwrap() = Some(Service::start(command, &self.log_file("sshd")));
        self.wait_for("sshd", &self.sshd, || listens(self.ssh_address()));
    }

    /// Kills sshd with all its sessions.
    pub fn stop_sshd(&self) {
        drop(self.sshd.lock().unwrap().take());
        kill_all(&self.root, |process| process.name.starts_with("sshd"));
    }

    /// Serves its store to other daemons by `guix publish`, uncompressed; returns the address once it answers.
    pub fn publish(&self) -> SocketAddr {
        let address = SocketAddr::from((self.address, PUBLISH_PORT));
        let mut command = self.command("guix");
        let listen = format!("--listen={}", address.ip());
        command.args(["publish", "--user=root", "--compression=none", &listen, &format!("--port={PUBLISH_PORT}")]);
        *self.publish.lock().unwrap() = Some(Service::start(command, &self.log_file("publish")));
        self.wait_for("guix publish", &self.publish, || listens(address));
        address
    }

    /// The log of `guix publish`, a line for each request.
    pub fn publish_log(&self) -> String {
        self.log("publish")
    }

    fn wait_for(&self, program: &str, service: &Mutex<Option<Service>>, ready: impl Fn() -> bool) {
        wait_until(&format!("{program} on {} answers", self.name()), LONG, || {
            let ended = service.lock().unwrap().as_mut().is_none_or(Service::has_ended);
            assert!(!ended, "{program} on {} has ended:\n{}{}", self.name(), self.daemon_log(), self.sshd_log());
            ready()
        });
    }

    /// Returns the log of the daemon.
    pub fn daemon_log(&self) -> String {
        self.log("daemon")
    }

    /// The log that the daemon keeps of the last build of a derivation.
    pub fn build_log(&self, derivation: impl AsRef<Path>) -> String {
        let name = derivation.as_ref().file_name().unwrap().to_str().unwrap();
        self.run("zcat", &[&format!("/var/log/guix/drvs/{}/{}.gz", &name[..2], &name[2..])])
    }

    /// What sshd has said.
    pub fn sshd_log(&self) -> String {
        self.log("sshd")
    }

    /// Its processes, the daemon and sshd among them.
    pub fn processes(&self) -> Vec<Process> {
        processes(&self.root)
    }

    /// Stops all its processes where they are. Its sockets stay open, and nobody answers.
    pub fn freeze(&self) {
        signal_all(&self.root, Signal::STOP, |_| true);
    }

    /// Stops all processes of its daemon where they are.
    pub fn freeze_daemon(&self) {
        signal_all(&self.root, Signal::STOP, |process| process.name == "guix-daemon");
    }

    /// Continues all its processes.
    pub fn thaw(&self) {
        signal_all(&self.root, Signal::CONT, |_| true);
    }

    /// Kills all its processes. [`start_daemon`](Host::start_daemon) and [`start_sshd`](Host::start_sshd)
    /// start them again.
    pub fn power_off(&self) {
        kill_all(&self.root, |_| true);
        drop(self.daemon.lock().unwrap().take());
        drop(self.sshd.lock().unwrap().take());
        drop(self.publish.lock().unwrap().take());
    }

    pub(super) fn log_file(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    fn log(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file(name)).unwrap_or_default()).into_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The files will be removed, and with them the reason why the test failed.
            let boots = self.container.lock().is_ok_and(|container| container.is_some());
            for name in if boots { &["boot", "journal"][..] } else { &["daemon", "sshd"] } {
                let log = if *name == "journal" { systemd::journal(self) } else { self.log(name) };
                let lines: Vec<&str> = log.lines().collect();
                let tail = &lines[lines.len().saturating_sub(40)..];
                eprintln!("---- {name} on {} ----\n{}", self.name(), tail.join("\n"));
            }
        }
    }
}

/// Whether something listens on `address`. No connection is made, since sshd keeps account of those that say nothing.
pub fn listens(address: SocketAddr) -> bool {
    let SocketAddr::V4(address) = address else { return false };
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
    // The thread may have a network of its own.
    let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(local.as_str()) && fields.nth(1) == Some("0A")
    })
}

fn both(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
