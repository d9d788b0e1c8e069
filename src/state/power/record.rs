//! The record of a machine on demand.
//!
//! The record is `power.json` in the host's state directory. The process that starts or stops the machine holds the lock
//! of `power-change.lock` meanwhile. A machine without a record is off. If the record says that a machine is starting or
//! stopping and no process holds the lock, that process was killed: whether the machine runs is unknown, and it must be
//! stopped before it is started again.

use std::borrow::Cow;
use std::fs::File;
use std::path::PathBuf;

use super::{Phase, Power};
use crate::machine::{Machine, StartedAs};
use crate::permissions::files;
use crate::state::health::{self, Time};
use crate::state::json_record::JsonRecord;
use crate::state::lock::{is_locked, lock_briefly, try_lock};
use crate::state::{StateDirectory, StateError};

/// The files of the record of one host.
#[derive(Clone, Debug)]
pub struct PowerRecord {
    record: JsonRecord<Power>,
    lock: PathBuf,
}

/// The right to start or stop a machine, which one process has at a time.
#[derive(Debug)]
pub struct PowerLock(#[expect(dead_code, reason = "holds the lock")] File);

impl PowerRecord {
    /// Returns the record of the host that `machine` describes.
    pub fn of(state: &StateDirectory, machine: &Machine) -> Result<PowerRecord, StateError> {
        let lock = state.of(machine)?.join("power-change.lock");
        Ok(PowerRecord { record: JsonRecord::of(state, machine, "power")?, lock })
    }

    /// Reads the record. A record that cannot be read means that the machine may run.
    pub fn read(&self) -> Power {
        self.record.read().unwrap_or_else(|| match files::exists(self.record.path()) {
            true => Power { phase: Phase::Stopping, ..Power::default() },
            false => Power::default(),
        })
    }

    /// Changes the record, and returns the new one.
    pub fn change(&self, change: impl FnOnce(&mut Power)) -> Result<Power, StateError> {
        let mut changed = Power::default();
        self.record.change(|power| {
            let mut power = power.unwrap_or_else(|| self.read());
            change(&mut power);
            changed = power.clone();
            power
        })?;
        Ok(changed)
    }

    /// Records that a start begins, if `check` allows it at this time. No other start begins meanwhile on this head.
    pub fn reserve<E>(
        &self,
        state: &StateDirectory,
        check: impl FnOnce(Time) -> Result<(), E>,
    ) -> Result<Result<(), E>, StateError> {
        let _lock = lock_briefly(&state.shared()?.join("power.lock"))?;
        let now = health::now();
        if let Err(error) = check(now) {
            return Ok(Err(error));
        }
        self.change(|power| power.starting(now))?;
        Ok(Ok(()))
    }

    /// Takes the lock for starting or stopping; `None`: another process has it.
    pub fn try_lock(&self) -> Result<Option<PowerLock>, StateError> {
        Ok(try_lock(&self.lock)?.map(PowerLock))
    }

    /// Returns whether a process starts or stops the machine.
    pub fn is_changing(&self) -> Result<bool, StateError> {
        is_locked(&self.lock)
    }
}

/// Returns the machine as it is contacted now: a machine on demand may have been started under another name.
pub fn as_started<'a>(state: &StateDirectory, machine: &'a Machine) -> Cow<'a, Machine> {
    if machine.on_demand.is_none() {
        return Cow::Borrowed(machine);
    }
    let started_as = PowerRecord::of(state, machine).map(|record| record.read().started_as).unwrap_or_default();
    match started_as == StartedAs::default() || !started_as.is_valid() {
        true => Cow::Borrowed(machine),
        false => Cow::Owned(started_as.apply(machine)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(directory: &tempfile::TempDir) -> PowerRecord {
        let machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        PowerRecord::of(&StateDirectory::new(directory.path()), &machine).unwrap()
    }

    #[test]
    fn one_process_changes_the_power_of_a_machine() {
        let directory = tempfile::tempdir().unwrap();
        let record = record(&directory);
        assert_eq!((record.read().phase, record.is_changing().unwrap()), (Phase::Off, false));
        let lock = record.try_lock().unwrap().expect("nobody has it");
        assert!(record.try_lock().unwrap().is_none() && record.is_changing().unwrap());
        drop(lock);
        assert!(!record.is_changing().unwrap() && record.try_lock().unwrap().is_some());
    }
}
