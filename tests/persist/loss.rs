//! Builds that lose their session: the owner or the hook is killed, the link freezes, the daemon stops.

use crate::lab::{Direction, Drv, LONG, Signal, wait_until};
use crate::pool::{MIB, Pool, is_reused, prefer};

#[test]
fn a_killed_owner_fails_no_build() {
    let pool = Pool::new();
    let Pool { machine, head, .. } = &pool;
    // While no build uses the session.
    let owner = pool.owner_after(&Drv::new("first"));
    let stale = pool.sockets();
    owner.signal(Signal::KILL);
    wait_until("the owner is gone", LONG, || pool.owners().is_empty());
    assert_eq!(pool.sockets(), stale);
    let result = pool.build(&Drv::new("second"));
    assert!(!is_reused(&result) && !result.log.contains("could not be built on"), "{}", result.log);
    pool.await_idle(1);
    assert_ne!(pool.sockets(), stale);

    // During a build.
    let mut build = pool.start(&pool.long("third"));
    build.wait_for_log("here we are");
    pool.owners()[0].signal(Signal::KILL);
    wait_until("the build starts again", LONG, || machine.built() == ["first", "second", "third", "third"]);
    pool.release_builds();
    let result = build.wait().succeeded();
    assert!(is_reused(&result), "{}", result.log);
    assert!(result.log.contains("the process that owns the connection to it has ended"), "{}", result.log);
    assert_eq!(head.read(result.output("third")), b"done\n");
    // This does not count as a failure of the machine.
    assert!(!head.health_of("link:2022").contains("the process that owns"), "{}", head.health_of("link:2022"));
    pool.await_idle(1);
    head.await_no_lock("afterwards");
    head.verify_store();
}

#[test]
fn a_killed_hook_ends_its_build_and_leaves_the_session_open() {
    let pool = Pool::new();
    let Pool { machine, head, .. } = &pool;
    pool.owner_after(&Drv::new("first"));
    let is_cancelled = |case: &str| {
        let daemons = || machine.processes().into_iter().filter(|process| process.name == "guix-daemon").count();
        wait_until(&format!("{case}: no builder runs"), LONG, || daemons() == 1 && !machine.is_building());
        // The session stays open.
        pool.await_idle(1);
        head.await_no_lock(case);
    };
    let start = |name: &str| {
        let mut build = pool.start(&pool.long(name));
        build.wait_for_log("here we are");
        assert!(build.log().contains("debug: reuse: "), "{}", build.log());
        build
    };

    let build = start("interrupted");
    build.interrupt(Signal::INT);
    is_cancelled("a client that goes away");

    pool.owner_after(&Drv::new("second"));
    let build = start("killed");
    let hooks = head
        .processes()
        .into_iter()
        .filter(|process| process.name != "offload-session" && process.command.split(' ').nth(1) == Some("offload"));
    let [hook] = &hooks.collect::<Vec<_>>()[..] else { panic!("not one hook: {:?}", head.processes()) };
    hook.signal(Signal::KILL);
    let result = build.wait();
    assert_ne!(result.status, Some(0), "{}", result.log);
    is_cancelled("a hook that is killed");

    pool.release_builds();
    pool.owner_after(&Drv::new("third"));
    head.verify_store();
}

#[test]
fn a_frozen_link_moves_the_build() {
    let pool = Pool::new();
    let near = pool.lab.build_machine("near").start();
    let Pool { machine, head, .. } = &pool;
    // While no build uses the session. The next build finds out before it is accepted.
    // The hook may end before it has noticed. Then the session ends by its own limit.
    prefer(&pool, pool.entry().set("stall_timeout", 10), &near);
    pool.owner_after(&Drv::new("first"));
    prefer(&pool, pool.entry().set("stall_timeout", 10).set("connect_timeout", 2), &near);
    pool.link.freeze();
    let result = pool.build(&Drv::new("second"));
    assert_eq!(near.built(), ["second"]);
    assert!(!result.log.contains("could not be built on 'link'"), "{}", result.log);
    pool.await_idle(0);

    // While a build uses the session.
    pool.link.thaw();
    pool.link.cut();
    prefer(&pool, pool.entry().set("stall_timeout", 5), &near);
    pool.owner_after(&Drv::new("third"));
    let mut build = pool.start(&pool.long("fourth"));
    near.write("/var/lab/go", "");
    build.wait_for_log("here we are");
    pool.link.freeze();
    let result = build.wait().succeeded();
    assert!(is_reused(&result), "{}", result.log);
    assert!(result.log.contains("could not be built on 'link': building: "), "{}", result.log);
    assert_eq!(near.built(), ["second", "fourth"]);
    pool.await_idle(0);
    pool.link.cut();
    wait_until("no builder runs", LONG, || !machine.is_building());
    head.await_no_lock("afterwards");
    head.verify_store();
}

/// The daemon is stopped, and its sshd is not. sshd accepts data until its buffers are full.
#[test]
fn a_daemon_that_stops_during_an_upload_moves_the_build() {
    let pool = Pool::new();
    let near = pool.lab.build_machine("near").start();
    let Pool { machine, head, .. } = &pool;
    prefer(&pool, pool.entry(), &near);
    pool.owner_after(&Drv::new("first"));
    prefer(&pool, pool.entry().set("stall_timeout", 3), &near);
    head.run("sh", &["-c", &format!("head -c {} /dev/urandom >/tmp/large", 16 * MIB)]);
    pool.link.throttle(Some(2 * MIB as u64));
    let before = pool.link.passed(Direction::ToTarget);
    let build = pool.start(&Drv::new("second").file("data", "/tmp/large").script("cp $data $out"));
    wait_until("some input is sent", LONG, || pool.link.passed(Direction::ToTarget) > before + MIB as u64);
    machine.freeze_daemon();
    let result = build.wait().succeeded();
    assert!(is_reused(&result), "{}", result.log);
    assert!(result.log.contains("could not be built on 'link': sending inputs: "), "{}", result.log);
    assert_eq!(near.built(), ["second"]);
    machine.thaw();
    head.await_no_lock("afterwards");
}
