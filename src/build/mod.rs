//! One accepted build, from the choice of a machine to the outputs in the store.
//!
//! If a machine fails, the same process retries on another one. Once the daemon has its `# accept`, it does not build
//! locally any more, and a hook that fails is a failed build. Only the report of a machine's daemon about the build
//! itself ends the retries ([`Failure`](crate::error::Failure)).
//!
//! A failure has one of three effects on the machine. A machine that cannot be reached, is lost, or refuses what every
//! build needs (inputs, a signature) is skipped for a while. A machine whose daemon failed only this build, for reasons
//! that are not the derivation's (status 1), is not tried again for it, and stays available for other builds. A failure
//! on this side counts against no machine, and no other machine is tried.
//!
//! The daemon's time limit for the build starts at `# accept`. So a build stops waiting for a machine before that
//! limit: the daemon would report that the build took too long, which would not be true.

mod attempt;
mod attempt_error;
mod classify;
mod classify_failure;
mod connect;
mod expectations;
mod failover;
mod held_slot;
mod inspect_hint;
mod limits;
mod live_attempt;
mod live_environment;
mod on_demand;
mod open_sessions;
mod reach;
mod rebuild;
mod record_health;
mod record_history;
mod watch;

pub use attempt::{AttemptSteps, attempt};
pub use attempt_error::AttemptError;
pub use classify_failure::BuildReport;
pub use connect::connect;
pub use expectations::Expectations;
pub use failover::{AttemptFn, FailOver};
pub use live_environment::LiveEnvironment;
pub use on_demand::{OnDemand, Starter};
pub use open_sessions::{OpenSessions, end_outdated};
pub use reach::{MachineLink, OWN_STORE, OWN_STORE_HINT, check_store, daemon_failed, reach};
pub use record_health::{record_failure, record_success};
pub use record_history::{HistoryRecorder, collect_in_background};

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use crate::local::Directories;
use crate::scheduler::Choice;
use crate::shared::SharedSlots;
use crate::state::StateDirectory;
use crate::store::path::StorePath;
use crate::transfer::Destination;

/// An accepted build.
pub struct Build<'a> {
    /// The request, and the machines that may build it.
    pub failover: FailOver<'a>,
    /// The closure of the inputs of the build, including the derivation.
    pub inputs: &'a BTreeSet<StorePath>,
    /// The outputs that the local store lacks.
    pub outputs: &'a BTreeSet<StorePath>,
    /// Where the outputs go.
    pub destination: &'a dyn Destination,
    pub directories: &'a Directories,
    pub state: &'a StateDirectory,
    /// The user whose command requests it, if known.
    pub user: Option<String>,
    /// What is expected of it.
    pub expectations: Expectations,
    /// Whether drained machines may take it.
    pub ignores_drains: bool,
    /// The machines on demand of the pool.
    pub on_demand: &'a OnDemand,
    /// The slots of the pool, if other heads share it.
    pub shared: Option<SharedSlots>,
    /// Whether SSH sessions stay open for other builds ([`owner`](crate::remote::owner)).
    pub persists_connections: bool,
    /// Opens the process with which persistent connections end, if there is one (pidfd_open(2)).
    pub daemon: fn() -> Option<OwnedFd>,
}

/// A machine that was chosen, with its slot and its connection.
pub type Chosen = Choice<LiveEnvironment>;
