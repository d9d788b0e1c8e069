//! The signing key of a build machine: a key that is not authorized is found before the machine builds.

mod lab;

use std::fs;

use lab::{BuildResult, Drv, Entry, Host, Lab};

/// The line of the log about the check.
const CHECKED: &str = "debug: signing key: ";

/// Two machines, of which the first is preferred. Its connections do not persist.
struct Pool {
    head: Host,
    first: Host,
    second: Host,
    lab: Lab,
}

impl Pool {
    fn new(is_trusted: bool) -> Pool {
        let lab = Lab::new();
        let first = lab.build_machine("first");
        let first = if is_trusted { first } else { first.untrusted() }.start();
        let second = lab.build_machine("second").start();
        let head = lab.head().env("OFFLOAD_LOG", "info,offload::timing=debug").start();
        let entry =
            |host: &Host, speed: f64| -> Entry { host.entry().set("keep_connection", false).set("speed", speed) };
        head.write_machines(&[entry(&first, 100.0), entry(&second, 1.0)]);
        Pool { head, first, second, lab }
    }

    /// Builds something new, with both machines ready.
    fn build(&self, name: &str) -> BuildResult {
        self.head.mark_healthy("first");
        self.head.mark_healthy("second");
        self.head.build(&[&Drv::new(name).script("echo >$out")]).succeeded()
    }

    fn authorize(&self, key: &str) {
        self.head.run("sh", &["-c", &format!("echo '{key}' | guix archive --authorize")]);
    }

    fn key_of_first(&self) -> String {
        String::from_utf8(self.first.read("/etc/guix/signing-key.pub")).unwrap()
    }
}

#[test]
fn a_machine_whose_key_is_not_authorized_builds_nothing() {
    let pool = Pool::new(false);
    for name in ["one", "two"] {
        let result = pool.build(name);
        assert!(pool.first.built().is_empty(), "{}", result.log);
        assert_eq!(pool.second.built().last().unwrap(), name);
        assert!(result.log.contains("checking its signing key: "), "{}", result.log);
        assert!(result.log.contains("it is signed with a key that is not authorized here"), "{}", result.log);
    }
    // Once it is authorized it builds; the second build there needs no check.
    pool.authorize(&pool.key_of_first());
    let checked = pool.build("three");
    assert!(checked.log.contains(CHECKED), "{}", checked.log);
    let known = pool.build("four");
    assert!(!known.log.contains(CHECKED), "{}", known.log);
    assert_eq!(pool.first.built(), ["three", "four"]);
}

#[test]
fn a_changed_list_or_key_is_checked_again() {
    let pool = Pool::new(true);
    for (name, is_checked) in [("one", true), ("two", false)] {
        let result = pool.build(name);
        assert_eq!(result.log.contains(CHECKED), is_checked, "{}", result.log);
    }
    // Another key in the list changes nothing; a list without the key is found before the build.
    let list = String::from_utf8(pool.head.read("/etc/guix/acl")).unwrap();
    let stranger = fs::read_to_string(pool.lab.stranger_signing_key().with_extension("pub")).unwrap();
    pool.authorize(&stranger);
    assert!(!pool.build("three").log.contains(CHECKED));
    let entry = format!("(entry {} (tag (guix import)))", pool.key_of_first().trim_end());
    assert!(list.contains(&entry), "{list}");
    pool.head.write("/etc/guix/acl", list.replace(&entry, ""));
    let result = pool.build("four");
    assert!(result.log.contains("a key that is no longer authorized here"), "{}", result.log);
    assert_eq!((pool.first.built().len(), pool.second.built().len()), (3, 1));
    pool.head.write("/etc/guix/acl", &list);
    pool.build("five");
    assert_eq!(pool.first.built().len(), 4);

    // The machine gets a new key: its first output is refused, and then it builds nothing.
    pool.first.run("sh", &["-c", "rm /etc/guix/signing-key.*; guix archive --generate-key"]);
    for name in ["six", "seven"] {
        let result = pool.build(name);
        assert!(result.log.contains("it is signed with a key that is not authorized here"), "{}", result.log);
        assert_eq!(pool.second.built().last().unwrap(), name);
    }
    assert_eq!(pool.first.built().len(), 5);
    pool.authorize(&pool.key_of_first());
    assert!(pool.build("eight").log.contains(CHECKED));
    assert!(!pool.build("nine").log.contains(CHECKED));
    assert_eq!(pool.first.built().len(), 7);
    pool.head.verify_store();
}
