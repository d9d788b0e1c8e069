//! Records of the health of a machine, for later builds.

use log::{debug, warn};

use crate::machine::Machine;
use crate::remote::Connection;
use crate::state::health::{self, Health, STATUS_TTL, Time};
use crate::state::{HealthRecord, StateDirectory};
use crate::status::MachineStatus;
use crate::store::path::StoreDir;

/// Records that `machine` was reached.
pub fn record_success(state: &StateDirectory, machine: &Machine, status: MachineStatus) {
    let mut status = Some(status);
    change_health(state, machine, &mut |_| Health::reached(status.take().unwrap_or_default(), health::now()));
}

/// Records that `machine` could not be reached, or failed a build.
pub fn record_failure(state: &StateDirectory, machine: &Machine, error: &str) {
    change_health(state, machine, &mut |health| health.after_failure(error, health::now()));
}

/// Records that its SSH server temporarily refuses logins from this address.
pub(super) fn record_ban(state: &StateDirectory, machine: &Machine, error: &str) {
    change_health(state, machine, &mut |health| health.after_ban(error, health::now()));
}

/// Changes the health record. If it cannot be written, later builds lose time, but no build fails.
pub(super) fn change_health(state: &StateDirectory, machine: &Machine, change: &mut dyn FnMut(Health) -> Health) {
    if let Err(error) = HealthRecord::of(state, machine).and_then(|record| record.change(change)) {
        warn!("cannot record the health of '{}': {error}", machine.name);
    }
}

/// Probes the status again after a build, so that the next decision finds a fresh record. A failure is ignored.
pub(super) fn refresh_status(state: &StateDirectory, machine: &Machine, store: &StoreDir, connection: &Connection) {
    let Ok(record) = HealthRecord::of(state, machine) else { return };
    if is_recent(&record.read(), health::now()) {
        return;
    }
    match connection.probe(store.as_str()) {
        Ok(status) => record_success(state, machine, status),
        Err(error) => debug!("no status after the build: {error}"),
    }
}

/// Returns whether the status will be fresh for a while, so that no probe is due.
fn is_recent(health: &Health, now: Time) -> bool {
    health.failures.is_none() && health.age(now).is_some_and(|age| age < STATUS_TTL / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::health::BAN_MIN;

    fn status(load: f64) -> MachineStatus {
        MachineStatus { load1: Some(load), ..MachineStatus::default() }
    }

    #[test]
    fn each_outcome_leaves_its_record() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path().to_owned());
        let [machine, other] =
            ["b1", "b2"].map(|name| Machine::new(name, "offload", vec!["x86_64-linux".into()], Vec::new()));
        let health = |machine: &Machine| HealthRecord::of(&state, machine).unwrap().read();
        record_success(&state, &machine, status(0.5));
        assert_eq!((health(&machine).status, health(&machine).failures), (Some(status(0.5)), None));
        record_failure(&state, &machine, "lost");
        let failures = health(&machine).failures.unwrap();
        assert_eq!((failures.count, &*failures.error, failures.is_ban), (1, "lost", false));
        // The same failure, found by another build.
        record_failure(&state, &machine, "lost again");
        assert_eq!(health(&machine).failures.unwrap().count, 1);
        record_success(&state, &machine, status(0.25));
        assert_eq!((health(&machine).status, health(&machine).failures), (Some(status(0.25)), None));
        record_ban(&state, &machine, "not now");
        let failures = health(&machine).failures.unwrap();
        assert!(failures.is_ban && failures.error == "not now" && failures.back_off() >= BAN_MIN, "{failures:?}");
        assert_eq!(health(&other), Health::default());
    }

    #[test]
    fn a_status_is_measured_again_once_half_its_time_is_over() {
        let half = STATUS_TTL.as_millis() as Time / 2;
        let measured = 1_000_000;
        let reached = Health::reached(status(0.5), measured);
        assert!(is_recent(&reached, measured) && is_recent(&reached, measured + half - 1));
        assert!(!is_recent(&reached, measured + half));
        // A clock that was set back.
        assert!(!is_recent(&reached, measured - 1));
        assert!(!is_recent(&Health::default(), measured));
        assert!(!is_recent(&reached.after_failure("lost", measured), measured));
    }
}
