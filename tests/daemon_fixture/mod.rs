//! A real guix-daemon of a given release, in a root directory and namespaces of its own.
//!
//! The common root directories are those that `tests/setup` makes. Each daemon gets an overlay over one of them. All its mounts and processes live in a mount and a PID namespace whose first process reads a
//! pipe from this process: they are gone when the fixture is dropped, and also when the test is killed.

// Each test binary uses a part of this.
#![allow(dead_code)]

#[path = "../lab/roots.rs"]
mod roots;
pub mod store;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The releases of Guix that the lab has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// 1.2.0, protocol 0x163.
    Bullseye,
    /// 1.5.0, protocol 0x164.
    Sid,
}

pub const RELEASES: [Release; 2] = [Release::Sid, Release::Bullseye];

impl Release {
    fn root(self) -> PathBuf {
        roots::made_by_setup(match self {
            Release::Bullseye => "bullseye",
            Release::Sid => "sid",
        })
    }
}

/// A running daemon.
pub struct Daemon {
    shell: Child,
    pid: u32,
    top: TempDir,
}

impl Daemon {
    pub fn start(release: Release) -> Daemon {
        Daemon::start_with(release, &[], &[])
    }

    /// Starts a daemon with more `options`, in an environment with more variables.
    pub fn start_with(release: Release, options: &[&str], environment: &[(&str, &str)]) -> Daemon {
        let top = tempfile::Builder::new().prefix("offload-daemon-").tempdir().unwrap();
        for name in ["upper", "work", "root", "store", "state"] {
            fs::create_dir(top.path().join(name)).unwrap();
        }
        let mut shell = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "sh"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/daemon_fixture/up.sh"))
            .arg(release.root())
            .arg(top.path())
            .args(["--disable-chroot", "--no-substitutes", "--max-jobs=4"])
            .args(options)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(top.path().join("up.log")).unwrap())
            .spawn()
            .expect("unshare (util-linux) runs");
        let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
        let pid = lines.next().and_then(|line| line.unwrap().strip_prefix("pid ")?.parse().ok());
        let started = lines.next().is_some_and(|line| line.unwrap() == "started");
        let mut daemon = Daemon { shell, pid: pid.unwrap_or(0), top };
        assert!(started, "no root directory for a daemon (are we root?): {}", daemon.logs());
        daemon.wait_until_it_answers();
        daemon
    }

    fn wait_until_it_answers(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while UnixStream::connect(self.socket()).is_err() {
            assert!(self.shell.try_wait().unwrap().is_none(), "the daemon ended: {}", self.logs());
            assert!(Instant::now() < deadline, "the daemon does not answer: {}", self.logs());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What `path` in the daemon's root directory is called here.
    pub fn path(&self, path: &str) -> PathBuf {
        let top = self.top.path();
        for (inside, outside) in [("/gnu/store", "store"), ("/var/guix", "state")] {
            if let Ok(rest) = Path::new(path).strip_prefix(inside) {
                return top.join(outside).join(rest);
            }
        }
        let root = format!("/proc/{}/root{}/root", self.pid, top.display());
        Path::new(&root).join(path.strip_prefix('/').expect("an absolute path"))
    }

    pub fn socket(&self) -> PathBuf {
        self.path("/var/guix/daemon-socket/socket")
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        // A daemon that says nothing for a minute is a failed test, not a hanging one.
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// A command that runs in the daemon's root directory and namespaces.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.pid.to_string(), "--mount", "--pid", "chroot"])
            .arg(self.top.path().join("root"))
            .arg(program);
        command
    }

    /// Runs a shell command in the daemon's root directory, which must succeed.
    pub fn shell(&self, script: &str) -> String {
        let output: Output = self.command("sh").args(["-c", script]).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Lets the daemon accept what is signed with the key in `public_key` (the text of a `.pub` file).
    pub fn authorize(&self, public_key: &str) {
        fs::write(self.path("/tmp/key.pub"), public_key).unwrap();
        self.shell("guix archive --authorize < /tmp/key.pub");
    }

    /// The public half of its signing key.
    pub fn public_key(&self) -> String {
        fs::read_to_string(self.path("/etc/guix/signing-key.pub")).unwrap()
    }

    /// What the daemon wrote to its standard error.
    pub fn logs(&self) -> String {
        ["up.log", "generate-key.log", "daemon.log"]
            .iter()
            .map(|name| fs::read_to_string(self.top.path().join(name)).unwrap_or_default())
            .collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon in {} wrote:\n{}", self.top.path().display(), self.logs());
        }
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// The most memory this process ever had resident, in bytes.
pub fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}
