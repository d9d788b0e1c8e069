//! The assessment of a machine from its record, without a probe.

use std::time::Duration;

use super::choice::{Query, Reason};
use super::environment::Environment;
use super::matching::mismatch;
use super::outlook::{estimate, facts};
use super::power_state::PowerState;
use super::ranking::Rank;
use super::rules::{RuleInput, Wants};
use crate::machine::Machine;
use crate::state::Health;
use crate::state::health::{Availability, Time};
use crate::status::MachineStatus;

/// How long the hook waits for the probe of a better machine when another one can take the build.
pub const BETTER_MACHINE_WAIT: Duration = Duration::from_millis(200);

/// The state of a candidate, a machine or the head, during a selection.
pub(super) enum CandidateState<L> {
    /// It can take the build. The connection is there if a probe has opened one.
    Ready(Option<L>),
    Unknown {
        after_failure: bool,
    },
    Probing {
        after_failure: bool,
        since: Duration,
    },
    /// Its record is fresh, and it has yet to respond. A slot is held.
    Contacting,
    Out(Reason),
    /// The head itself, which needs no slot.
    Head,
}

impl<L> CandidateState<L> {
    pub(super) fn can_build(&self) -> bool {
        matches!(self, CandidateState::Ready(_) | CandidateState::Head)
    }

    /// Returns whether the selection waits for it. It waits for a failing machine only if there is no other choice.
    pub(super) fn is_awaited(&self, has_choice: bool) -> bool {
        match self {
            CandidateState::Unknown { after_failure } | CandidateState::Probing { after_failure, .. } => {
                !(has_choice && *after_failure)
            }
            _ => false,
        }
    }
}

/// Returns the rank of a machine that may take the build.
pub(super) fn rank_of<E: Environment>(
    query: &Query<'_>,
    index: usize,
    machine: &Machine,
    env: &E,
) -> Result<Rank, Reason> {
    if let Some(mismatch) = mismatch(machine, query.request) {
        return Err(Reason::Mismatch(mismatch));
    }
    query.rules.accepts(index).map_err(Reason::Refused)?;
    score(query, index, machine, &env.health(machine), env)
}

/// Returns the rank of a machine with this record.
pub(super) fn score<E: Environment>(
    query: &Query<'_>,
    index: usize,
    machine: &Machine,
    health: &Health,
    env: &E,
) -> Result<Rank, Reason> {
    let running = env.running(machine);
    let power = machine.on_demand.as_ref().map(|_| env.power(machine).word());
    let mut known = RuleInput { health, running: &running, now: env.now(), power, estimate: None, facts: None };
    match query.rules.wants(index) {
        Wants::Nothing => {}
        Wants::Estimate => known.estimate = Some(estimate(machine, &known, env)),
        Wants::Facts => known.facts = Some(facts(machine, &known, env)),
    }
    let score = query.rules.score(index, &known).map_err(Reason::ScoreDeclined)?;
    let occupied = running.len() as f64 / f64::from(machine.parallel_builds.max(1));
    Ok(Rank { score, occupied, index })
}

/// Assesses a machine from its record; `ahead` builds wait for it already.
pub(super) fn assess<E: Environment>(machine: &Machine, ahead: usize, env: &E) -> CandidateState<E::Link> {
    let now = env.now();
    if let Some(drained) = env.drained(machine) {
        return CandidateState::Out(Reason::Drained(drained));
    }
    match env.power(machine) {
        PowerState::Running => {}
        power => return CandidateState::Out(Reason::Power(power)),
    }
    let health = env.health(machine);
    let availability = health.availability(now);
    if let Availability::BackingOff { error, .. } = availability {
        return CandidateState::Out(Reason::Unreachable(error));
    }
    if let (Availability::Fresh, Some(status)) = (&availability, &health.status)
        && let Err(reason) = check(machine, status)
    {
        return CandidateState::Out(reason);
    }
    // Nothing is busy that does not respond, even if its slots are taken.
    if !matches!(availability, Availability::Probing { .. } if health.is_contact_pending()) {
        match env.free_slots(machine, ahead.saturating_add(1)) {
            Ok(free) if free <= ahead => return CandidateState::Out(Reason::NoSlot { ahead }),
            Ok(_) => {}
            Err(error) => return CandidateState::Out(Reason::SlotsUnknown(error)),
        }
    }
    match availability {
        Availability::Fresh => CandidateState::Ready(None),
        Availability::Unknown { after_failure } => CandidateState::Unknown { after_failure },
        // The process that probes it may get the answer soon, unless the probe takes long already.
        Availability::Probing { since } => {
            let is_slow = now.saturating_sub(since) > BETTER_MACHINE_WAIT.as_millis() as Time;
            CandidateState::Unknown { after_failure: is_slow || health.failures.is_some() }
        }
        Availability::BackingOff { error, .. } => CandidateState::Out(Reason::Unreachable(error)),
    }
}

/// Checks load and disk space. An unknown value does not reject a machine. The load is the measured one: the slots
/// limit the builds that have started since.
pub(super) fn check(machine: &Machine, status: &MachineStatus) -> Result<(), Reason> {
    if let (Some(load), Some(threshold)) = (status.load(), machine.overload_threshold)
        && load > threshold
    {
        return Err(Reason::Overloaded { load, threshold });
    }
    match status.free_disk {
        Some(free) if free < machine.minimum_disk_space => {
            Err(Reason::LowDisk { free, minimum: machine.minimum_disk_space })
        }
        _ => Ok(()),
    }
}
