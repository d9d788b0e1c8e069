//! A real sshd (and guix-daemon) in a root directory of the lab.
//!
//! Each [`Server`] has its own mount and process namespaces, with an overlay over the common root. Its mounts and
//! processes end with its first process. Inside, the directory [`Server::shared`] is `/mnt`.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use offload::internals::machine::{HostKey, HostKeyKind, Machine};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::roots::made_by_setup;

pub struct Server {
    child: Child,
    directory: TempDir,
    pub address: SocketAddr,
}

/// Options of a server.
pub struct Options<'a> {
    pub root: &'a str,
    pub host_key: &'a [&'a str],
    pub sshd: &'a [&'a str],
    pub daemon: bool,
}

pub const SID: Options = Options { root: "sid", host_key: &["-t", "ed25519"], sshd: &[], daemon: false };
pub const BULLSEYE: Options = Options { root: "bullseye", ..SID };

impl Server {
    pub fn start(options: &Options) -> Server {
        let directory = TempDir::new().unwrap();
        for name in ["upper", "work", "root", "shared"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let shared = directory.path().join("shared");
        keygen(&shared.join("host_key"), options.host_key);
        let user_key = directory.path().join("user_key");
        keygen(&user_key, &["-t", "ed25519"]);
        fs::copy(user_key.with_extension("pub"), shared.join("authorized_keys")).unwrap();

        let address = own_address();
        let mut sshd = vec![
            "/usr/sbin/sshd -D -e -f /dev/null".to_owned(),
            format!("-o ListenAddress={} -o Port={}", address.ip(), address.port()),
        ];
        // sshd takes the first value given.
        sshd.extend(options.sshd.iter().map(|option| format!("-o '{option}'")));
        sshd.push("-o HostKey=/mnt/host_key -o AuthorizedKeysFile=/mnt/authorized_keys -o StrictModes=no".to_owned());
        sshd.push("-o PermitRootLogin=yes -o UsePAM=no -o PidFile=none -o LogLevel=VERBOSE".to_owned());
        // bullseye's sshd does not know the option.
        if options.root == "sid" {
            sshd.push("-o PerSourcePenalties=no".to_owned());
        }
        let daemon = "chroot $D/root /usr/bin/guix-daemon --disable-chroot --no-substitutes --max-jobs=1 2>/dev/null &";
        let script = format!(
            "set -e; mount -t overlay overlay -o lowerdir={},upperdir=$D/upper,workdir=$D/work $D/root
            mount -t proc proc $D/root/proc; mount --rbind /dev $D/root/dev; mount -t tmpfs tmpfs $D/root/run
            mount --bind $D/shared $D/root/mnt; mkdir $D/root/run/sshd; {}
            exec chroot $D/root {} 2>$D/log",
            made_by_setup(options.root).display(),
            if options.daemon { daemon } else { "" },
            sshd.join(" "),
        );
        let child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL", "sh", "-c", &script])
            .env("D", directory.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let server = Server { child, directory, address };
        server.await_banner();
        if options.daemon {
            let socket = server.directory.path().join("upper/var/guix/daemon-socket/socket");
            server.await_("guix-daemon", || socket.exists());
        }
        server
    }

    /// Waits for the server's version. The server does not penalize this connection, which ends without a login:
    /// penalties are off, or start with a failed login.
    fn await_banner(&self) {
        self.await_("sshd", || {
            let mut begin = [0; 4];
            TcpStream::connect(self.address).is_ok_and(|mut stream| stream.read_exact(&mut begin).is_ok())
                && begin == *b"SSH-"
        });
    }

    fn await_(&self, what: &str, mut is_there: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_there() {
            assert!(start.elapsed() < Duration::from_secs(60), "{what} does not reply:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until sshd has logged `text`.
    pub fn await_log(&self, text: &str) {
        self.await_(text, || self.log().contains(text));
    }

    /// Returns the log of sshd.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Returns the directory that is /mnt for the server.
    pub fn shared(&self) -> PathBuf {
        self.directory.path().join("shared")
    }

    /// Returns the path of a private key for all accounts.
    pub fn user_key(&self) -> PathBuf {
        self.directory.path().join("user_key")
    }

    /// Returns a build machine for this server, with a generous timeout.
    pub fn machine(&self) -> Machine {
        let key = host_key(&self.shared().join("host_key.pub"));
        let mut machine =
            Machine::new(&self.address.ip().to_string(), "root", vec!["x86_64-linux".to_owned()], vec![key]);
        machine.port = self.address.port();
        machine.private_key = Some(self.user_key());
        // Other tests run beside this one.
        machine.connect_timeout = Duration::from_secs(60);
        machine
    }

    /// Sends a signal to the processes whose command line begins with `begin`.
    pub fn signal(&self, signal: Signal, begin: &str) {
        let processes = processes(self.child.id(), |command| command.starts_with(begin));
        assert!(!processes.is_empty(), "no process of the server begins with {begin:?}");
        for process in processes {
            // It may have ended together with another.
            let _ = kill_process(Pid::from_raw(process as i32).unwrap(), signal);
        }
    }

    /// Whether the command line of a process contains `part`.
    pub fn runs(&self, part: &str) -> bool {
        !processes(self.child.id(), |command| command.contains(part)).is_empty()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        if std::thread::panicking() {
            eprintln!("--- sshd:\n{}---", self.log());
        }
    }
}

/// Returns an address that no other test uses. A port chosen by the system could go to another process before the
/// server binds it.
pub fn own_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(2022);
    // A process identifier has 22 bits. Labs use the networks below these.
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from((Ipv4Addr::new(127, 192 | (high & 63), middle, low), port));
        // Another process may listen on this port on all addresses.
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Returns the descendants of a process whose command line satisfies `is_wanted`.
pub fn processes(ancestor: u32, is_wanted: impl Fn(&str) -> bool) -> Vec<u32> {
    let command = |process: &u32| fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let mut processes = descendants(ancestor);
    processes.retain(|process| is_wanted(&command(process).replace('\0', " ")));
    processes
}

fn descendants(parent: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let children: String = tasks.flat_map(|task| fs::read_to_string(task.path().join("children"))).collect();
    let children: Vec<u32> = children.split_whitespace().map(|child| child.parse().unwrap()).collect();
    children.iter().flat_map(|&child| [vec![child], descendants(child)].concat()).collect()
}

/// Makes a key pair without passphrase.
pub fn keygen(path: &Path, arguments: &[&str]) {
    let output =
        Command::new("ssh-keygen").args(["-q", "-N", "", "-C", "test", "-f"]).arg(path).args(arguments).output();
    let output = output.expect("ssh-keygen (package openssh-client) can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub fn host_key(public: &Path) -> HostKey {
    let line = fs::read_to_string(public).unwrap();
    let mut words = line.split(' ');
    let kind = match words.next().unwrap() {
        "ssh-ed25519" => HostKeyKind::Ed25519,
        "ecdsa-sha2-nistp256" => HostKeyKind::EcdsaP256,
        "ecdsa-sha2-nistp384" => HostKeyKind::EcdsaP384,
        "ecdsa-sha2-nistp521" => HostKeyKind::EcdsaP521,
        "ssh-rsa" => HostKeyKind::Rsa,
        kind => panic!("{kind}"),
    };
    HostKey { kind, blob: base64::engine::general_purpose::STANDARD.decode(words.next().unwrap()).unwrap() }
}
