//! Owners that no longer serve hooks: they are killed or stopped, they end, or their daemon ends.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use crate::lab::{Drv, Hook, HostOptions, LONG, Process, Signal, wait_until};
use crate::pool::{Pool, is_reused};

/// A pool with one slot, so that one session may stay open. Sessions of killed or stopped owners must not count.
fn one_slot() -> Pool {
    let pool = Pool::new();
    pool.head.write_machines(&[pool.entry().set("parallel_builds", 1)]);
    pool
}

fn is_stopped(process: &Process) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", process.pid)).is_ok_and(|stat| stat.contains(") T "))
}

pub fn stop(process: &Process) {
    process.signal(Signal::STOP);
    wait_until("the process is stopped", LONG, || is_stopped(process));
}

/// The sockets and their inodes.
fn sockets(pool: &Pool) -> Vec<(PathBuf, u64)> {
    pool.sockets().into_iter().map(|socket| (socket.clone(), fs::symlink_metadata(socket).unwrap().ino())).collect()
}

/// The next build has other settings, so it does not connect to the killed owner. Only the count of sessions checks it.
#[test]
fn a_session_whose_owner_was_killed_does_not_count() {
    let pool = one_slot();
    let owner = pool.owner_after(&Drv::new("first"));
    owner.signal(Signal::KILL);
    wait_until("the owner is gone", LONG, || pool.owners().is_empty());
    assert_eq!(pool.sockets().len(), 1);
    pool.head.write_machines(&[pool.entry().set("parallel_builds", 1).set("compression", "zlib")]);
    pool.build(&Drv::new("second"));
    pool.await_idle(1);
    let result = pool.build(&Drv::new("third"));
    assert!(is_reused(&result), "{}", result.log);
}

#[test]
fn a_stopped_owner_is_skipped_and_does_not_count() {
    let pool = one_slot();
    let stopped = pool.owner_after(&Drv::new("first"));
    stop(&stopped);
    let connections = pool.link.connections();
    let result = pool.build(&Drv::new("second"));
    assert!(!is_reused(&result), "{}", result.log);
    assert!(result.log.contains("the owner is stopped"), "{}", result.log);
    // The session of that build stays open beside the first one, and later builds reuse it.
    wait_until("a second owner stays open", LONG, || pool.owners().len() == 2 && pool.sockets().len() == 2);
    for name in ["third", "fourth"] {
        let result = pool.build(&Drv::new(name));
        assert!(is_reused(&result), "{}", result.log);
        wait_until("two sessions are open to hooks", LONG, || pool.sockets().len() == 2);
    }
    assert_eq!(pool.link.connections(), connections + 1);
    // The first owner continues, and a build reuses its session.
    pool.owners().iter().filter(|owner| owner.pid != stopped.pid).for_each(|owner| owner.signal(Signal::KILL));
    stopped.signal(Signal::CONT);
    let result = pool.build(&Drv::new("fifth"));
    assert!(is_reused(&result), "{}", result.log);
    pool.await_idle(1);
    assert_eq!(pool.owners()[0].pid, stopped.pid);
}

/// The machine works, so this does not count as its failure.
#[test]
fn a_build_whose_owner_is_stopped_starts_again() {
    let pool = Pool::new();
    let entry = || pool.entry().set("stall_timeout", 3).set("keepalive_interval", 1);
    pool.head.write_machines(&[entry()]);
    let owner = pool.owner_after(&Drv::new("first"));
    pool.head.mark_healthy(pool.link.name());
    // The hook would abandon the daemon after this silence.
    let mut build = pool.head.client().max_silent_time(20).start(&[&pool.long("second")]);
    build.wait_for_log("here we are");
    stop(&owner);
    wait_until("the build starts again", LONG, || {
        build.log().contains("the process that owns the connection to it is stopped")
    });
    pool.release_builds();
    let result = build.wait().succeeded();
    assert!(!result.log.contains("could not be built on"), "{}", result.log);
    assert_eq!(pool.head.read(result.output("second")), b"done\n");
    assert!(!pool.head.health_of("link:2022").contains("is stopped"), "{}", pool.head.health_of("link:2022"));
    // When the owner continues, it finds that no hook needs its session.
    owner.signal(Signal::CONT);
    wait_until("the owner ends", LONG, || pool.owners().iter().all(|other| other.pid != owner.pid));
}

#[test]
fn sigterm_ends_an_owner_and_its_session() {
    let pool = Pool::new();
    let owner = pool.owner_after(&Drv::new("first"));
    owner.signal(Signal::TERM);
    pool.await_idle(0);
    wait_until("the machine has no session", LONG, || pool.has_no_session());

    // While a build uses the session: the build starts again.
    let owner = pool.owner_after(&Drv::new("second"));
    let mut build = pool.start(&pool.long("third"));
    build.wait_for_log("here we are");
    owner.signal(Signal::TERM);
    wait_until("the build starts again", LONG, || pool.machine.built() == ["first", "second", "third", "third"]);
    pool.release_builds();
    let result = build.wait().succeeded();
    assert!(!result.log.contains("could not be built on"), "{}", result.log);
    pool.await_idle(1);
}

#[test]
fn owners_end_with_their_daemon() {
    assert_owner_ends_with_its_daemon(&Pool::new());
}

#[test]
fn owners_end_with_an_unprivileged_daemon() {
    assert_owner_ends_with_its_daemon(&Pool::with(|machine| machine, HostOptions::unprivileged));
}

/// An example is a script that starts the hook without exec. The script ends with the hook, and the daemon does not.
#[test]
fn an_owner_outlives_a_program_between_the_daemon_and_the_hook() {
    let pool = Pool::with(|machine| machine, |head| head.hook(Hook::Program("/opt/between".to_owned())));
    fs::create_dir_all(pool.head.path("/opt/offload")).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_offload"), pool.head.path("/opt/offload/offload")).unwrap();
    let script =
        "#!/bin/sh\ntest \"$1\" = offload || exec /usr/bin/guix \"$@\"\n/opt/offload/offload \"$@\"; exit $?\n";
    pool.head.write("/opt/between", script);
    fs::set_permissions(pool.head.path("/opt/between"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_owner_ends_with_its_daemon(&pool);
}

fn assert_owner_ends_with_its_daemon(pool: &Pool) {
    pool.owner_after(&Drv::new("first"));
    let before = sockets(pool);
    // The client and its child of the daemon have ended by now. The daemon has not.
    let daemons = || pool.head.processes().into_iter().filter(|process| process.name == "guix-daemon");
    wait_until("the daemon serves no client", LONG, || daemons().count() == 1);
    assert_eq!(sockets(pool), before);
    // This ends the process group of the daemon. Owners do not belong to it.
    pool.head.stop_daemon();
    pool.await_idle(0);
    wait_until("the machine has no session", LONG, || pool.has_no_session());
    pool.head.start_daemon();
    pool.owner_after(&Drv::new("second"));
}
