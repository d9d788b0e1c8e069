//! Remedies for the head may be pasted without a check. Each one that a command prints is run here, as root, and what it must
//! not change is compared: rights of home directories and of what is in them, and the owners of the daemon's files.

mod lab;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use lab::{Host, Lab};

/// What is wrong, the command that makes it so, and whether the remedies that the daemon's user gets are enough.
struct Case {
    name: &'static str,
    breaks: &'static str,
    private_key: &'static str,
    /// The commands for root and for the daemon's user; the words that one of them must have.
    command: Option<&'static str>,
    is_fixed: bool,
}

const KEY: &str = "/etc/guix/keys/ed25519";

const CASES: [Case; 7] = [
    Case {
        name: "a key in root's home directory",
        breaks: "true",
        private_key: "/root/.ssh/offload",
        command: Some("/etc/guix/offload"),
        is_fixed: false,
    },
    Case { name: "a key of a person", breaks: "true", private_key: "/home/ann/key", command: None, is_fixed: false },
    Case {
        name: "a key of root's beside the machine file",
        breaks: "chown root: /etc/guix/keys/ed25519",
        private_key: KEY,
        command: Some("chown guix-daemon: '/etc/guix/keys/ed25519'"),
        is_fixed: true,
    },
    Case {
        name: "a closed directory",
        breaks: "chown root: /etc/guix/keys; chmod 700 /etc/guix/keys",
        private_key: KEY,
        command: Some("/etc/guix/"),
        is_fixed: false,
    },
    Case {
        name: "a signing key of root's",
        breaks: "chown root: /etc/guix/signing-key.sec",
        private_key: KEY,
        command: Some("chown guix-daemon: '/etc/guix/signing-key.sec'"),
        is_fixed: true,
    },
    Case {
        name: "an access-control list of root's",
        breaks: "chown root: /etc/guix/acl; chmod 600 /etc/guix/acl",
        private_key: KEY,
        command: Some("chmod a+r '/etc/guix/acl'"),
        is_fixed: true,
    },
    Case {
        name: "a state of root's",
        breaks: "mkdir -p /var/guix/offload/b1:2022; chown -R root: /var/guix/offload; chmod 700 /var/guix/offload",
        private_key: KEY,
        command: Some("chown -R guix-daemon: '/var/guix/offload'"),
        is_fixed: true,
    },
];

/// What no remedy changes: the mode and owner of each home directory and of all files in it.
fn homes(head: &Host) -> BTreeSet<(String, u32, u32)> {
    let mut found = BTreeSet::new();
    for home in ["/root", "/home"] {
        walk(&head.path(home), &mut |path, mode, uid| {
            found.insert((path.display().to_string(), mode, uid));
        });
    }
    assert!(found.len() > 5, "{found:?}");
    found
}

fn walk(path: &Path, visit: &mut impl FnMut(&Path, u32, u32)) {
    let data = fs::symlink_metadata(path).unwrap();
    visit(path, data.mode(), data.uid());
    if data.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| walk(&entry.unwrap().path(), visit));
    }
}

/// Returns the commands for root on the head in what the program printed.
fn commands(said: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for start in ["as root: `", "as root `"] {
        for (at, _) in said.match_indices(start) {
            let rest = &said[at + start.len()..];
            found.insert(rest[..rest.find('`').unwrap()].to_owned());
        }
    }
    for line in said.lines().filter(|line| line.starts_with('{')) {
        let report: serde_json::Value = serde_json::from_str(line).unwrap();
        let findings = report["machines"].as_array().into_iter().flatten().flat_map(|one| one["findings"].as_array());
        for remedy in findings.flatten().flat_map(|finding| finding["remedies"].as_array()).flatten() {
            if remedy["place"] == "head" && remedy["kind"] == "command" {
                found.insert(remedy["text"].as_str().unwrap().to_owned());
            }
        }
    }
    found
}

/// Returns what the commands that check something print, run by a user.
fn check(head: &Host, user: &str) -> String {
    let mut said = String::new();
    for arguments in [&["test", "--json", "b1"][..], &["eval"], &["status"], &["explain", "--system", lab::SYSTEM]] {
        let mut command = head.command("setpriv");
        let group = head.run("id", &["-gn", user]).trim().to_owned();
        command.args([format!("--reuid={user}"), format!("--regid={group}"), "--init-groups".to_owned()]);
        let output = command.arg("/opt/offload/offload").args(arguments).output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        // JSON for people is on several lines.
        let json = serde_json::from_str::<serde_json::Value>(&stdout).map(|json| format!("{json}\n"));
        said += &(json.unwrap_or(stdout) + &String::from_utf8_lossy(&output.stderr));
    }
    said
}

#[test]
fn no_remedy_does_harm() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().unprivileged().start();
    let shell = |script: &str| head.run("sh", &["-c", script]);
    shell("useradd -u 1500 -m ann; install -o ann -m 600 /etc/guix/keys/ed25519 /home/ann/key");
    shell("mkdir -p -m 700 /root/.ssh; chmod 700 /root; install -m 600 /etc/guix/keys/ed25519 /root/.ssh/offload");
    shell("mkdir /before; cp -a /etc/guix /before/guix");
    let before = homes(&head);
    let [nobody, daemon] = ["nobody", "guix-daemon"].map(|user| head.run("id", &["-u", user]).trim().parse().unwrap());
    for case in &CASES {
        let mut problems = Vec::new();
        for user in ["root", "guix-daemon", "nobody"] {
            shell("rm -rf /var/guix/offload /etc/guix && cp -a /before/guix /etc/guix");
            head.write_machines(&[b1.entry().set("private_key", case.private_key).set("keep_connection", false)]);
            shell(case.breaks);
            let said = check(&head, user);
            let commands = commands(&said);
            println!("{}, {user}: {commands:#?}", case.name);
            let is_told = |word: &str| commands.iter().any(|command| command.contains(word));
            if user == "nobody" {
                assert!(said.contains("run this command as root"), "{}, {user}: {said}", case.name);
            } else {
                assert!(case.command.is_none_or(is_told), "{}, {user}: {commands:?}\n{said}", case.name);
            }
            for command in &commands {
                shell(command);
            }
            assert_eq!(homes(&head), before, "{}, {user}: {commands:?}", case.name);
            for directory in ["/etc/guix", "/var/guix"] {
                walk(&head.path(directory), &mut |path, mode, uid| {
                    // Nobody gets the daemon's files, and no secret is open to others.
                    let is_secret = path.extension().is_some_and(|extension| extension == "sec");
                    if uid == nobody || is_secret && (mode & 0o077 != 0 || ![0, daemon].contains(&uid)) {
                        problems.push(format!("{user}: {} {mode:o} {uid}", path.display()));
                    }
                });
            }
            if case.is_fixed && user != "nobody" {
                let output = head.command("/opt/offload/offload").args(["test", "b1"]).output().unwrap();
                assert!(output.status.success(), "{}: {}", case.name, String::from_utf8_lossy(&output.stdout));
            }
        }
        assert_eq!(problems, Vec::<String>::new(), "{}", case.name);
    }
}
