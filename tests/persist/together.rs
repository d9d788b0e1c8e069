//! Hooks that need a session at the same time.

use std::fs::File;
use std::io::Write;

use crate::lab::{Direction, Drv, LONG, wait_until};
use crate::pool::{Pool, is_reused};

/// The number of hooks.
const COUNT: i32 = 8;

fn starts(pool: &Pool) -> Vec<Drv> {
    (0..COUNT).map(|number| pool.long(&format!("start-{number}"))).collect()
}

fn build_together(pool: &Pool, drvs: &[Drv]) {
    let result = pool.head.client().start(&drvs.iter().collect::<Vec<_>>());
    wait_until("all builds run at the same time", LONG, || pool.machine.built().len() == COUNT as usize);
    pool.release_builds();
    let result = result.wait().succeeded();
    assert!(!result.log.contains("could not be built on"), "{}", result.log);
}

#[test]
fn hooks_that_start_together_need_one_login() {
    let pool = Pool::new();
    pool.head.write_machines(&[pool.entry().set("parallel_builds", COUNT)]);
    // The machine's state is not known, so the first hook probes it.
    build_together(&pool, &starts(&pool));
    assert_eq!(pool.link.connections(), 1);
    pool.await_idle(1);
}

#[test]
fn hooks_that_start_together_and_need_no_probe_need_one_login() {
    let pool = Pool::new();
    pool.head.write_machines(&[pool.entry().set("parallel_builds", COUNT)]);
    pool.head.mark_healthy(pool.link.name());
    build_together(&pool, &starts(&pool));
    assert_eq!(pool.link.connections(), 1);
    pool.await_idle(1);
}

#[test]
fn a_busy_session_gets_a_second_one() {
    let pool = Pool::new();
    let Pool { link, head, .. } = &pool;
    head.write_machines(&[pool.entry().set("parallel_builds", 3)]);
    pool.owner_after(&Drv::new("before"));
    let before = link.passed(Direction::FromTarget);
    // Busy, and for some seconds, however fast the machine is.
    link.throttle(Some(60_000_000));
    let large = head.client().start(&[&Drv::new("large").script("head -c 400000000 /dev/zero >$out")]);
    wait_until("much has come back", LONG, || link.passed(Direction::FromTarget) > before + 50_000_000);
    assert_eq!(link.connections(), 1);
    let beside = pool.build(&Drv::new("beside"));
    // The owner says so, and the hook does not wait for an owner that has ended.
    assert!(beside.log.contains("the connection to it is busy"), "{}", beside.log);
    assert!(!beside.log.contains("has ended"), "{}", beside.log);
    assert_eq!(link.connections(), 2);
    link.throttle(None);
    large.wait().succeeded();
    // Both sessions stay open, and neither is busy now.
    pool.await_idle(2);
    let result = pool.build(&Drv::new("after"));
    assert!(is_reused(&result), "{}", result.log);
    assert_eq!(link.connections(), 2);
}

#[test]
fn a_session_that_only_probed_ends_soon() {
    let pool = Pool::new();
    let near = pool.lab.build_machine("near").start();
    // Both are probed, and the better one builds.
    let link = pool.entry().set("speed", 0.5).set("keep_connection", 600);
    pool.head.write_machines(&[link, near.entry().set("speed", 1000).set("keep_connection", 600)]);
    pool.head.build(&[&Drv::new("first")]).succeeded();
    assert_eq!(near.built(), ["first"]);
    wait_until("one session stays open", LONG, || pool.owners().len() == 1 && pool.has_no_session());
    assert_eq!(pool.machine.built(), [""; 0]);
}

/// An owner serves at most 128 hooks at the same time. More hooks share two sessions or a few. `OFFLOAD_CAMPAIGN` makes a
/// thousand of them.
#[test]
fn a_crowd_of_hooks_needs_few_logins() {
    let (clients, builds) = if std::env::var_os("OFFLOAD_CAMPAIGN").is_some() { (8, 125) } else { (2, 80) };
    let slots = clients * builds;
    let pool = Pool::new();
    let entry = pool.entry().set("parallel_builds", slots).set("overload_threshold", false);
    pool.head.write_machines(&[entry]);
    pool.head.mark_healthy(pool.link.name());
    // A builder that waits uses no processor time.
    let gate = pool.machine.path("/var/lab/gate");
    pool.machine.run("mkfifo", &["/var/lab/gate"]);
    let waiting = |client: i32, number: i32| {
        let script = "read line </var/lab/gate; echo done >$out";
        Drv::new(&format!("crowd-{client}-{number}")).script(script)
    };
    let start = |client| {
        let drvs: Vec<Drv> = (0..builds).map(|number| waiting(client, number)).collect();
        pool.head.client().limit(15 * LONG).start(&drvs.iter().collect::<Vec<_>>())
    };
    let running: Vec<_> = (0..clients).map(start).collect();
    wait_until("all builds run at the same time", 5 * LONG, || pool.machine.built().len() == slots as usize);
    let owners = pool.owners();
    let peaks: Vec<u64> = owners.iter().map(crate::lab::Process::peak_memory).collect();
    eprintln!("{slots} hooks: {} logins, peaks of the owners {peaks:?} bytes", pool.link.connections());
    assert!(pool.link.connections() <= slots as u32 / 64 + 1, "{} logins", pool.link.connections());
    assert!(peaks.iter().all(|peak| *peak < crate::data::OWNER_MEMORY_MAX), "{peaks:?}");
    // Each builder reads one line, and none reads the end of the pipe.
    let mut gate = File::options().write(true).open(gate).unwrap();
    gate.write_all(&vec![b'\n'; slots as usize]).unwrap();
    for build in running {
        let result = build.wait().succeeded();
        assert!(!result.log.contains("could not be built on"), "{}", result.log);
    }
    drop(gate);
    pool.head.await_no_lock("afterwards");
}

/// A build may reuse the session of a probe, which alone would end after two seconds.
#[test]
fn a_build_over_the_session_of_a_probe_leaves_it_open() {
    let pool = Pool::new();
    let near = pool.lab.build_machine("near").start();
    let entries = |link: f64, near: f64| (pool.entry().set("speed", link), near);
    let write = |(link, speed): (crate::lab::Entry, f64)| {
        let near = near.entry().set("speed", speed).set("keep_connection", false);
        pool.head.write_machines(&[link, near]);
    };
    write(entries(0.5, 1000.0));
    pool.head.build(&[&Drv::new("first")]).succeeded();
    assert_eq!(near.built(), ["first"]);
    write(entries(1000.0, 0.5));
    pool.head.build(&[&Drv::new("second")]).succeeded();
    assert_eq!(pool.machine.built(), ["second"]);
    let end = std::time::Instant::now();
    wait_until("the session of a probe would have ended", LONG, || end.elapsed().as_secs() >= 4);
    assert_eq!(pool.owners().len(), 1);
}
