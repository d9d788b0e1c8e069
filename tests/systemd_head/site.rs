//! The head and the build machine of the quick start.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use offload::internals::machine::HostKeyKind;

use crate::lab::{Host, Lab};

/// The name of the build machine on the page.
pub const NAME: &str = "build.example.org";

/// Where the user has built the program.
pub const SOURCE: &str = "/root/offload";

pub struct Site {
    pub head: Host,
    pub build: Host,
    lab: Lab,
}

impl Site {
    /// Machines on which nothing has been prepared.
    pub fn new() -> Site {
        let start = Instant::now();
        let lab = Lab::in_own_network();
        // The port of the page, too.
        let build = lab.build_machine(NAME).sshd_option("Port 22").closed().untrusting().start();
        build.write("/etc/ssh/ssh_host_ed25519_key.pub", build.host_key(HostKeyKind::Ed25519) + "\n");
        forget_account(&build);
        let head = lab.systemd_head();
        let program = format!("{SOURCE}/target/release/offload");
        head.write(&program, fs::read(env!("CARGO_BIN_EXE_offload")).unwrap());
        fs::set_permissions(head.path(&program), fs::Permissions::from_mode(0o755)).unwrap();
        eprintln!("{:6.1} s  boot", start.elapsed().as_secs_f64());
        Site { head, build, lab }
    }

    /// Runs a part of the test, and prints the time that it takes.
    pub fn stage(&self, name: &str, part: impl FnOnce(&Site)) {
        let start = Instant::now();
        part(self);
        eprintln!("{:6.1} s  {name}", start.elapsed().as_secs_f64());
    }

    /// The directory of the lab.
    pub fn directory(&self) -> &Path {
        self.lab.directory()
    }

    /// The process identifier of the daemon, in the container.
    pub fn daemon_pid(&self) -> String {
        self.systemctl(&["show", "--property=MainPID", "--value", "guix-daemon"]).trim().to_owned()
    }

    /// The user that the daemon runs as.
    pub fn daemon_user(&self) -> String {
        self.head.run("stat", &["--format=%U", &format!("/proc/{}", self.daemon_pid())]).trim().to_owned()
    }

    /// The value of `GUIX` in the environment of the running daemon.
    pub fn hook_of_daemon(&self) -> Option<String> {
        let variables = self.head.run("cat", &[&format!("/proc/{}/environ", self.daemon_pid())]);
        variables.split('\0').find_map(|variable| variable.strip_prefix("GUIX=")).map(str::to_owned)
    }

    pub fn systemctl(&self, arguments: &[&str]) -> String {
        self.head.run("systemctl", arguments)
    }

    /// Forgets what has been set up: the account on the machine, who trusts whom, and what the head has of its own.
    pub fn forget(&self) {
        forget_account(&self.build);
        self.build.write("/etc/guix/acl", "(acl)\n");
        self.head.run("sh", &["-c", "rm -rf /etc/guix/* /var/guix/offload"]);
    }
}

fn forget_account(build: &Host) {
    build.run("userdel", &["--remove", "offload"]);
}

/// Runs a line in a login shell of root's, in the directory with the sources where there is one. Returns what it prints.
pub fn shell(host: &Host, line: &str) -> (Option<i32>, String) {
    // Output is laid out as in a terminal, but nothing asks.
    let script = format!("exec 2>&1; export COLUMNS=80; cd {SOURCE} 2>/dev/null; {line}");
    let output = host.command("bash").args(["--login", "-c", &script]).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{}# {line}\n{printed}", host.name());
    (output.status.code(), printed)
}

/// The same for a command that must succeed.
#[track_caller]
pub fn succeed(host: &Host, line: &str) -> String {
    let (status, printed) = shell(host, line);
    assert_eq!(status, Some(0), "{}: {line}\n{printed}", host.name());
    printed
}
