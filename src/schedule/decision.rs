//! What the daemon is told about a request.
//!
//! A decline is a failed build where the daemon may not build itself (`--max-jobs=0`, or another system type). So while
//! any machine matches, the reply is `# decline` only if the daemon offers to build it now and its system can. A build
//! for which all slots are taken is accepted if there is room to wait, since a postponed one is asked about again only
//! after five seconds. What cannot be built for other reasons (no machine answers, all are overloaded) is postponed:
//! nobody knows for how long, and an accepted build would have to fail some day.

use std::time::Duration;

use super::choice::{Choice, Outcome, PassedOver, Reason};
use super::question::Question;
use super::search::choose;
use super::surroundings::Surroundings;
use crate::hook::Reply;
use crate::machine::Machine;

/// How many builds may wait for each slot of the machines that may take them.
pub const WAITING_PER_SLOT: usize = 4;

/// How long answers of machines are waited for before a request is answered.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// How long a request is kept that would have to be postponed because too many builds wait.
const ROOM_WITHIN: Duration = Duration::from_millis(200);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What to do when no machine can take a build now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// Wait for one.
    Wait,
    /// Let the head build it, if it can.
    Local,
}

/// A request answered.
pub enum Decision<W: Surroundings> {
    /// Build it on this machine.
    Accept(Choice<W>),
    /// Accept it, and wait for a machine, at this place.
    AcceptAndWait(W::Place),
    Decline(Vec<PassedOver>),
    Postpone(Vec<PassedOver>),
}

impl<W: Surroundings> Decision<W> {
    /// The reply that says so.
    pub fn reply(&self) -> Reply {
        match self {
            Decision::Accept(_) | Decision::AcceptAndWait(_) => Reply::Accept,
            Decision::Decline(_) => Reply::Decline,
            Decision::Postpone(_) => Reply::Postpone,
        }
    }
}

/// Decides. `may_build_locally`: the daemon would build it at once, and its system can.
pub fn decide<W: Surroundings>(question: &Question<'_>, may_build_locally: bool, world: &W) -> Decision<W> {
    let rules = question.rules;
    let head = if may_build_locally { rules.head(&world.own_status()) } else { None };
    let question = &Question { head, ..*question };
    let start = world.elapsed();
    let reasons = loop {
        let reasons = match choose(question, None, ANSWER_WITHIN, world) {
            Outcome::Chosen(choice) => return Decision::Accept(choice),
            Outcome::Head(reasons) | Outcome::NoMatch(reasons) => return Decision::Decline(reasons),
            Outcome::Unreachable(reasons) if may_build_locally && rules.when_unreachable() == Otherwise::Local => {
                return Decision::Decline(reasons);
            }
            Outcome::Unreachable(reasons) => break reasons,
            Outcome::Busy(reasons) if may_build_locally && rules.when_busy() == Otherwise::Local => {
                return Decision::Decline(reasons);
            }
            Outcome::Busy(reasons) => reasons,
        };
        if !reasons.iter().any(|over| matches!(over.reason, Reason::NoSlot { .. })) {
            break reasons;
        }
        if let Some(place) = take_place(question, &reasons, world) {
            return Decision::AcceptAndWait(place);
        }
        if world.elapsed() >= start + ROOM_WITHIN {
            break reasons;
        }
        world.pause(LOOK_AGAIN);
    };
    Decision::Postpone(reasons)
}

fn take_place<W: Surroundings>(question: &Question<'_>, reasons: &[PassedOver], world: &W) -> Option<W::Place> {
    let machines = eligible(question.machines, reasons);
    let slots: usize = machines.iter().map(|machine| machine.parallel_builds as usize).sum();
    world.try_take_place(&machines, slots.saturating_mul(WAITING_PER_SLOT)).unwrap_or_else(|error| {
        log::warn!("no place to wait for a slot: {error}");
        None
    })
}

/// Those of the machines passed over that may take the build another time.
pub(super) fn eligible<'a>(machines: &[&'a Machine], reasons: &[PassedOver]) -> Vec<&'a Machine> {
    reasons.iter().filter(|over| over.reason.is_for_now()).map(|over| machines[over.machine]).collect()
}
