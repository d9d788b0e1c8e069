//! The records of this head about each machine of the pool. No machine is contacted.
//!
//! Entries of the machine file for one host, with the same name and port, share these records: they are one machine.

use std::collections::BTreeMap;

use crate::machine::{Machine, label};
use crate::machine_file::Pool;
use crate::state::health::Time;
use crate::state::{Drain, HealthRecord, Phase, PowerRecord, Slots, StateDirectory};

/// The records of this head about a machine. Times are in milliseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MachineRecord {
    pub name: String,
    pub slots: u32,
    /// `None`: they cannot be counted.
    pub taken: Option<usize>,
    pub is_enabled: bool,
    pub is_drained: bool,
    /// Consecutive failures; 0: the last contact succeeded.
    pub failures: u32,
    pub back_off: Time,
    pub last_contact: Option<Time>,
    /// The state of a machine on demand.
    pub power: Option<Phase>,
    /// How long it has been on since its start, if it is on.
    pub on: Option<Time>,
}

/// Returns the records of all machines, each host once.
pub fn machines(pool: &Pool, state: &StateDirectory, now: Time) -> Vec<MachineRecord> {
    let mut hosts: BTreeMap<String, &Machine> = BTreeMap::new();
    for entry in &pool.machines {
        let machine = &entry.machine;
        let host = hosts.entry(label(&machine.name, machine.port)).or_insert(machine);
        // A host is enabled if one of its entries is.
        if machine.enabled {
            *host = machine;
        }
    }
    let record = |(name, machine): (String, &Machine)| {
        let health = HealthRecord::of(state, machine).map(|record| record.read()).unwrap_or_default();
        let failures = health.failures.as_ref();
        let power = machine.on_demand.as_ref().and_then(|_| PowerRecord::of(state, machine).ok());
        let power = power.map(|record| record.read());
        MachineRecord {
            name,
            slots: machine.parallel_builds,
            taken: Slots::of(state, machine).and_then(|slots| slots.taken()).ok().map(|taken| taken.len()),
            is_enabled: machine.enabled,
            is_drained: Drain::of(state, machine).is_ok_and(|drain| drain.read(now).is_some()),
            failures: failures.map_or(0, |failures| failures.count),
            back_off: failures.filter(|failures| !failures.is_over(now)).map_or(0, |failures| {
                let until = failures.last.saturating_add(failures.back_off().as_millis() as Time);
                until.saturating_sub(now)
            }),
            last_contact: health.measured,
            power: power.as_ref().map(|power| power.phase),
            on: power
                .filter(|power| power.phase != Phase::Off && power.started > 0)
                .map(|power| now.saturating_sub(power.started)),
        }
    };
    hosts.into_iter().map(record).collect()
}
