//! The reply to a request of the daemon.
//!
//! A declined build fails if the daemon may not build it itself (`--max-jobs=0`, or another system type). So while any
//! machine matches, the reply is `# decline` only if the daemon offers to build it now and its system can. If all slots
//! are taken, the build is accepted, provided that the queue has room and a slot is expected soon (`expected_wait`):
//! the daemon would offer a postponed build again only after five seconds, and an accepted one must not fail because it
//! waits. A build for which a machine on demand can be started is accepted, too. If no machine can take the build for
//! other reasons (none can be reached, all are overloaded), it is postponed: the wait cannot be predicted, and an
//! accepted build would have to fail some day.

use std::sync::Arc;
use std::time::Duration;

use super::admission::DAEMON_POLL_INTERVAL;
use super::choice::{Choice, Outcome, Query, Reason, Rejection};
use super::environment::Environment;
use super::on_demand;
use super::rules::{LearnedSource, Rules};
use super::select::select;
use crate::hook::Reply;
use crate::machine::Machine;
use crate::machine_file::Fallback;

/// The shortest time that a queued build is expected to take.
const BUILD_TIME_MIN: Duration = Duration::from_secs(5);

/// The number of builds that may wait for each slot of the machines that may take them.
pub const QUEUE_PER_SLOT: usize = 4;

/// Time allowed for probing machines before the hook replies to a request.
pub const PROBE_WAIT: Duration = Duration::from_secs(3);

/// The usual time that the hook holds a request before it postpones it because the queue is full.
pub const FULL_QUEUE_HOLD: Duration = Duration::from_millis(200);

/// How often a queued build checks whether it is first.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Returns how long the hook may hold its next request. `postponed` is the time since it last postponed one. Only the
/// first request is held: the daemon may have any number of builds to offer before it handles those that run.
pub fn hold(postponed: Option<Duration>) -> Duration {
    if postponed.is_some_and(|ago| ago < DAEMON_POLL_INTERVAL) { Duration::ZERO } else { FULL_QUEUE_HOLD }
}

/// The decision about a request.
pub enum Decision<E: Environment> {
    /// The build goes to this machine.
    Accept(Choice<E>),
    /// The build is accepted and waits in the queue for a machine.
    AcceptAndWait(E::QueueTicket),
    Decline(Vec<Rejection>),
    Postpone(Vec<Rejection>),
}

impl<E: Environment> Decision<E> {
    /// Returns the reply to send.
    pub fn reply(&self) -> Reply {
        match self {
            Decision::Accept(_) | Decision::AcceptAndWait(_) => Reply::Accept,
            Decision::Decline(_) => Reply::Decline,
            Decision::Postpone(_) => Reply::Postpone,
        }
    }
}

/// Decides. `may_build_locally` means that the daemon would build it at once and its system can. `hold` limits the wait
/// before a request is postponed because the queue is full.
pub fn decide<E: Environment>(query: &Query<'_>, may_build_locally: bool, hold: Duration, env: &E) -> Decision<E> {
    let rules = query.rules;
    let head = if may_build_locally { head_score(rules, env) } else { None };
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
            Outcome::Busy(reasons) if on_demand::has_machine(&reasons) => reasons,
            Outcome::Busy(reasons) if may_build_locally && rules.when_busy() == Fallback::Local => {
                return Decision::Decline(reasons);
            }
            Outcome::Busy(reasons) => reasons,
        };
        let waits = |over: &Rejection| matches!(over.reason, Reason::NoSlot { .. });
        if !reasons.iter().any(waits) && !on_demand::has_machine(&reasons) {
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
    // The queue has no room for a build that would wait for a machine on demand.
    if may_build_locally && on_demand::has_machine(&reasons) && rules.when_busy() == Fallback::Local {
        return Decision::Decline(reasons);
    }
    Decision::Postpone(reasons)
}

/// Returns the score of the head itself, if it takes part.
pub fn head_score<E: Environment>(rules: &dyn Rules, env: &E) -> Option<f64> {
    let own = env.clone();
    rules.head(&env.own_status(), &(Arc::new(move || own.learned()) as LearnedSource))
}

fn join_queue<E: Environment>(query: &Query<'_>, reasons: &[Rejection], env: &E) -> Option<E::QueueTicket> {
    let max_wait = query.rules.max_expected_wait();
    let is_soon = |over: &Rejection| match over.reason {
        Reason::NoSlot { ahead } => {
            let (machine, now) = (query.machines[over.machine], env.now());
            let ages: Vec<Duration> = env
                .running(machine)
                .iter()
                .map(|build| Duration::from_millis(now.saturating_sub(build.since)))
                .collect();
            let wait = expected_wait(ahead, machine.parallel_builds as usize, &ages);
            max_wait.is_none_or(|most| wait <= most)
        }
        _ => over.reason.is_on_demand(),
    };
    if !reasons.iter().any(is_soon) {
        return None;
    }
    let machines = eligible(query.machines, reasons);
    let slots: usize = machines.iter().map(|machine| machine.parallel_builds as usize).sum();
    env.try_join_queue(&machines, slots.saturating_mul(QUEUE_PER_SLOT)).unwrap_or_else(|error| {
        log::warn!("cannot join the queue for a slot: {error}");
        None
    })
}

/// Returns the time after which a build with `ahead` others before it is expected to get one of `slots` slots, whose
/// builds have run for `ages`. A build that has run for some time is expected to run for as long again, and none to end
/// within [`BUILD_TIME_MIN`], because the durations of builds are not known.
fn expected_wait(ahead: usize, slots: usize, ages: &[Duration]) -> Duration {
    let sum = ages.iter().fold(Duration::ZERO, |sum, age| sum.saturating_add(*age));
    let mean = sum / u32::try_from(ages.len().max(1)).unwrap_or(u32::MAX);
    let rounds = (ahead / slots.max(1)).saturating_add(1);
    mean.max(BUILD_TIME_MIN).saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX))
}

/// Returns those of the rejected machines that may take the build at another time.
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
        // Two slots serve the first two queued builds in one round.
        assert_eq!([0, 1, 2, 3, 4].map(|ahead| wait(ahead, 2, &[100, 100])), [100, 100, 200, 200, 300]);
        // A build that has just started gives no estimate.
        assert_eq!([wait(0, 1, &[0]), wait(1, 1, &[])], [5, 10]);
        assert_eq!(expected_wait(usize::MAX, 0, &[Duration::MAX]), Duration::MAX);
    }

    #[test]
    fn only_the_first_of_many_requests_is_held() {
        assert_eq!(hold(None), FULL_QUEUE_HOLD);
        assert_eq!(hold(Some(Duration::ZERO)), Duration::ZERO);
        assert_eq!(hold(Some(DAEMON_POLL_INTERVAL)), FULL_QUEUE_HOLD);
    }
}
