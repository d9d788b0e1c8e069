use std::fs;
use std::thread;

use super::*;

fn seconds(count: u64) -> Time {
    1_000_000 + count * 1000
}

fn record(directory: &tempfile::TempDir) -> HealthRecord {
    let machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
    HealthRecord::of(&StateDirectory::new(directory.path()), &machine).unwrap()
}

/// Returns the back-off in seconds.
fn wait(health: &Health) -> u64 {
    health.failures.as_ref().unwrap().back_off().as_secs()
}

/// A host that was chosen on its record and does not respond is not fresh any more; a result ends that.
#[test]
fn a_pending_contact_ends_freshness_until_the_host_responds() {
    let (measured, at) = (1_000_000, 1_005_000);
    let reached = Health::reached(MachineStatus::default(), measured);
    let pending = reached.clone().contact_pending(at);
    assert!(pending.is_contact_pending() && !reached.is_contact_pending());
    assert_eq!(pending.availability(at + 1000), Availability::Probing { since: at });
    // The earliest contact counts.
    let both = pending.clone().contact_pending(at + 2000);
    assert_eq!(both.availability(at + 2001), Availability::Probing { since: at });
    assert_eq!(pending.clone().contact_ended(), reached);
    // Without any result the next probe counts it as a failure.
    let later = at + BACK_OFF_MIN.as_millis() as Time;
    assert_eq!(pending.availability(later), Availability::Unknown { after_failure: false });
    assert_eq!(pending.clone().probe_started(later).failures.unwrap().count, 1);
    // A probe of a record that was not fresh is no such contact, and a failure stays.
    let old = measured + STATUS_TTL.as_millis() as Time;
    assert!(!reached.clone().probe_started(old).is_contact_pending());
    let failed = pending.after_failure("lost", at + 1);
    assert!(!failed.is_contact_pending() && failed.clone().contact_ended() == failed);
}

#[test]
fn back_off_doubles_and_is_bounded() {
    let mut health = Health::default();
    let mut now = seconds(0);
    let mut waits = Vec::new();
    for _ in 0..8 {
        health = health.after_failure("refused", now);
        waits.push(wait(&health));
        now += wait(&health) * 1000 - 1;
        assert!(matches!(health.availability(now), Availability::BackingOff { .. }));
        now += 1;
        assert_eq!(health.availability(now), Availability::Unknown { after_failure: true });
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300, 300]);
}

#[test]
fn many_that_fail_together_count_once() {
    let mut health = Health::default();
    for second in 0..9 {
        health = health.after_failure("refused", seconds(second));
    }
    let failures = health.failures.as_ref().unwrap();
    assert_eq!((failures.count, failures.since, failures.last), (1, seconds(0), seconds(0)));
    health = health.after_failure("timed out", seconds(10)).after_failure("refused", seconds(12));
    let failures = health.failures.unwrap();
    assert_eq!((failures.count, failures.since, failures.last), (2, seconds(0), seconds(10)));
    assert_eq!(failures.error, "timed out");
}

#[test]
fn a_clock_set_back_ends_back_off_and_freshness() {
    let health = Health::reached(MachineStatus::default(), seconds(100));
    assert_eq!(health.availability(seconds(101)), Availability::Fresh);
    assert_eq!(health.availability(seconds(130)), Availability::Unknown { after_failure: false });
    assert_eq!(health.availability(seconds(99)), Availability::Unknown { after_failure: false });
    let health = health.after_failure("refused", seconds(100));
    assert!(matches!(health.availability(seconds(101)), Availability::BackingOff { .. }));
    assert_eq!(health.availability(seconds(99)), Availability::Unknown { after_failure: true });
    let health = health.after_failure("refused", seconds(50));
    assert!(matches!(health.availability(seconds(51)), Availability::BackingOff { until, .. } if until == seconds(70)));
    let probing_since = Health::default().probe_started(seconds(100));
    assert_eq!(probing_since.availability(seconds(101)), Availability::Probing { since: seconds(100) });
    assert_eq!(probing_since.availability(seconds(99)), Availability::Unknown { after_failure: false });
    assert_eq!(probing_since.probe_started(seconds(99)).failures, None);
}

#[test]
fn a_probe_without_a_result_is_a_failure_in_time() {
    let health = Health::reached(MachineStatus::default(), seconds(0)).probe_started(seconds(40));
    assert_eq!(health.availability(seconds(49)), Availability::Probing { since: seconds(40) });
    assert_eq!(health.availability(seconds(50)), Availability::Unknown { after_failure: false });
    let health = health.probe_started(seconds(50));
    assert_eq!(health.availability(seconds(51)), Availability::Probing { since: seconds(50) });
    assert_eq!(health.failures.as_ref().unwrap().last, seconds(40));
    // The back-off is as long as after two failures.
    assert_eq!(health.availability(seconds(69)), Availability::Probing { since: seconds(50) });
    assert_eq!(health.availability(seconds(70)), Availability::Unknown { after_failure: true });
}

#[test]
fn a_killed_probe_costs_a_healthy_host_one_back_off() {
    let health = Health::reached(MachineStatus::default(), seconds(0)).probe_started(seconds(40));
    // Its process has ended. The next one may probe when the first back-off is over, and counts the failure.
    let probing_since = health.probe_started(seconds(50));
    assert_eq!(probing_since.failures.as_ref().unwrap().count, 1);
    let failed = probing_since.clone().after_failure("refused", seconds(51));
    assert_eq!((failed.failures.as_ref().unwrap().count, wait(&failed)), (2, 20));
    // A host that responds has no failures.
    let well = Health::reached(MachineStatus::default(), seconds(51));
    assert_eq!((well.availability(seconds(52)), well.failures), (Availability::Fresh, None));
}

#[test]
fn a_ban_is_waited_out() {
    let mut health = Health::default();
    let mut now = seconds(0);
    let mut waits = Vec::new();
    for _ in 0..4 {
        health = health.after_ban("Not allowed at this time", now);
        // A process that reports the error again does not shorten the back-off.
        health = health.after_failure("Not allowed at this time", now + 1);
        waits.push(wait(&health));
        now += wait(&health) * 1000;
    }
    assert_eq!(waits, [15, 20, 40, 80]);
    // Another failure is not a ban.
    let health = Health::default().after_ban("no", seconds(0)).after_failure("refused", seconds(15));
    assert_eq!(wait(&health), 20);
    assert_eq!(wait(&Health::default().after_failure("refused", seconds(0))), 10);
}

#[test]
fn failures_keep_the_status_and_success_clears_them() {
    let status = MachineStatus { cores: Some(4), ..MachineStatus::default() };
    let health =
        Health::reached(status.clone(), seconds(0)).probe_started(seconds(1)).after_failure("refused", seconds(1));
    assert_eq!((health.status, health.probing_since), (Some(status.clone()), None));
    assert_eq!(Health::reached(status, seconds(2)).availability(seconds(2)), Availability::Fresh);
}

#[test]
fn records_survive_and_an_invalid_record_is_empty() {
    let directory = tempfile::tempdir().unwrap();
    let record = record(&directory);
    assert_eq!(record.read(), Health::default());
    record.change(|health| health.after_failure("refused", seconds(0))).unwrap();
    let mut announced = Health::default().after_failure("refused", seconds(0));
    announced.failures.as_mut().unwrap().is_announced = true;
    assert_eq!(record.read(), announced);
    for rubbish in [&b"{"[..], b"[", b"{\"trouble\":7}", &[b' '; 100_000]] {
        fs::write(record.record.path(), rubbish).unwrap();
        assert_eq!(record.read(), Health::default());
    }
    record.change(|health| health.probe_started(seconds(0))).unwrap();
    assert_eq!(record.read().probing_since, Some(seconds(0)));
}

#[test]
fn no_change_undoes_another() {
    let directory = tempfile::tempdir().unwrap();
    let record = record(&directory);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    // Each failure comes after the longest back-off, so that each counts.
                    let later =
                        |health: &Health| health.failures.as_ref().map_or(0, |failures| failures.last + 400_000);
                    // On a loaded machine a thread may wait for the lock longer than a change does.
                    while let Err(error) = record.change(|health| {
                        let now = later(&health);
                        health.after_failure("refused", now)
                    }) {
                        assert_eq!(error.cause.kind(), std::io::ErrorKind::TimedOut, "{error}");
                    }
                }
            });
        }
    });
    assert_eq!(record.read().failures.unwrap().count, 200);
}

#[test]
fn one_process_probes_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let record = record(&directory);
    let probe_started = record.try_probe_lock().unwrap().unwrap();
    assert!(record.try_probe_lock().unwrap().is_none());
    drop(probe_started);
    assert!(record.try_probe_lock().unwrap().is_some());
}

/// Returns the record of a host, and the kinds and reasons of the events about it.
fn watched(directory: &tempfile::TempDir) -> (HealthRecord, std::sync::Arc<std::sync::Mutex<Vec<String>>>) {
    let events = std::sync::Arc::<std::sync::Mutex<Vec<String>>>::default();
    let known = std::sync::Arc::clone(&events);
    let listener = crate::events::pool::PoolListener::new(move |event| known.lock().unwrap().push(event.to_string()));
    let state = StateDirectory::new(directory.path()).with_listener(listener);
    (HealthRecord::of(&state, &Machine::new("b1", "root", Vec::new(), Vec::new())).unwrap(), events)
}

#[test]
fn a_host_that_goes_down_or_comes_up_is_one_event() {
    let directory = tempfile::tempdir().unwrap();
    let (record, events) = watched(&directory);
    let reached = |_| Health::reached(MachineStatus::default(), now());
    let change = |change: &dyn Fn(Health) -> Health| record.change(change).unwrap();
    change(&reached);
    assert_eq!(*events.lock().unwrap(), [""; 0]);
    // The second failure is that of another process, or comes after the back-off.
    change(&|health| health.after_failure("gone", now()));
    change(&|health| health.after_failure("gone", now()));
    change(&|health| health.after_ban("later", now() + 1_000_000));
    // A probe that has begun says nothing.
    change(&|health| health.probe_started(now()));
    change(&|health| health.probe_started(now()));
    change(&|health| health.after_failure("still gone", now() + 9_000_000));
    change(&reached);
    change(&reached);
    assert_eq!(*events.lock().unwrap(), ["'b1' is down: gone", "'b1' is up again"]);
}

#[test]
fn a_probe_whose_process_ended_is_no_event_until_one_fails() {
    let directory = tempfile::tempdir().unwrap();
    let (record, events) = watched(&directory);
    for time in [1_000, 900_000] {
        record.change(|health| health.probe_started(time)).unwrap();
    }
    assert!(record.read().failures.is_some());
    record.change(|_| Health::reached(MachineStatus::default(), 1_800_000)).unwrap();
    assert_eq!(*events.lock().unwrap(), [""; 0]);
    for time in [2_000_000, 2_900_000] {
        record.change(|health| health.probe_started(time)).unwrap();
    }
    record.change(|health| health.after_failure("silent", 3_800_000)).unwrap();
    assert_eq!(*events.lock().unwrap(), ["'b1' is down: silent"]);
}
