//! What is known of a machine without asking it.

use std::time::Duration;

use super::choice::Reason;
use super::matching::mismatch;
use super::question::Question;
use super::ranking::Rank;
use super::rules::Known;
use super::surroundings::Surroundings;
use crate::machine::Machine;
use crate::state::Health;
use crate::state::health::{Standing, Time};
use crate::status::Status;

/// How long a machine that can take the build waits for a better one to answer.
pub const PATIENCE: Duration = Duration::from_millis(200);

/// How a machine stands in a search, or the head.
pub(super) enum State<L> {
    /// It can take the build; the connection if there is one.
    Ready(Option<L>),
    Unknown {
        after_trouble: bool,
    },
    BeingAsked {
        after_trouble: bool,
        since: Duration,
    },
    Out(Reason),
    /// The head itself, which needs no slot.
    Head,
}

impl<L> State<L> {
    pub(super) fn can_build(&self) -> bool {
        matches!(self, State::Ready(_) | State::Head)
    }

    /// Whether it is worth waiting for: what was in trouble only if there is nothing else.
    pub(super) fn is_awaited(&self, has_choice: bool) -> bool {
        match self {
            State::Unknown { after_trouble } | State::BeingAsked { after_trouble, .. } => {
                !(has_choice && *after_trouble)
            }
            _ => false,
        }
    }
}

/// The rank of a machine, if it may take the build.
pub(super) fn rank_of<W: Surroundings>(
    question: &Question<'_>,
    place: usize,
    machine: &Machine,
    world: &W,
) -> Result<Rank, Reason> {
    if let Some(mismatch) = mismatch(machine, question.request) {
        return Err(Reason::Mismatch(mismatch));
    }
    question.rules.accepts(place).map_err(Reason::Refused)?;
    score(question, place, machine, &world.health(machine), world)
}

/// The rank of a machine with this record.
pub(super) fn score<W: Surroundings>(
    question: &Question<'_>,
    place: usize,
    machine: &Machine,
    health: &Health,
    world: &W,
) -> Result<Rank, Reason> {
    let running = world.running(machine);
    let known = Known { health, running: &running, now: world.now() };
    let score = question.rules.score(place, &known).map_err(Reason::NotNow)?;
    let occupied = running.len() as f64 / f64::from(machine.parallel_builds.max(1));
    Ok(Rank { score, occupied, place })
}

/// What is known of a machine without asking it; `ahead` builds wait for it already.
pub(super) fn look_at<W: Surroundings>(machine: &Machine, ahead: usize, world: &W) -> State<W::Link> {
    let now = world.now();
    if let Some(drained) = world.drained(machine) {
        return State::Out(Reason::Drained(drained));
    }
    let health = world.health(machine);
    let standing = health.standing(now);
    if let Standing::Down { error, .. } = standing {
        return State::Out(Reason::Unreachable(error));
    }
    if let (Standing::Fresh, Some(status)) = (&standing, &health.status)
        && let Err(reason) = check(machine, status)
    {
        return State::Out(reason);
    }
    match world.free_slots(machine) {
        Ok(free) if free <= ahead => return State::Out(Reason::NoSlot { ahead }),
        Ok(_) => {}
        Err(error) => return State::Out(Reason::SlotsUnknown(error)),
    }
    match standing {
        Standing::Fresh => State::Ready(None),
        Standing::Unknown { after_trouble } => State::Unknown { after_trouble },
        // Whoever asks it may be about to learn the answer, unless that takes long already.
        Standing::Asked { since } => {
            let is_slow = now.saturating_sub(since) > PATIENCE.as_millis() as Time;
            State::Unknown { after_trouble: is_slow || health.trouble.is_some() }
        }
        Standing::Down { error, .. } => State::Out(Reason::Unreachable(error)),
    }
}

/// What is unknown is no reason to pass a machine over. The load is the one that was measured: builds that were started
/// since are bounded by the slots.
pub(super) fn check(machine: &Machine, status: &Status) -> Result<(), Reason> {
    if let (Some(load), Some(threshold)) = (status.load(), machine.overload_threshold)
        && load > threshold
    {
        return Err(Reason::Overloaded { load, threshold });
    }
    match status.store_free {
        Some(free) if free < machine.minimum_disk_space => {
            Err(Reason::LowDisk { free, minimum: machine.minimum_disk_space })
        }
        _ => Ok(()),
    }
}
