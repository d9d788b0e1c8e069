//! A change of keys or settings on the head takes effect for the next build, also if a session is open.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::lab::{Drv, LONG, Process, Signal, USER_KEYS, wait_until};
use crate::liveness::stop;
use crate::pool::{Pool, is_reused};

/// A pool with an open session, before a test changes something.
struct OpenSession {
    pool: Pool,
    owner: Process,
    connections: u32,
}

fn open_session() -> OpenSession {
    let pool = Pool::new();
    let owner = pool.owner_after(&Drv::new("first"));
    let connections = pool.link.connections();
    OpenSession { pool, owner, connections }
}

impl OpenSession {
    /// Asserts that the next build opens a new session, and that the old one ends.
    #[track_caller]
    fn assert_new_session(&self, drv: &Drv) {
        let result = self.pool.build(drv);
        assert!(!is_reused(&result), "{}", result.log);
        assert_eq!(self.pool.link.connections(), self.connections + 1);
        self.assert_old_session_ends();
        self.pool.await_idle(1);
    }

    #[track_caller]
    fn assert_old_session_ends(&self) {
        wait_until("the old session ends", LONG, || self.pool.owners().iter().all(|owner| owner.pid != self.owner.pid));
    }

    fn file(&self, name: &str) -> PathBuf {
        self.pool.head.path(name)
    }

    fn change_permissions(&self, name: &str, mode: u32) {
        fs::set_permissions(self.file(name), fs::Permissions::from_mode(mode)).unwrap();
    }
}

const KEY: &str = "/etc/guix/keys/ed25519";

#[test]
fn a_replaced_private_key_opens_a_new_session() {
    let open = open_session();
    // Another key of the account, under the same file name.
    let other = open.pool.head.read(format!("{USER_KEYS}/ecdsa"));
    open.pool.head.write(KEY, other);
    open.assert_new_session(&Drv::new("second"));
}

#[test]
fn a_private_key_that_others_can_read_ends_the_session() {
    let open = open_session();
    open.change_permissions(KEY, 0o644);
    open.pool.head.mark_healthy(open.pool.link.name());
    // The machine cannot be used, and the head may not build: the request is postponed.
    let mut build = open.pool.head.client().start(&[&Drv::new("second")]);
    build.wait_for_log("is accessible to others (mode 0644)");
    open.assert_old_session_ends();
    build.interrupt(Signal::INT);
}

#[test]
fn a_changed_acl_opens_a_new_session() {
    let open = open_session();
    let acl = open.pool.head.read("/etc/guix/acl");
    open.pool.head.write("/etc/guix/acl", [&acl[..], b"\n"].concat());
    open.assert_new_session(&Drv::new("second"));
}

#[test]
fn a_changed_signing_key_opens_a_new_session() {
    let open = open_session();
    // The permissions change and are restored. The key is the same, so the machine still trusts it.
    open.change_permissions("/etc/guix/signing-key.sec", 0o440);
    open.change_permissions("/etc/guix/signing-key.sec", 0o400);
    open.assert_new_session(&Drv::new("second"));
}

#[test]
fn a_shorter_keep_connection_opens_a_new_session() {
    let open = open_session();
    open.pool.head.write_machines(&[open.pool.entry().set("keep_connection", 500)]);
    open.assert_new_session(&Drv::new("second"));
    open.pool.head.write_machines(&[open.pool.entry().set("keep_connection", false)]);
    let result = open.pool.build(&Drv::new("third"));
    assert!(!is_reused(&result), "{}", result.log);
    open.pool.await_idle(0);
}

#[test]
fn sessions_to_a_removed_machine_end() {
    let open = open_session();
    let other = open.pool.lab.build_machine("other").start();
    open.pool.head.write_machines(&[other.entry().set("keep_connection", false)]);
    open.pool.head.mark_healthy("other");
    open.pool.head.build(&[&Drv::new("second")]).succeeded();
    assert_eq!(other.built(), ["second"]);
    open.assert_old_session_ends();
    open.pool.await_idle(0);
    wait_until("the machine has no session", LONG, || open.pool.has_no_session());
}

/// Two entries have the same host, and one of them changes.
#[test]
fn an_unchanged_entry_of_the_same_host_reuses_its_session() {
    let open = open_session();
    let [one, two] = [open.pool.entry(), open.pool.entry().set("keep_connection", 500).set("systems", ["i686-linux"])];
    open.pool.head.write_machines(&[two, one]);
    let result = open.pool.build(&Drv::new("second"));
    assert!(is_reused(&result), "{}", result.log);
    open.pool.await_idle(1);
}

/// Gives the machine the stranger's signing key. Returns the head's ACL with that key instead of the old one.
fn give_new_signing_key(pool: &Pool) -> String {
    let old = String::from_utf8(pool.machine.read("/etc/guix/signing-key.pub")).unwrap();
    let secret = pool.lab.stranger_signing_key();
    let new = fs::read_to_string(secret.with_extension("pub")).unwrap();
    let replace = |file: &str, from: &PathBuf| {
        fs::remove_file(pool.machine.path(file)).unwrap();
        fs::copy(from, pool.machine.path(file)).unwrap();
    };
    replace("/etc/guix/signing-key.sec", &secret);
    replace("/etc/guix/signing-key.pub", &secret.with_extension("pub"));
    let acl = String::from_utf8(pool.head.read("/etc/guix/acl")).unwrap();
    assert!(acl.contains(old.trim_end()), "{acl}");
    acl.replace(old.trim_end(), new.trim_end())
}

#[test]
fn a_new_signing_key_is_not_a_failure_of_the_machine() {
    let open = open_session();
    let acl = give_new_signing_key(&open.pool);
    open.pool.head.write("/etc/guix/acl", acl);
    open.assert_new_session(&Drv::new("second"));

    // The key is revoked during a build over a reused session, whose daemon continues with the old key.
    let connections = open.pool.link.connections();
    let mut build = open.pool.start(&open.pool.long("third"));
    build.wait_for_log("here we are");
    assert!(build.log().contains("debug: reuse: "), "{}", build.log());
    open.pool.machine.run("sh", &["-c", "rm /etc/guix/signing-key.*; guix archive --generate-key"]);
    let new = String::from_utf8(open.pool.machine.read("/etc/guix/signing-key.pub")).unwrap();
    let stranger = fs::read_to_string(open.pool.lab.stranger_signing_key().with_extension("pub")).unwrap();
    let acl = String::from_utf8(open.pool.head.read("/etc/guix/acl")).unwrap();
    open.pool.head.write("/etc/guix/acl", acl.replace(stranger.trim_end(), new.trim_end()));
    open.pool.release_builds();
    let result = build.wait().succeeded();
    assert!(
        result.log.contains(
            "over a persistent connection, the machine's daemon signs with a key that is not authorized here"
        )
    );
    assert!(!result.log.contains("could not be built on"), "{}", result.log);
    assert!(!result.log.contains("guix archive --authorize"), "{}", result.log);
    assert_eq!(open.pool.link.connections(), connections + 1);
    assert!(!open.pool.head.health_of("link:2022").contains("not authorized"));
    open.pool.head.verify_store();
}

/// The daemons of all open sessions continue with the old key, so the hook uses none of these sessions.
#[test]
fn an_old_signature_is_not_retried_over_another_old_session() {
    let pool = Pool::new();
    pool.head.write_machines(&[pool.entry().set("parallel_builds", 2)]);
    let first = pool.owner_after(&Drv::new("first"));
    stop(&first);
    pool.build(&Drv::new("second"));
    pool.await_idle(2);
    first.signal(Signal::CONT);
    let mut build = pool.start(&pool.long("third"));
    build.wait_for_log("here we are");
    assert!(build.log().contains("debug: reuse: "), "{}", build.log());
    let acl = give_new_signing_key(&pool);
    pool.head.write("/etc/guix/acl", acl);
    pool.release_builds();
    let connections = pool.link.connections();
    let result = build.wait().succeeded();
    assert!(result.log.contains("; retrying over a new connection"), "{}", result.log);
    assert!(!result.log.contains("could not be built on"), "{}", result.log);
    assert_eq!(pool.link.connections(), connections + 1);
    assert!(!pool.head.health_of("link:2022").contains("not authorized"));
}

/// The usual hint has a command that would authorize the key again.
#[test]
fn no_hint_authorizes_a_revoked_key() {
    let open = open_session();
    let acl = String::from_utf8(open.pool.head.read("/etc/guix/acl")).unwrap();
    let key = String::from_utf8(open.pool.machine.read("/etc/guix/signing-key.pub")).unwrap();
    assert!(acl.contains(key.trim_end()), "{acl}");
    let entry = format!("(entry {} (tag (guix import)))", key.trim_end());
    assert!(acl.contains(&entry), "{acl}");
    open.pool.head.write("/etc/guix/acl", acl.replace(&entry, ""));
    open.pool.head.write_machine_file(&format!("return {{ {}, max_attempts = 1 }}", open.pool.entry().lua()));
    open.pool.head.mark_healthy(open.pool.link.name());
    let result = open.pool.head.client().build(&[&Drv::new("second")]);
    assert_eq!(result.status, Some(1), "{}", result.log);
    assert!(result.log.contains("a key that is no longer authorized here"), "{}", result.log);
    assert!(!result.log.contains("guix archive --authorize"), "{}", result.log);
    let tested = open.pool.head.command("/opt/offload/offload").arg("test").output().unwrap();
    let report = String::from_utf8_lossy(&tested.stdout).into_owned();
    assert!(report.contains("a key that is no longer authorized here"), "{report}");
    assert!(!report.contains("guix archive --authorize"), "{report}");
}
