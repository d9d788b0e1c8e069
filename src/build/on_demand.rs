//! The machines on demand of a pool, as a build sees them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::machine::{Machine, PoolLimits};
use crate::scheduler::PowerState;
use crate::state::health::{self, Time};
use crate::state::power::check_limits;
use crate::state::{HealthRecord, Power, PowerRecord, Slots, StateDirectory};

/// Starts a machine in another process or thread, without waiting for it.
pub type Starter = Arc<dyn Fn(&Machine) + Send + Sync>;

/// The machines on demand of the pool.
#[derive(Clone, Default)]
pub struct OnDemand {
    pub machines: Vec<Machine>,
    pub limits: PoolLimits,
    pub start: Option<Starter>,
}

impl OnDemand {
    /// Returns whether the machine runs, according to its record.
    pub(super) fn power(&self, state: &StateDirectory, machine: &Machine) -> PowerState {
        let Some(on_demand) = &machine.on_demand else { return PowerState::Running };
        // Without the record it is treated as a machine that always runs.
        let Ok(record) = PowerRecord::of(state, machine) else { return PowerState::Running };
        // The lock first: if the change ends in between, the record has its result.
        let is_changing = record.is_changing().unwrap_or(false);
        let (power, now) = (record.read(), health::now());
        let limits = || self.check_limits(state, machine, &power, now);
        PowerState::of(&power, is_changing, now, on_demand.start_after, || is_dead(state, machine), limits)
    }

    /// Starts the machine, without waiting for it.
    pub(super) fn start(&self, machine: &Machine) {
        if let Some(start) = &self.start {
            start(machine);
        }
    }

    /// Returns an error if the limits of the pool forbid a start of `machine`. `own` is its record.
    fn check_limits(&self, state: &StateDirectory, machine: &Machine, own: &Power, now: Time) -> Result<(), String> {
        // The records of all machines are read only if they count.
        if self.limits == PoolLimits::default() {
            return Ok(());
        }
        let mut seen = BTreeSet::from([machine.address()]);
        let others = self.machines.iter().filter(|other| seen.insert(other.address()));
        let mut own = own.clone();
        own.off(now);
        let others = others.filter_map(|other| Some(PowerRecord::of(state, other).ok()?.read()));
        check_limits(&self.limits, &others.chain([own]).collect::<Vec<_>>(), now)
    }
}

/// Returns whether a machine that was started does not respond, and no build runs there. It may have stopped itself.
fn is_dead(state: &StateDirectory, machine: &Machine) -> bool {
    let is_failing = HealthRecord::of(state, machine).is_ok_and(|record| record.read().failures.is_some());
    is_failing && Slots::of(state, machine).and_then(|slots| slots.taken()).is_ok_and(|taken| taken.is_empty())
}

/// A machine that was never started is expected to boot within this part of its `boot_timeout`, which is set for the slowest
/// boot.
const ASSUMED_BOOT_PART: u32 = 4;

/// Returns how long a machine is expected to boot: the median of its last boots, if it was started before.
pub(super) fn boot_time(state: &StateDirectory, machine: &Machine) -> Duration {
    let Some(on_demand) = &machine.on_demand else { return Duration::ZERO };
    let known = PowerRecord::of(state, machine).ok().and_then(|record| record.read().boot_time());
    known.unwrap_or(on_demand.boot_timeout / ASSUMED_BOOT_PART)
}
