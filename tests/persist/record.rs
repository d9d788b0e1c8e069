//! What the hook records about a machine while builds share a session.

use std::thread;
use std::time::Duration;

use offload::internals::state::Health;
use offload::internals::state::health;
use offload::internals::status::MachineStatus;

use crate::lab::{Direction, Drv, LONG, wait_until};
use crate::pool::{Pool, is_reused};

/// Otherwise the next decision would probe the machine, and the daemon would wait for that.
#[test]
fn a_build_over_a_reused_session_renews_the_status() {
    let pool = Pool::new();
    let Pool { head, link, .. } = &pool;
    pool.owner_after(&Drv::new("first"));
    let old = health::now() - 16_000;
    head.change_health(link.name(), |_| Health::reached(MachineStatus::default(), old));
    let connections = link.connections();
    let result = head.build(&[&Drv::new("second")]).succeeded();
    assert!(is_reused(&result), "{}", result.log);
    assert_eq!(link.connections(), connections);
    let renewed = pool.health();
    assert!(renewed.measured.is_some_and(|measured| measured > old), "{renewed:?}");
    assert!(renewed.status.is_some_and(|status| status.load1.is_some()));
    // The record is recent now.
    pool.await_idle(1);
    let result = head.build(&[&Drv::new("third")]).succeeded();
    assert!(is_reused(&result), "{}", result.log);
    assert_eq!(link.connections(), connections);
    pool.await_idle(1);
    head.await_no_lock("afterwards");
}

/// The hook probes a machine with an old record over the open session, and then builds over it.
#[test]
fn an_old_record_is_renewed_without_a_login() {
    let pool = Pool::new();
    let Pool { head, link, .. } = &pool;
    pool.owner_after(&Drv::new("first"));
    let connections = link.connections();
    let old = health::now() - 100_000;
    head.change_health(link.name(), |_| Health::reached(MachineStatus::default(), old));
    let result = head.build(&[&Drv::new("second")]).succeeded();
    assert!(is_reused(&result) && result.log.contains("debug: probe: "), "{}", result.log);
    assert_eq!(link.connections(), connections);
    pool.await_idle(1);
    head.await_no_lock("afterwards");
}

/// While no hook uses the session, its owner probes the machine. That does not keep the session open.
#[test]
fn the_status_is_recent_after_a_pause() {
    let pool = Pool::new();
    let Pool { head, link, .. } = &pool;
    let owner = pool.owner_after(&Drv::new("first"));
    let connections = link.connections();
    let sent = link.passed(Direction::ToTarget);
    // A keep-alive is shorter than the command of the probe.
    wait_until("the owner probes", LONG, || link.passed(Direction::ToTarget) > sent + 1000);
    thread::sleep(Duration::from_millis(500));
    head.change_health(link.name(), |_| Health::reached(MachineStatus::default(), health::now() - 100_000));
    let result = head.build(&[&Drv::new("second")]).succeeded();
    assert!(is_reused(&result) && !result.log.contains("debug: probe: "), "{}", result.log);
    assert_eq!(link.connections(), connections);
    let status = pool.health().status.expect("the machine has a status");
    assert!(status.load1.is_some() && status.free_disk.is_some(), "{status:?}");
    pool.await_idle(1);
    assert_eq!(pool.owners()[0].pid, owner.pid);

    // Longer than the time until the probe.
    head.write_machines(&[pool.entry().set("keep_connection", 18)]);
    pool.owner_after(&Drv::new("third"));
    wait_until("the session has ended", LONG, || pool.has_no_session() && pool.owners().is_empty());
}
