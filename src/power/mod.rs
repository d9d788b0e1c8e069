//! Starting and stopping machines on demand.
//!
//! - [`start`] runs the entry's `start`, and waits until the machine's daemon has responded over SSH. If that fails, it
//!   runs `stop`, and the next start comes after a back-off.
//! - [`stop`] takes all build slots of the machine, so that no build runs on it, then runs `stop`, and checks that the
//!   machine does not respond any more.
//! - [`reap`] stops the machines that are idle, and those whose start or stop was interrupted.
//!
//! One process at a time starts or stops a machine ([`PowerLock`](crate::state::PowerLock)). The state is in
//! `power.json` ([`Power`](crate::state::Power)). A process can be killed at any time: the next one finds the phase
//! `starting` or `stopping` without a holder of the lock, and runs `stop` before anything else.
//!
//! Not checked here: whether a build needs the machine. `scheduler/on_demand.rs` decides that.

mod action;
mod launch;
#[cfg(feature = "cli")]
mod reap;
mod report;
mod start;
mod stop;

pub use launch::limited;
#[cfg(feature = "cli")]
pub use reap::{is_reaping_due, reap};
pub use start::start;
#[cfg(feature = "cli")]
pub use stop::stop;

use std::collections::BTreeSet;

use crate::machine::{Machine, OnDemand};
use crate::machine_file::Pool;
use crate::state::health::Time;
use crate::state::power::check_limits;
use crate::state::{Power, PowerRecord, StateDirectory, StateError};
use crate::store::path::StoreDir;

/// A head that starts and stops machines.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    pub pool: &'a Pool,
    pub state: &'a StateDirectory,
    pub store: &'a StoreDir,
}

/// The reason why a machine was not started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    #[error("it has no `on_demand` in the machine file")]
    NotOnDemand,
    #[error("another process starts or stops it")]
    Changing,
    /// A limit of the pool.
    #[error("{0}")]
    Limit(String),
    /// The start has failed, or a stop that it needed.
    #[error("{0}")]
    Start(String),
    #[error("{0}")]
    Stop(String),
    /// This many builds run on it.
    #[error("{}", builds(*.0))]
    InUse(usize),
    #[error("{0}")]
    State(#[from] StateError),
}

fn builds(count: usize) -> String {
    match count {
        1 => "1 build runs on it".to_owned(),
        count => format!("{count} builds run on it"),
    }
}

impl<'a> Head<'a> {
    /// Returns the machine with this index, and its `on_demand`.
    fn machine(&self, index: usize) -> Result<(&'a Machine, &'a OnDemand), PowerError> {
        let machine = self.pool.machines.get(index).map(|entry| &entry.machine);
        machine.and_then(|machine| Some((machine, machine.on_demand.as_ref()?))).ok_or(PowerError::NotOnDemand)
    }

    /// Returns the records of all machines on demand, each host once.
    fn records(&self) -> Vec<Power> {
        let mut seen = BTreeSet::new();
        let machines = self.pool.machines.iter().map(|entry| &entry.machine);
        let machines = machines.filter(|machine| machine.on_demand.is_some());
        let records = machines.filter(|machine| seen.insert(machine.address()));
        records.filter_map(|machine| Some(PowerRecord::of(self.state, machine).ok()?.read())).collect()
    }

    /// Returns an error if a limit of the pool forbids another start at `now`.
    fn check_limits(&self, now: Time) -> Result<(), PowerError> {
        check_limits(&self.pool.settings.on_demand, &self.records(), now).map_err(PowerError::Limit)
    }
}
