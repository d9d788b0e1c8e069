//! Build machines that cannot be used: the messages, the replies to the daemon, and the state afterwards.
//!
//! `cargo test --test errors -- --nocapture` shows the messages as a client of the daemon sees them.

mod lab;

use std::path::PathBuf;

use lab::{Drv, Entry, Host, LONG, Lab, Signal, USER_KEYS, wait_until};
use offload::internals::state::Health;

/// A fault, the entry that has it, and words that the message must have.
struct Case {
    what: &'static str,
    entry: Entry,
    words: Vec<String>,
}

impl Case {
    fn new(what: &'static str, entry: Entry, words: &[&str]) -> Case {
        Case { what, entry, words: words.iter().map(|&word| word.to_owned()).collect() }
    }

    /// The message says all it must, once.
    #[track_caller]
    fn assert_said_once(&self, log: &str) {
        println!("---- {}\n{}", self.what, said(log));
        for word in &self.words {
            assert!(log.contains(word.as_str()), "{}: {word:?} is not in the message:\n{log}", self.what);
        }
        assert_eq!(log.matches("hint: ").count(), 1, "{}: not one hint:\n{log}", self.what);
    }
}

/// The lines that the hook has written for people.
fn said(log: &str) -> String {
    log.lines().filter(|line| line.starts_with("offload: ")).map(|line| format!("{line}\n")).collect()
}

/// What the head forgets about machines makes cases independent of each other.
fn forget(head: &Host) {
    let _ = std::fs::remove_dir_all(head.path("/var/guix/offload"));
}

/// Names in the store that belong to no valid item, except the daemon's own files.
fn strays(head: &Host) -> Vec<PathBuf> {
    let valid = head.valid_paths();
    let names = std::fs::read_dir(head.path("/gnu/store")).unwrap().map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name != ".links" && name != "trash")
        .map(|name| PathBuf::from("/gnu/store").join(name))
        .filter(|path| !valid.contains(path) && path.extension().is_none_or(|extension| extension != "lock"))
        .collect()
}

/// The daemon that may not build itself asks again until the machine answers; the one that may builds.
#[track_caller]
fn assert_postponed_or_built_here(head: &Host, case: &Case) {
    head.write_machines(std::slice::from_ref(&case.entry));
    let drv = Drv::new(&case.what.replace(' ', "-")).script("echo $name >$out");

    forget(head);
    let mut build = head.client().max_jobs(0).start(&[&drv]);
    build.wait_for_log("hint: ");
    build.wait_for_log("waiting for locks or build slots");
    assert!(!build.is_done());
    case.assert_said_once(&build.log());
    build.interrupt(Signal::INT);
    assert!(strays(head).is_empty(), "{:?}", strays(head));

    forget(head);
    let result = head.client().max_jobs(2).build(&[&drv]).succeeded();
    case.assert_said_once(&result.log);
    assert_eq!(head.built().last().map(String::as_str), Some(drv.name()));
}

#[test]
fn each_reason_of_no_connection_has_its_message() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().max_jobs(2).start();
    let entry = |field: &str, value: &str| b1.entry().set(field, value);
    let stranger = lab.stranger_host_key();
    let key = |name: &str| format!("{USER_KEYS}/{name}");

    let cases = [
        Case::new(
            "wrong host key",
            entry("host_key", &stranger),
            &["b1", "another host key", "SHA256:", "host_key = \"ssh-ed25519"],
        ),
        Case::new(
            "refused user key",
            entry("private_key", &key("stranger")),
            &["b1", "'root' may not log in", "~root/.ssh/authorized_keys on b1: ssh-ed25519"],
        ),
        Case::new(
            "missing private key",
            entry("private_key", &key("none")),
            &["b1", "'/etc/guix/keys/none' does not exist", "ssh-keygen"],
        ),
        Case::new(
            "private key with a passphrase",
            entry("private_key", &key("passphrase")),
            &["b1", "has a passphrase", "ssh-keygen -p"],
        ),
        Case::new(
            "unresolvable name",
            entry("name", "nowhere"),
            &["nowhere", "does not resolve", "getent hosts nowhere"],
        ),
        Case::new(
            "closed port",
            b1.entry().set("port", 1),
            &["b1", "connection refused", "correct 'port' (1 was tried)"],
        ),
        Case::new(
            "no daemon",
            entry("daemon_socket", "/var/guix/nothing"),
            &["b1", "no daemon answers on '/var/guix/nothing'", "start guix-daemon there"],
        ),
    ];
    for case in &cases {
        assert_postponed_or_built_here(&head, case);
    }
    assert!(b1.built().is_empty());
    head.verify_store();
}

/// An input that is not sent without a signature: the output of a build.
fn made_here(head: &Host) -> Drv {
    let drv = Drv::new("made-here").script("echo $name >$out");
    head.client().no_offload().max_jobs(1).build(&[&drv]).succeeded();
    drv
}

/// Keys of Guix itself are only found wanting when something is transferred: the build was accepted by then.
#[track_caller]
fn assert_failed_then_built_here(head: &Host, case: &Case) {
    head.write_machine_file(&format!("return {{ {}, max_attempts = 1 }}", case.entry.lua()));
    let drv = Drv::new(&case.what.replace(' ', "-")).input(&made_here(head)).script("echo $name >$out");

    let result = head.client().max_jobs(0).build(&[&drv]);
    assert_eq!(result.status, Some(1), "{}\n{}", result.error, result.log);
    case.assert_said_once(&result.log);
    assert!(head.path_info(result.output(drv.name())).is_none());
    assert!(strays(head).is_empty(), "{:?}", strays(head));

    // The machine is skipped for a while now.
    let name = case.words[0].as_str();
    head.avoid(name);
    let other = Drv::new(&format!("{}-here", drv.name())).script("echo >$out");
    let result = head.client().max_jobs(2).build(&[&other]).succeeded();
    case.assert_said_once(&result.log);
    assert_eq!(head.built().last().map(String::as_str), Some(other.name()));
}

/// The command that the hint of a message recommends.
fn recommended(log: &str) -> &str {
    log.split("hint: ").nth(1).unwrap().split('`').nth(1).unwrap()
}

#[test]
fn each_unauthorized_signing_key_has_its_message() {
    let lab = Lab::new();
    let wary = lab.build_machine("wary").untrusting().start();
    let unknown = lab.build_machine("unknown").untrusted().start();
    let head = lab.head().max_jobs(2).start();

    let words = ["wary", "has not authorized this machine's signing key", "copy '/etc/guix/signing-key.pub' there"];
    let case = Case::new("head unknown to the machine", wary.entry(), &words);
    assert_failed_then_built_here(&head, &case);
    assert!(wary.built().is_empty());

    let words = ["unknown", "rejected: it is signed with a key that is not authorized here"];
    let case = Case::new("machine unknown to the head", unknown.entry(), &words);
    assert_failed_then_built_here(&head, &case);

    // What the hints say helps.
    let input = made_here(&head);
    let drv = |host: &Host| Drv::new(&format!("now-on-{}", host.name())).input(&input).script("echo >$out");
    for (host, remedied) in [(&wary, &wary), (&unknown, &head)] {
        head.write_machine_file(&format!("return {{ {}, max_attempts = 1 }}", host.entry().lua()));
        forget(&head);
        let result = head.client().max_jobs(0).build(&[&drv(host)]);
        wary.write("/tmp/signing-key.pub", head.read("/etc/guix/signing-key.pub"));
        remedied.run("sh", &["-c", &format!("cd /tmp; {}", recommended(&result.log))]);
        forget(&head);
        head.client().max_jobs(0).build(&[&drv(host)]).succeeded();
        assert_eq!(host.built().last(), Some(&format!("now-on-{}", host.name())));
    }
    head.verify_store();
}

#[test]
fn an_error_is_reported_once() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    head.write_machines(&[b1.entry()]);

    b1.stop_sshd();
    let drvs = ["one", "two"].map(|name| Drv::new(name).script("echo >$out"));
    let mut build = head.client().start(&[&drvs[0], &drvs[1]]);
    build.wait_for_log("hint: ");
    // The first back-off is over, and the machine was tried once more.
    wait_until("the machine has failed twice", LONG, || {
        let health: Option<Health> = serde_json::from_str(&head.health_of("b1:2022")).ok();
        health.and_then(|health| health.failures).is_some_and(|failures| failures.count >= 2)
    });
    let log = build.log();
    assert_eq!(log.matches("hint: ").count(), 1, "{log}");

    // The hook lives and takes up the build as soon as the machine is back.
    b1.start_sshd();
    build.wait().succeeded();
    wait_until("both are built", LONG, || b1.built().len() == 2);
}

/// The record of the machine is fresh and has no failure, so the build is accepted without a probe.
#[test]
fn a_build_waits_for_a_machine_that_is_gone_for_a_moment() {
    let lab = Lab::new();
    let b1 = lab.build_machine("b1").start();
    let head = lab.head().start();
    head.write_machines(&[b1.entry()]);
    head.build(&[&Drv::new("before")]).succeeded();

    b1.stop_sshd();
    let mut build = head.client().start(&[&Drv::new("after")]);
    build.wait_for_log("connection refused");
    b1.start_sshd();
    build.wait().succeeded();
    assert_eq!(b1.built(), ["before", "after"]);
}
