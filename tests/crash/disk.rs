//! The disk of the head is full, or its store is read-only. The build fails, names the file and the fix, and leaves no
//! files. It succeeds after the fix.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::lab::Host;
use crate::pool::{Pool, assert_builds, build, leftovers, mount};

/// A hook for which the store is read-only while `/var/lab/read-only` exists. The daemon writes to the store before it
/// starts a hook, so for the daemon the store must be writable.
const READ_ONLY_HOOK: &str = r#"#!/bin/sh
if [ "$1" = offload ] && [ -e /var/lab/read-only ]; then
    exec unshare --mount sh -c 'mount --bind /gnu/store /gnu/store && mount -o remount,bind,ro /gnu/store &&
        exec /opt/offload/guix "$@"' sh "$@"
fi
exec /opt/offload/guix "$@"
"#;

/// Changes the size of a file system of a host.
fn resize(host: &Host, place: &str, size: &str) {
    mount(host, place, &format!("remount,size={size}"));
}

/// Asserts that the build fails on the head, prints these words, and leaves no files.
#[track_caller]
fn assert_fails(pool: &Pool, name: &str, words: &[&str]) {
    let drv = pool.derivation(name, 1, 40);
    pool.mark_all_healthy();
    let ended = build(&pool.head, &drv);
    assert_eq!(ended.status, Some(1), "{}", ended.log);
    for words in words {
        assert!(ended.log.contains(words), "{words:?} is not in {}", ended.log);
    }
    // The build would fail on each machine, so no other is tried, and this counts as no failure.
    assert!(!ended.log.contains("could not be built on"), "{}", ended.log);
    assert_eq!(pool.machines[1].built(), [""; 0]);
    pool.assert_quiet(name);
    let left = leftovers(&pool.head);
    assert!(left.iter().all(|name| name.ends_with(".lock")), "{left:?}");
    pool.head.verify_store();
}

#[test]
fn a_full_or_read_only_store_fails_the_build_and_leaves_nothing() {
    let pool = Pool::new(|head| head.env("GUIX", "/opt/read-only/guix"));
    let head = &pool.head;
    head.write("/opt/read-only/guix", READ_ONLY_HOOK);
    head.run("chmod", &["755", "/opt/read-only/guix"]);
    mount(head, "/gnu/store", "size=24m,mode=1775");

    assert_fails(
        &pool,
        "large",
        &["cannot write '/gnu/store/", "-large': 40964 KiB do not fit", "hint: free some space", "`guix gc`"],
    );
    let drv = pool.derivation("small", 1, 1);
    assert_builds("a small output", head, &drv, 1);
    resize(head, "/gnu/store", "200m");
    // The build with this name failed above; a machine has its output already.
    let drv = pool.derivation("large", 1, 40);
    assert_builds("with more space", head, &drv, 40);

    head.write("/var/lab/read-only", "");
    assert_fails(
        &pool,
        "nowhere",
        &["cannot prepare a place for '/gnu/store/", "Read-only file system", "hint: ", "mounted read-only"],
    );
    fs::remove_file(head.path("/var/lab/read-only")).unwrap();
    let drv = pool.derivation("somewhere", 1, 1);
    assert_builds("with a store that can be written to", head, &drv, 1);
    pool.verify();
    pool.assert_all_is_collected();
}

/// If hooks lose their records, builds take longer, and none fails.
#[test]
fn a_full_state_directory_fails_no_build() {
    let pool = Pool::new(|head| head);
    let head = &pool.head;
    // The owner of a session has a socket in this directory.
    head.write_machines(&[pool.machines[0].entry().set("overload_threshold", false).set("keep_connection", false)]);
    // The directory belongs to the owner of its parent, as a directory that offload creates.
    let owner = fs::metadata(head.path("/var/guix")).unwrap().uid();
    mount(head, "/var/guix/offload", &format!("size=16k,mode=700,uid={owner}"));
    let filler = head.path("/var/guix/offload/filler");
    fs::write(&filler, [0; 16 << 10]).unwrap();
    let full = pool.derivation("full", 1, 1);
    let ended = build(head, &full);
    assert_eq!(ended.status, Some(0), "{}", ended.log);
    assert!(ended.log.contains("cannot record the health of") && ended.log.contains("No space left"), "{}", ended.log);
    fs::remove_file(&filler).unwrap();
    assert_builds("with space", head, &pool.derivation("space", 1, 1), 1);

    // The hook cannot create the lock file of a slot, so it waits instead of exceeding the number of slots.
    fs::read_dir(head.path("/var/guix/offload"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .for_each(|path| if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap());
    mount(head, "/var/guix/offload", "remount,nr_inodes=1");
    let waiting = pool.derivation("waiting", 1, 1);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| build(head, &waiting));
        std::thread::sleep(std::time::Duration::from_secs(2));
        assert!(!waiting.is_finished());
        mount(head, "/var/guix/offload", "remount,nr_inodes=1000");
        let ended = waiting.join().unwrap();
        assert_eq!(ended.status, Some(0), "{}", ended.log);
        let is_blamed = |line: &str| line.contains("/var/guix/offload/b1:2022/") && line.contains("No space left");
        assert!(ended.log.lines().any(is_blamed), "{}", ended.log);
    });
    pool.assert_quiet("afterwards");
    pool.verify();
}
