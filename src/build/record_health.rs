//! Records of the health of a machine, for later builds.

use log::{debug, warn};

use crate::machine::Machine;
use crate::remote::Connection;
use crate::state::health::{self, Health, STATUS_TTL};
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
    let record = record.read();
    if record.failures.is_none() && record.age(health::now()).is_some_and(|age| age < STATUS_TTL / 2) {
        return;
    }
    match connection.probe(store.as_str()) {
        Ok(status) => record_success(state, machine, status),
        Err(error) => debug!("no status after the build: {error}"),
    }
}
