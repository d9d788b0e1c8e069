//! The input of a selection, and its outcome: a machine, or the reasons why there is none.

use std::fmt;

use super::environment::Environment;
use super::matching::Mismatch;
use super::power_state::PowerState;
use super::rules::Rules;
use crate::hook::Request;
use crate::machine::Machine;
use crate::state::Drained;

/// Asks which of `machines` a build goes to. A machine is named by its index in `machines`.
#[derive(Clone, Copy)]
pub struct Query<'a> {
    pub request: &'a Request,
    pub machines: &'a [&'a Machine],
    pub rules: &'a dyn Rules,
    /// The indices of machines that must not be tried again.
    pub excluded: &'a [usize],
    /// The score of the head itself, if it may build this and takes part.
    pub head: Option<f64>,
}

/// A machine that takes the build.
pub struct Choice<E: Environment> {
    /// Its index in the list of machines.
    pub machine: usize,
    pub slot: E::Slot,
    /// The connection, if the machine was probed.
    pub link: Option<E::Link>,
}

/// The outcome of a selection.
pub enum Outcome<E: Environment> {
    Chosen(Choice<E>),
    /// The head itself ranks best among those that can take the build now.
    Head(Vec<Rejection>),
    /// Machines match, and some respond or are drained, but none can take the build now.
    Busy(Vec<Rejection>),
    /// Machines match, but none of them can be reached.
    Unreachable(Vec<Rejection>),
    /// No machine matches.
    NoMatch(Vec<Rejection>),
}

/// A machine that was not chosen, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejection {
    /// Its index in the list of machines.
    pub machine: usize,
    pub reason: Reason,
}

/// Why a machine was not chosen.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    Mismatch(Mismatch),
    /// `accepts` of the machine file returned false or a reason.
    Refused(String),
    /// `score` of the machine file declined it in its current state.
    ScoreDeclined(String),
    Drained(Drained),
    /// It is a machine on demand that does not run.
    Power(PowerState),
    /// All its slots are taken, or reserved for builds that joined the queue earlier.
    NoSlot {
        ahead: usize,
    },
    /// Its slots cannot be read.
    SlotsUnknown(String),
    Unreachable(String),
    Overloaded {
        load: f64,
        threshold: f64,
    },
    LowDisk {
        free: u64,
        minimum: u64,
    },
}

impl Reason {
    /// Returns whether the machine may take the build at another time.
    pub fn is_for_now(&self) -> bool {
        !matches!(self, Reason::Mismatch(_) | Reason::Refused(_))
    }

    /// Returns whether the machine is busy rather than unreachable. A drained machine is busy: an administrator keeps
    /// builds away from it for a while. So is a machine that is off and can be started.
    pub fn is_busy(&self) -> bool {
        matches!(
            self,
            Reason::NoSlot { .. }
                | Reason::Overloaded { .. }
                | Reason::LowDisk { .. }
                | Reason::ScoreDeclined(_)
                | Reason::Drained(_)
        ) || matches!(self, Reason::Power(power) if !matches!(power, PowerState::Failed(_)))
    }
}

impl Reason {
    /// Returns whether the machine does not run, and will take the build once it has been started.
    pub(super) fn is_on_demand(&self) -> bool {
        matches!(self, Reason::Power(power) if power.is_on_demand())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Mismatch(mismatch) => mismatch.fmt(f),
            Reason::Refused(why) | Reason::ScoreDeclined(why) => f.write_str(why),
            Reason::Drained(_) => f.write_str("drained: it gets no new builds"),
            Reason::Power(power) => power.fmt(f),
            Reason::NoSlot { ahead: 0 } => f.write_str("all its slots are taken"),
            Reason::NoSlot { ahead: 1 } => f.write_str("all its slots are taken, and 1 build is waiting"),
            Reason::NoSlot { ahead } => write!(f, "all its slots are taken, and {ahead} builds are waiting"),
            Reason::SlotsUnknown(why) => write!(f, "its slots cannot be read: {why}"),
            Reason::Unreachable(why) => f.write_str(why),
            Reason::Overloaded { load, threshold } => {
                write!(f, "overloaded: its load per core is {load:.2}, the threshold {threshold:.2}")
            }
            Reason::LowDisk { free, minimum } => {
                write!(f, "its store is nearly full: {} MiB free, {} MiB required", free >> 20, minimum >> 20)
            }
        }
    }
}
