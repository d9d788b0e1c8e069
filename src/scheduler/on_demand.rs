//! Machines on demand: which one a waiting build has started, and when.
//!
//! - If no matching machine runs, the best one that is off is started at once. If one runs, the build waits for a slot of
//!   it for `start_after` first.
//! - Only as many machines are started as the queue needs: none while the slots of those that start suffice for this
//!   build and all that are before it.
//!
//! The build waits in the queue meanwhile, and takes the first machine that becomes free.

use std::fmt;
use std::time::Duration;

use super::choice::{Query, Reason, Rejection};
use super::environment::Environment;
use crate::machine::Machine;

/// Whether a machine runs, as far as a build is concerned.
#[derive(Clone, Debug, PartialEq)]
pub enum PowerState {
    Running,
    /// It can be started, for a build that has waited this long for a machine that runs.
    Off {
        start_after: Duration,
    },
    /// A process starts it, for this long already.
    Starting {
        since: Duration,
    },
    /// A process stops it. It can be started afterwards.
    Stopping,
    /// A limit of the pool forbids a start.
    Limited(String),
    /// Its last start has failed, and it is not started again for a while.
    Failed(String),
}

impl fmt::Display for PowerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PowerState::Running => f.write_str("it runs"),
            PowerState::Off { .. } => f.write_str("off, and can be started"),
            PowerState::Starting { since } => write!(f, "starting for {} s", since.as_secs()),
            PowerState::Stopping => f.write_str("stopping"),
            PowerState::Limited(limit) => write!(f, "off: {limit}"),
            PowerState::Failed(error) => write!(f, "off: its last start failed: {error}"),
        }
    }
}

impl PowerState {
    /// Returns its name for functions of the machine file.
    pub fn word(&self) -> &'static str {
        match self {
            PowerState::Running => "running",
            PowerState::Off { .. } | PowerState::Limited(_) => "off",
            PowerState::Starting { .. } => "starting",
            PowerState::Stopping => "stopping",
            PowerState::Failed(_) => "failed",
        }
    }
}

impl Reason {
    /// Returns whether the machine is off and will take the build once it has been started.
    pub(super) fn is_on_demand(&self) -> bool {
        use PowerState::{Off, Starting, Stopping};
        matches!(self, Reason::Power(Off { .. } | Starting { .. } | Stopping))
    }
}

/// Returns whether a machine that can be started is among the rejected ones.
pub(super) fn has_machine(reasons: &[Rejection]) -> bool {
    reasons.iter().any(|over| over.reason.is_on_demand())
}

/// Returns the machine that is being started, if only such a machine can take the build soon.
pub(super) fn starting(reasons: &[Rejection]) -> Option<usize> {
    if reasons.iter().any(|over| matches!(over.reason, Reason::NoSlot { .. })) {
        return None;
    }
    let is_starting = |over: &&Rejection| matches!(over.reason, Reason::Power(PowerState::Starting { .. }));
    reasons.iter().find(is_starting).map(|over| over.machine)
}

/// Has a machine started for a build that has waited for `waited`, if one is needed. `reasons` has the machines that
/// match, the best first.
pub(super) fn start_one<E: Environment>(
    query: &Query<'_>,
    reasons: &[Rejection],
    ticket: Option<&E::QueueTicket>,
    waited: Duration,
    env: &E,
) {
    let with = |wanted: fn(&Reason) -> bool| -> Vec<&Machine> {
        reasons.iter().filter(|over| wanted(&over.reason)).map(|over| query.machines[over.machine]).collect()
    };
    let runs = reasons.iter().any(|over| match over.reason {
        Reason::Power(_) | Reason::Drained(_) => false,
        // It is only slow, unless it has failed.
        Reason::Unreachable(_) => env.health(query.machines[over.machine]).failures.is_none(),
        ref reason => reason.is_busy(),
    });
    let off = reasons.iter().find_map(|over| match over.reason {
        Reason::Power(PowerState::Off { start_after }) if !runs || waited >= start_after => {
            Some(query.machines[over.machine])
        }
        _ => None,
    });
    let Some(machine) = off else { return };
    let starting = with(|reason| matches!(reason, Reason::Power(PowerState::Starting { .. })));
    let slots: usize = starting.iter().map(|machine| machine.parallel_builds as usize).sum();
    let ahead = env.ahead(&[machine], ticket).first().copied().unwrap_or(0);
    if slots <= ahead {
        env.start_machine(machine);
    }
}
