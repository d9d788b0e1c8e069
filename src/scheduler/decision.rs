//! What the daemon is told about a request.
//!
//! A decline is a failed build where the daemon may not build itself (`--max-jobs=0`, or another system type). So while
//! any machine matches, the reply is `# decline` only if the daemon offers to build it now and its system can. A build
//! for which all slots are taken is accepted if there is room to wait and a slot can be expected soon (`expected_wait`),
//! since a postponed one is asked about again only after five seconds, and one that is accepted must not fail because it
//! waits. What cannot be built for other reasons (no machine answers, all are overloaded) is postponed:
//! nobody knows for how long, and an accepted build would have to fail some day.

use std::time::Duration;

use super::admission::DAEMON_POLL_INTERVAL;
use super::choice::{Choice, Outcome, Query, Reason, Rejection};
use super::environment::Environment;
use super::select::select;
use crate::hook::Reply;
use crate::machine::Machine;
use crate::machine_file::Fallback;

/// The least time that a queued build is expected to take.
const BUILD_TIME_MIN: Duration = Duration::from_secs(5);

/// How many builds may wait for each slot of the machines that may take them.
pub const QUEUE_PER_SLOT: usize = 4;

/// Time allowed for probing machines before the hook replies to a request.
pub const PROBE_WAIT: Duration = Duration::from_secs(3);

/// How long a request is usually kept that would have to be postponed because too many builds wait.
pub const QUEUE_WAIT: Duration = Duration::from_millis(200);

/// How often a queued build checks for its turn.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long the next request of a hook process may be kept. `postponed`: how long ago one was postponed. Once is enough:
/// the daemon may have any number of builds to ask about before it gets to those that run.
pub fn hold(postponed: Option<Duration>) -> Duration {
    if postponed.is_some_and(|ago| ago < DAEMON_POLL_INTERVAL) { Duration::ZERO } else { QUEUE_WAIT }
}

/// A request answered.
pub enum Decision<E: Environment> {
    /// Build it on this machine.
    Accept(Choice<E>),
    /// Accept it, and wait for a machine, at this place.
    AcceptAndWait(E::QueueTicket),
    Decline(Vec<Rejection>),
    Postpone(Vec<Rejection>),
}

impl<E: Environment> Decision<E> {
    /// The reply that says so.
    pub fn reply(&self) -> Reply {
        match self {
            Decision::Accept(_) | Decision::AcceptAndWait(_) => Reply::Accept,
            Decision::Decline(_) => Reply::Decline,
            Decision::Postpone(_) => Reply::Postpone,
        }
    }
}

/// Decides. `may_build_locally`: the daemon would build it at once, and its system can. `hold`: how long a request may
/// be kept that would have to be postponed because too many builds wait.
pub fn decide<E: Environment>(query: &Query<'_>, may_build_locally: bool, hold: Duration, env: &E) -> Decision<E> {
    let rules = query.rules;
    let head = if may_build_locally { rules.head(&env.own_status()) } else { None };
    let query = &Query { head, ..*query };
    let start = env.elapsed();
    let reasons = loop {
        let reasons = match select(query, None, PROBE_WAIT, env) {
            Outcome::Chosen(choice) => return Decision::Accept(choice),
            Outcome::Head(reasons) | Outcome::NoMatch(reasons) => return Decision::Decline(reasons),
            Outcome::Unreachable(reasons) if may_build_locally && rules.when_unreachable() == Fallback::Local => {
                return Decision::Decline(reasons);
            }
            Outcome::Unreachable(reasons) => break reasons,
            Outcome::Busy(reasons) if may_build_locally && rules.when_busy() == Fallback::Local => {
                return Decision::Decline(reasons);
            }
            Outcome::Busy(reasons) => reasons,
        };
        if !reasons.iter().any(|over| matches!(over.reason, Reason::NoSlot { .. })) {
            break reasons;
        }
        if let Some(ticket) = join_queue(query, &reasons, env) {
            return Decision::AcceptAndWait(ticket);
        }
        if env.elapsed() >= start + hold {
            break reasons;
        }
        env.pause(POLL_INTERVAL);
    };
    Decision::Postpone(reasons)
}

fn join_queue<E: Environment>(query: &Query<'_>, reasons: &[Rejection], env: &E) -> Option<E::QueueTicket> {
    let is_soon = |over: &Rejection| match over.reason {
        Reason::NoSlot { ahead } => {
            let (machine, now) = (query.machines[over.machine], env.now());
            let ages: Vec<Duration> =
                env.running(machine).iter().map(|&since| Duration::from_millis(now.saturating_sub(since))).collect();
            let wait = expected_wait(ahead, machine.parallel_builds as usize, &ages);
            query.rules.max_expected_wait().is_none_or(|most| wait <= most)
        }
        _ => false,
    };
    if !reasons.iter().any(is_soon) {
        return None;
    }
    let machines = eligible(query.machines, reasons);
    let slots: usize = machines.iter().map(|machine| machine.parallel_builds as usize).sum();
    env.try_join_queue(&machines, slots.saturating_mul(QUEUE_PER_SLOT)).unwrap_or_else(|error| {
        log::warn!("no place to wait for a slot: {error}");
        None
    })
}

/// How long a build with `ahead` others before it is expected to wait for one of so many slots, whose builds have run for
/// these times. A build that has run for some time is expected to run for as long again, and none to be over within
/// [`BUILD_TIME_MIN`]: how long builds take is not known.
fn expected_wait(ahead: usize, slots: usize, ages: &[Duration]) -> Duration {
    let sum = ages.iter().fold(Duration::ZERO, |sum, age| sum.saturating_add(*age));
    let mean = sum / u32::try_from(ages.len().max(1)).unwrap_or(u32::MAX);
    let rounds = (ahead / slots.max(1)).saturating_add(1);
    mean.max(BUILD_TIME_MIN).saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX))
}

/// Those of the machines passed over that may take the build another time.
pub(super) fn eligible<'a>(machines: &[&'a Machine], reasons: &[Rejection]) -> Vec<&'a Machine> {
    reasons.iter().filter(|over| over.reason.is_for_now()).map(|over| machines[over.machine]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_expected_when_the_builds_before_have_run_as_long_again() {
        let seconds = |ages: &[u64]| ages.iter().copied().map(Duration::from_secs).collect::<Vec<_>>();
        let wait = |ahead, slots, ages: &[u64]| expected_wait(ahead, slots, &seconds(ages)).as_secs();
        assert_eq!(wait(0, 1, &[60]), 60);
        assert_eq!(wait(0, 2, &[60, 20]), 40);
        // Two slots serve the first two of those that wait in one round.
        assert_eq!([0, 1, 2, 3, 4].map(|ahead| wait(ahead, 2, &[100, 100])), [100, 100, 200, 200, 300]);
        // Nothing is known of a build that has just begun.
        assert_eq!([wait(0, 1, &[0]), wait(1, 1, &[])], [5, 10]);
        assert_eq!(expected_wait(usize::MAX, 0, &[Duration::MAX]), Duration::MAX);
    }

    #[test]
    fn only_the_first_of_many_requests_is_kept() {
        assert_eq!(hold(None), QUEUE_WAIT);
        assert_eq!(hold(Some(Duration::ZERO)), Duration::ZERO);
        assert_eq!(hold(Some(DAEMON_POLL_INTERVAL)), QUEUE_WAIT);
    }
}
