//! One accepted build, from the choice of a machine to outputs in their places.
//!
//! A machine that lets the build down is replaced by another inside the same process: once the daemon has its
//! `# accept` there is no local build any more, and a hook that fails is a failed build. Only the word of a machine's
//! daemon about the build itself ends the search ([`Failure`](crate::error::Failure)).
//!
//! What a failure means for the machine: one that cannot be reached, is lost, or refuses what every build needs
//! (inputs, a signature) is left alone for a while. One whose daemon only failed this build, for reasons that say
//! nothing about the derivation (status 1), is not tried again for it, and remains good for others. What fails on this
//! side is no machine's fault, and no other machine would mend it.
//!
//! The daemon counts its time limit for the build from `# accept` on, whatever happens here. So no machine is waited
//! for up to that moment: the daemon would say that the build took too long, which would not be true.

mod attempt;
mod classify;
mod classify_failure;
mod connect;
mod failover;
mod inspect_hint;
mod live_environment;
mod persist;
mod reach;
mod record_health;
mod watch;

pub use connect::connect;
pub use failover::{AttemptFn, FailOver};
pub use live_environment::LiveEnvironment;
pub use persist::{OpenSessions, end_outdated};
pub use reach::{MachineLink, OWN_STORE, OWN_STORE_HINT, reach};
pub use record_health::{record_failure, record_success};

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use crate::local::Directories;
use crate::scheduler::Choice;
use crate::state::StateDirectory;
use crate::store::path::StorePath;

/// An accepted build.
pub struct Build<'a> {
    /// What is built, and where it may be.
    pub failover: FailOver<'a>,
    /// The closure of what the build needs, the derivation included.
    pub inputs: &'a BTreeSet<StorePath>,
    /// The outputs that are missing here.
    pub outputs: &'a BTreeSet<StorePath>,
    pub directories: &'a Directories,
    pub state: &'a StateDirectory,
    /// Whether connections are kept for other builds ([`owner`](crate::remote::owner)).
    pub persists_connections: bool,
    /// Finds a process with which these end, if there is one (pidfd_open(2)).
    pub daemon: fn() -> Option<OwnedFd>,
}

/// A machine that was chosen, by its slot and its connection.
pub type Chosen = Choice<LiveEnvironment>;
