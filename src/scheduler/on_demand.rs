//! Machines on demand: which one is started for a waiting build, and when.
//!
//! - If no matching machine runs, the best one that is off is started at once. If one runs, the build waits for a slot of
//!   it for `start_after` first.
//! - Only as many machines are started as the queue needs: none while the slots of those that start suffice for this
//!   build and all that are before it.
//!
//! The build waits in the queue meanwhile, and takes the first machine that becomes free.

use std::time::Duration;

use super::choice::{Query, Reason, Rejection};
use super::environment::Environment;
use super::power_state::PowerState;

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

/// Starts a machine for a build that has waited for `waited`, if one is needed. `reasons` has the machines that
/// match, the best first.
pub(super) fn start_one<E: Environment>(
    query: &Query<'_>,
    reasons: &[Rejection],
    ticket: Option<&E::QueueTicket>,
    waited: Duration,
    env: &E,
) {
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
    let starting = reasons.iter().filter(|over| matches!(over.reason, Reason::Power(PowerState::Starting { .. })));
    let slots: usize = starting.map(|over| query.machines[over.machine].parallel_builds as usize).sum();
    let ahead = env.ahead(&[machine], ticket).first().copied().unwrap_or(0);
    if slots <= ahead {
        env.start_machine(machine);
    }
}
