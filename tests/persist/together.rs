//! Hooks that need a session at the same time.

use crate::lab::{Drv, LONG, wait_until};
use crate::pool::Pool;

/// The number of hooks.
const COUNT: i32 = 8;

fn starts(pool: &Pool) -> Vec<Drv> {
    (0..COUNT).map(|number| pool.long(&format!("start-{number}"))).collect()
}

fn build_together(pool: &Pool, drvs: &[Drv]) {
    let result = pool.head.client().start(&drvs.iter().collect::<Vec<_>>());
    wait_until("all builds run at the same time", LONG, || pool.machine.built().len() == COUNT as usize);
    pool.let_go();
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
fn a_machine_that_was_only_probed_is_soon_left() {
    let pool = Pool::new();
    let near = pool.lab.build_machine("near").start();
    // Both are probed, and the better one builds.
    let link = pool.entry().set("speed", 0.5).set("keep_connection", 600);
    pool.head.write_machines(&[link, near.entry().set("speed", 1000).set("keep_connection", 600)]);
    pool.head.build(&[&Drv::new("first")]).succeeded();
    assert_eq!(near.built(), ["first"]);
    wait_until("one session stays open", LONG, || pool.holders().len() == 1 && pool.is_left());
    assert_eq!(pool.machine.built(), [""; 0]);
}
