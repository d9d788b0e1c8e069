//! What is revoked on this machine counts for the next build, over kept connections too.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::lab::{Drv, LONG, Process, Signal, USER_KEYS, wait_until};
use crate::liveness::stop;
use crate::pool::{Pool, is_reused};

/// What a connection is kept with before something changes.
struct Kept {
    pool: Pool,
    holder: Process,
    connections: u32,
}

fn kept() -> Kept {
    let pool = Pool::new();
    let holder = pool.kept_by(&Drv::new("first"));
    let connections = pool.link.connections();
    Kept { pool, holder, connections }
}

impl Kept {
    /// The next build has a connection of its own, and the old one ends.
    #[track_caller]
    fn assert_is_over(&self, drv: &Drv) {
        let result = self.pool.build(drv);
        assert!(!is_reused(&result), "{}", result.log);
        assert_eq!(self.pool.link.connections(), self.connections + 1);
        self.assert_ends();
        self.pool.await_idle(1);
    }

    #[track_caller]
    fn assert_ends(&self) {
        wait_until("the old connection ends", LONG, || {
            self.pool.holders().iter().all(|holder| holder.pid != self.holder.pid)
        });
    }

    fn file(&self, name: &str) -> PathBuf {
        self.pool.head.path(name)
    }

    fn change_rights(&self, name: &str, mode: u32) {
        fs::set_permissions(self.file(name), fs::Permissions::from_mode(mode)).unwrap();
    }
}

const KEY: &str = "/etc/guix/keys/ed25519";

#[test]
fn another_private_key_counts_at_once() {
    let kept = kept();
    // Another one that opens the account, under the same name.
    let other = kept.pool.head.read(format!("{USER_KEYS}/ecdsa"));
    kept.pool.head.write(KEY, other);
    kept.assert_is_over(&Drv::new("second"));
}

#[test]
fn a_private_key_that_is_taken_away_counts_at_once() {
    let kept = kept();
    kept.change_rights(KEY, 0o644);
    kept.pool.head.mark_healthy(kept.pool.link.name());
    kept.pool.head.write_machine_file(&format!("return {{ {}, max_attempts = 1 }}", kept.pool.entry().lua()));
    let result = kept.pool.head.client().build(&[&Drv::new("second")]);
    assert_eq!(result.status, Some(1), "{}", result.log);
    assert!(result.log.contains("is accessible to others (mode 0644)"), "{}", result.log);
    kept.assert_ends();
}

#[test]
fn a_changed_list_of_keys_counts_at_once() {
    let kept = kept();
    let acl = kept.pool.head.read("/etc/guix/acl");
    kept.pool.head.write("/etc/guix/acl", [&acl[..], b"\n"].concat());
    kept.assert_is_over(&Drv::new("second"));
}

#[test]
fn a_changed_signing_key_counts_at_once() {
    let kept = kept();
    // The same key, given to somebody else and back, so that the machine goes on to trust it.
    kept.change_rights("/etc/guix/signing-key.sec", 0o440);
    kept.change_rights("/etc/guix/signing-key.sec", 0o400);
    kept.assert_is_over(&Drv::new("second"));
}

#[test]
fn a_shorter_keep_connection_counts_at_once() {
    let kept = kept();
    kept.pool.head.write_machines(&[kept.pool.entry().set("keep_connection", 500)]);
    kept.assert_is_over(&Drv::new("second"));
    kept.pool.head.write_machines(&[kept.pool.entry().set("keep_connection", false)]);
    let result = kept.pool.build(&Drv::new("third"));
    assert!(!is_reused(&result), "{}", result.log);
    kept.pool.await_idle(0);
}

#[test]
fn connections_to_a_machine_that_is_gone_end() {
    let kept = kept();
    let other = kept.pool.lab.build_machine("other").start();
    kept.pool.head.write_machines(&[other.entry().set("keep_connection", false)]);
    kept.pool.head.mark_healthy("other");
    kept.pool.head.build(&[&Drv::new("second")]).succeeded();
    assert_eq!(other.built(), ["second"]);
    kept.assert_ends();
    kept.pool.await_idle(0);
    wait_until("nobody is logged in", LONG, || kept.pool.is_left());
}

/// Two entries for one host, one of which changes.
#[test]
fn an_entry_of_the_same_host_that_stays_keeps_its_connection() {
    let kept = kept();
    let [one, two] = [kept.pool.entry(), kept.pool.entry().set("keep_connection", 500).set("systems", ["i686-linux"])];
    kept.pool.head.write_machines(&[two, one]);
    let result = kept.pool.build(&Drv::new("second"));
    assert!(is_reused(&result), "{}", result.log);
    kept.pool.await_idle(1);
}

/// Gives the machine the stranger's signing key, and returns the list of keys with that instead of the machine's.
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
fn a_machine_with_a_new_signing_key_is_not_blamed() {
    let kept = kept();
    let acl = give_new_signing_key(&kept.pool);
    kept.pool.head.write("/etc/guix/acl", acl);
    kept.assert_is_over(&Drv::new("second"));

    // Revoked in the middle of a build over a kept connection, whose daemon goes on with its key.
    let connections = kept.pool.link.connections();
    let mut build = kept.pool.start(&kept.pool.long("third"));
    build.wait_for_log("here we are");
    assert!(build.log().contains("debug: borrow: "), "{}", build.log());
    kept.pool.machine.run("sh", &["-c", "rm /etc/guix/signing-key.*; guix archive --generate-key"]);
    let new = String::from_utf8(kept.pool.machine.read("/etc/guix/signing-key.pub")).unwrap();
    let stranger = fs::read_to_string(kept.pool.lab.stranger_signing_key().with_extension("pub")).unwrap();
    let acl = String::from_utf8(kept.pool.head.read("/etc/guix/acl")).unwrap();
    kept.pool.head.write("/etc/guix/acl", acl.replace(stranger.trim_end(), new.trim_end()));
    kept.pool.let_go();
    let result = build.wait().succeeded();
    assert!(
        result.log.contains("an output over a persistent connection is signed with a key that is not authorized here")
    );
    assert!(!result.log.contains("could not be built on"), "{}", result.log);
    assert!(!result.log.contains("guix archive --authorize"), "{}", result.log);
    assert_eq!(kept.pool.link.connections(), connections + 1);
    assert!(!kept.pool.head.health_of("link:2022").contains("not authorized"));
    kept.pool.head.verify_store();
}

/// The daemons of all open sessions go on with the old key, so none of them is used again.
#[test]
fn an_old_signature_is_not_retried_over_another_old_session() {
    let pool = Pool::new();
    pool.head.write_machines(&[pool.entry().set("parallel_builds", 2)]);
    let first = pool.kept_by(&Drv::new("first"));
    stop(&first);
    pool.build(&Drv::new("second"));
    pool.await_idle(2);
    first.signal(Signal::CONT);
    let mut build = pool.start(&pool.long("third"));
    build.wait_for_log("here we are");
    assert!(build.log().contains("debug: borrow: "), "{}", build.log());
    let acl = give_new_signing_key(&pool);
    pool.head.write("/etc/guix/acl", acl);
    pool.let_go();
    let connections = pool.link.connections();
    let result = build.wait().succeeded();
    assert!(result.log.contains("; retrying over a new connection"), "{}", result.log);
    assert!(!result.log.contains("could not be built on"), "{}", result.log);
    assert_eq!(pool.link.connections(), connections + 1);
    assert!(!pool.head.health_of("link:2022").contains("not authorized"));
}

/// The command in the usual hint would authorize it again.
#[test]
fn a_revoked_key_is_not_offered() {
    let kept = kept();
    let acl = String::from_utf8(kept.pool.head.read("/etc/guix/acl")).unwrap();
    let key = String::from_utf8(kept.pool.machine.read("/etc/guix/signing-key.pub")).unwrap();
    assert!(acl.contains(key.trim_end()), "{acl}");
    let entry = format!("(entry {} (tag (guix import)))", key.trim_end());
    assert!(acl.contains(&entry), "{acl}");
    kept.pool.head.write("/etc/guix/acl", acl.replace(&entry, ""));
    kept.pool.head.write_machine_file(&format!("return {{ {}, max_attempts = 1 }}", kept.pool.entry().lua()));
    kept.pool.head.mark_healthy(kept.pool.link.name());
    let result = kept.pool.head.client().build(&[&Drv::new("second")]);
    assert_eq!(result.status, Some(1), "{}", result.log);
    assert!(result.log.contains("a key that is no longer authorized here"), "{}", result.log);
    assert!(!result.log.contains("guix archive --authorize"), "{}", result.log);
    let tested = kept.pool.head.command("/opt/offload/offload").arg("test").output().unwrap();
    let said = String::from_utf8_lossy(&tested.stdout).into_owned();
    assert!(said.contains("a key that is no longer authorized here"), "{said}");
    assert!(!said.contains("guix archive --authorize"), "{said}");
}
