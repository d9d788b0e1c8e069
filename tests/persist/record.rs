//! What the hook records about a machine while builds share a session.

use std::sync::Mutex;

use offload::internals::state::Health;
use offload::internals::state::health;
use offload::internals::status::MachineStatus;

use crate::lab::Drv;
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
    let renewed = Mutex::new(Health::default());
    head.change_health(link.name(), |health| {
        *renewed.lock().unwrap() = health.clone();
        health
    });
    let renewed = renewed.into_inner().unwrap();
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
