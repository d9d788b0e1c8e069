//! Builds that lose their session: the owner or the hook is killed, the link freezes, the daemon stops.

use crate::lab::{Direction, Drv, LONG, Signal, wait_until};
use crate::pool::{MIB, Pool, is_reused, prefer};

#[test]
fn a_keeper_that_is_killed() {
    let pool = Pool::new();
    let Pool { machine, head, .. } = &pool;
    // While nobody uses it.
    let holder = pool.kept_by(&Drv::new("first"));
    let stale = pool.sockets();
    holder.signal(Signal::KILL);
    wait_until("it is gone", LONG, || pool.holders().is_empty());
    assert_eq!(pool.sockets(), stale);
    let result = pool.build(&Drv::new("second"));
    assert!(!is_reused(&result) && !result.log.contains("could not be built on"), "{}", result.log);
    pool.await_idle(1);
    assert_ne!(pool.sockets(), stale);

    // In the middle of a build.
    let mut build = pool.start(&pool.long("third"));
    build.wait_for_log("here we are");
    pool.holders()[0].signal(Signal::KILL);
    wait_until("it begins anew", LONG, || machine.built() == ["first", "second", "third", "third"]);
    pool.let_go();
    let result = build.wait().succeeded();
    assert!(is_reused(&result), "{}", result.log);
    assert!(result.log.contains("the process that owns the connection to it has ended"), "{}", result.log);
    assert_eq!(head.read(result.output("third")), b"done\n");
    // The machine is not to blame.
    assert!(!head.health_of("link:2022").contains("the process that owns"), "{}", head.health_of("link:2022"));
    pool.await_idle(1);
    head.await_no_lock("afterwards");
    head.verify_store();
}

#[test]
fn a_hook_that_is_killed_while_it_borrows() {
    let pool = Pool::new();
    let Pool { machine, head, .. } = &pool;
    pool.kept_by(&Drv::new("first"));
    let is_cancelled = |case: &str| {
        let daemons = || machine.processes().into_iter().filter(|process| process.name == "guix-daemon").count();
        wait_until(&format!("{case}: nobody builds"), LONG, || daemons() == 1 && !machine.is_building());
        // The session goes on.
        pool.await_idle(1);
        head.await_no_lock(case);
    };
    let start = |name: &str| {
        let mut build = pool.start(&pool.long(name));
        build.wait_for_log("here we are");
        assert!(build.log().contains("debug: borrow: "), "{}", build.log());
        build
    };

    let build = start("interrupted");
    build.interrupt(Signal::INT);
    is_cancelled("a client that goes away");

    pool.kept_by(&Drv::new("second"));
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

    pool.let_go();
    pool.kept_by(&Drv::new("third"));
    head.verify_store();
}

#[test]
fn a_link_that_freezes() {
    let pool = Pool::new();
    let near = pool.lab.build_machine("near").start();
    let Pool { machine, head, .. } = &pool;
    // While nobody uses the connection. Nobody notices before the next build.
    prefer(&pool, pool.entry(), &near);
    pool.kept_by(&Drv::new("first"));
    prefer(&pool, pool.entry().set("connect_timeout", 2), &near);
    pool.link.freeze();
    let result = pool.build(&Drv::new("second"));
    assert_eq!(near.built(), ["second"]);
    assert!(result.log.contains("cannot reuse the persistent connection: "), "{}", result.log);
    assert!(result.log.contains("could not be built on 'link': "), "{}", result.log);
    pool.await_idle(0);

    // While a build goes on over it.
    pool.link.thaw();
    pool.link.cut();
    prefer(&pool, pool.entry().set("stall_timeout", 5), &near);
    pool.kept_by(&Drv::new("third"));
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
    wait_until("nobody builds", LONG, || !machine.is_building());
    head.await_no_lock("afterwards");
    head.verify_store();
}

/// Stopped, not ended: sshd beside it is well, and takes what is sent until it is full.
#[test]
fn a_daemon_that_stops_while_it_is_sent_to() {
    let pool = Pool::new();
    let near = pool.lab.build_machine("near").start();
    let Pool { machine, head, .. } = &pool;
    prefer(&pool, pool.entry(), &near);
    pool.kept_by(&Drv::new("first"));
    prefer(&pool, pool.entry().set("stall_timeout", 3), &near);
    head.run("sh", &["-c", &format!("head -c {} /dev/urandom >/tmp/large", 16 * MIB)]);
    pool.link.throttle(Some(2 * MIB as u64));
    let before = pool.link.passed(Direction::ToTarget);
    let build = pool.start(&Drv::new("second").file("data", "/tmp/large").script("cp $data $out"));
    wait_until("it is sent", LONG, || pool.link.passed(Direction::ToTarget) > before + MIB as u64);
    machine.freeze_daemon();
    let result = build.wait().succeeded();
    assert!(is_reused(&result), "{}", result.log);
    assert!(result.log.contains("could not be built on 'link': sending inputs: "), "{}", result.log);
    assert_eq!(near.built(), ["second"]);
    machine.thaw();
    head.await_no_lock("afterwards");
}
