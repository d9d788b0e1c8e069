//! Stopping the machines on demand that no build needs any more.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread;

use super::stop::stop_if;
use super::{Head, PowerError};
use crate::machine::{Machine, OnDemand};
use crate::state::power::machines_that_run;
use crate::state::{Phase, Power, PowerRecord, Slots, health};

/// How many machines are stopped at the same time.
const MAX_PARALLEL_STOPS: usize = 16;

/// What became of a machine.
#[derive(Debug)]
pub struct Reaped {
    /// Its address.
    pub machine: String,
    /// Whether it was stopped; an error if it should have been.
    pub result: Result<(), PowerError>,
}

/// Stops each machine that is idle, or whose start or stop was interrupted. Returns those, and the machines that run and
/// are not in the machine file any more.
pub fn reap(head: Head<'_>) -> (Vec<Reaped>, Vec<String>) {
    let mut known = BTreeSet::new();
    let entries = head.pool.machines.iter().enumerate();
    let machines =
        entries.filter_map(|(index, entry)| Some((index, &entry.machine, entry.machine.on_demand.as_ref()?)));
    let machines: Vec<_> = machines.filter(|(_, machine, _)| known.insert(machine.address())).collect();
    let (count, machines) = (machines.len(), Mutex::new(machines.into_iter()));
    let next = || machines.lock().ok().and_then(|mut machines| machines.next());
    let work = || {
        std::iter::from_fn(next)
            .filter_map(|(index, machine, on_demand)| reap_one(head, index, machine, on_demand))
            .collect::<Vec<_>>()
    };
    // A machine that does not stop in time must not let the others run on.
    let mut reaped: Vec<Reaped> = thread::scope(|scope| {
        let workers: Vec<_> = (0..count.min(MAX_PARALLEL_STOPS)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).flatten().collect()
    });
    reaped.sort_by(|one, other| one.machine.cmp(&other.machine));
    let mut lost = machines_that_run(head.state);
    lost.retain(|address| !known.contains(address));
    (reaped, lost)
}

/// Stops one machine, if that is due.
fn reap_one(head: Head<'_>, index: usize, machine: &Machine, on_demand: &OnDemand) -> Option<Reaped> {
    let result = is_due(head, machine, on_demand).and_then(|is_due| match is_due {
        true => stop_if(head, index, |power| is_to_stop(power, on_demand)),
        false => Ok(false),
    });
    match result {
        Ok(false) => None,
        // A build has just begun, or another process is at work.
        Err(PowerError::InUse(_) | PowerError::Changing) => None,
        result => Some(Reaped { machine: machine.address(), result: result.map(drop) }),
    }
}

/// Returns whether [`reap`] would stop a machine now.
pub fn is_reaping_due(head: Head<'_>) -> bool {
    let machines = head.pool.machines.iter().map(|entry| &entry.machine);
    machines
        .filter_map(|machine| Some((machine, machine.on_demand.as_ref()?)))
        .any(|(machine, on_demand)| is_due(head, machine, on_demand).unwrap_or(false))
}

/// Returns whether the machine is to be stopped. Records that it is used, if builds run on it.
fn is_due(head: Head<'_>, machine: &Machine, on_demand: &OnDemand) -> Result<bool, PowerError> {
    let record = PowerRecord::of(head.state, machine)?;
    // The lock first: a process that changes the machine writes the result before it releases the lock.
    if record.is_changing()? {
        return Ok(false);
    }
    let (power, now) = (record.read(), health::now());
    if power.phase == Phase::Running && !Slots::of(head.state, machine)?.taken()?.is_empty() {
        record.change(|power| power.used = now)?;
        return Ok(false);
    }
    if power.used > now || power.started > now {
        // The clock was set back.
        record.change(|power| (power.used, power.started) = (power.used.min(now), power.started.min(now)))?;
    }
    Ok(is_to_stop(&power, on_demand))
}

/// Returns whether a machine is to be stopped that no process starts or stops.
fn is_to_stop(power: &Power, on_demand: &OnDemand) -> bool {
    match power.phase {
        Phase::Off => false,
        // Its start or stop was interrupted, or has failed.
        Phase::Starting | Phase::Stopping => true,
        Phase::Running => power.is_idle(health::now(), on_demand.idle, on_demand.min_up),
    }
}
