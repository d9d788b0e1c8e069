//! Processes that keep a connection and cannot lend it: killed, stopped, ended, or left behind by their daemon.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use crate::lab::{Drv, Hook, HostOptions, LONG, Process, Signal, wait_until};
use crate::pool::{Pool, is_reused};

/// With one slot one connection may wait; those that are gone or stopped must not be in its way.
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
    wait_until("it is stopped", LONG, || is_stopped(process));
}

/// The sockets and their inodes.
fn sockets(pool: &Pool) -> Vec<(PathBuf, u64)> {
    pool.sockets().into_iter().map(|socket| (socket.clone(), fs::symlink_metadata(socket).unwrap().ino())).collect()
}

/// On other terms, nobody tries to borrow it, and so nobody finds out but who counts.
#[test]
fn a_connection_whose_keeper_was_killed_does_not_count() {
    let pool = one_slot();
    let holder = pool.kept_by(&Drv::new("first"));
    holder.signal(Signal::KILL);
    wait_until("it is gone", LONG, || pool.holders().is_empty());
    assert_eq!(pool.sockets().len(), 1);
    pool.head.write_machines(&[pool.entry().set("parallel_builds", 1).set("compression", "zlib")]);
    pool.build(&Drv::new("second"));
    pool.await_idle(1);
    let result = pool.build(&Drv::new("third"));
    assert!(is_reused(&result), "{}", result.log);
}

#[test]
fn a_stopped_keeper_is_passed_over_and_does_not_count() {
    let pool = one_slot();
    let stopped = pool.kept_by(&Drv::new("first"));
    stop(&stopped);
    let connections = pool.link.connections();
    let result = pool.build(&Drv::new("second"));
    assert!(!is_reused(&result), "{}", result.log);
    assert!(result.log.contains("the owner is stopped"), "{}", result.log);
    // The connection of that build is kept beside it, and lent.
    wait_until("another one keeps a connection", LONG, || pool.holders().len() == 2 && pool.sockets().len() == 2);
    for name in ["third", "fourth"] {
        let result = pool.build(&Drv::new(name));
        assert!(is_reused(&result), "{}", result.log);
        wait_until("it is given back", LONG, || pool.sockets().len() == 2);
    }
    assert_eq!(pool.link.connections(), connections + 1);
    // The first one goes on where it was, and is lent again.
    pool.holders().iter().filter(|holder| holder.pid != stopped.pid).for_each(|holder| holder.signal(Signal::KILL));
    stopped.signal(Signal::CONT);
    let result = pool.build(&Drv::new("fifth"));
    assert!(is_reused(&result), "{}", result.log);
    pool.await_idle(1);
    assert_eq!(pool.holders()[0].pid, stopped.pid);
}

/// The machine is well, and must not be blamed.
#[test]
fn a_keeper_that_is_stopped_while_it_lends() {
    let pool = Pool::new();
    let entry = || pool.entry().set("stall_timeout", 3).set("keepalive_interval", 1);
    pool.head.write_machines(&[entry()]);
    let holder = pool.kept_by(&Drv::new("first"));
    pool.head.mark_healthy(pool.link.name());
    // With a limit for silence, after which the daemon would be given up.
    let mut build = pool.head.client().max_silent_time(20).start(&[&pool.long("second")]);
    build.wait_for_log("here we are");
    stop(&holder);
    wait_until("it begins anew", LONG, || {
        build.log().contains("the process that owns the connection to it is stopped")
    });
    pool.let_go();
    let result = build.wait().succeeded();
    assert!(!result.log.contains("could not be built on"), "{}", result.log);
    assert_eq!(pool.head.read(result.output("second")), b"done\n");
    assert!(!pool.head.health_of("link:2022").contains("is stopped"), "{}", pool.head.health_of("link:2022"));
    // Let go on, it finds that nobody wants it any more.
    holder.signal(Signal::CONT);
    wait_until("it ends", LONG, || pool.holders().iter().all(|other| other.pid != holder.pid));
}

#[test]
fn sigterm_ends_a_keeper_and_leaves_nothing() {
    let pool = Pool::new();
    let holder = pool.kept_by(&Drv::new("first"));
    holder.signal(Signal::TERM);
    pool.await_idle(0);
    wait_until("nobody is logged in", LONG, || pool.is_left());

    // While it lends, the build begins anew.
    let holder = pool.kept_by(&Drv::new("second"));
    let mut build = pool.start(&pool.long("third"));
    build.wait_for_log("here we are");
    holder.signal(Signal::TERM);
    wait_until("it begins anew", LONG, || pool.machine.built() == ["first", "second", "third", "third"]);
    pool.let_go();
    let result = build.wait().succeeded();
    assert!(!result.log.contains("could not be built on"), "{}", result.log);
    pool.await_idle(1);
}

#[test]
fn keepers_end_with_their_daemon() {
    ends_with_its_daemon(&Pool::new());
}

#[test]
fn keepers_end_with_a_daemon_without_privileges() {
    ends_with_its_daemon(&Pool::with(|machine| machine, HostOptions::unprivileged));
}

/// Such as a script that starts the hook without exec: it ends with the hook, and the daemon does not.
#[test]
fn a_holder_outlives_a_program_between_the_daemon_and_the_hook() {
    let pool = Pool::with(|machine| machine, |head| head.hook(Hook::Program("/opt/between".to_owned())));
    fs::create_dir_all(pool.head.path("/opt/offload")).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_offload"), pool.head.path("/opt/offload/offload")).unwrap();
    let script =
        "#!/bin/sh\ntest \"$1\" = offload || exec /usr/bin/guix \"$@\"\n/opt/offload/offload \"$@\"; exit $?\n";
    pool.head.write("/opt/between", script);
    fs::set_permissions(pool.head.path("/opt/between"), fs::Permissions::from_mode(0o755)).unwrap();
    ends_with_its_daemon(&pool);
}

fn ends_with_its_daemon(pool: &Pool) {
    pool.kept_by(&Drv::new("first"));
    let before = sockets(pool);
    // The client and its process of the daemon have ended by now; the daemon has not.
    let daemons = || pool.head.processes().into_iter().filter(|process| process.name == "guix-daemon");
    wait_until("the daemon serves nobody", LONG, || daemons().count() == 1);
    assert_eq!(sockets(pool), before);
    // As when somebody ends it with its process group, of which keepers are none.
    pool.head.stop_daemon();
    pool.await_idle(0);
    wait_until("nobody is logged in", LONG, || pool.is_left());
    pool.head.start_daemon();
    pool.kept_by(&Drv::new("second"));
}
