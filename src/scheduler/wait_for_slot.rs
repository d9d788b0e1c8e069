//! Waiting for a slot, in the order of the queue.
//!
//! A free slot of a machine belongs to the build that joined the queue for that machine first. A process polls the
//! slots often if it is among the first, and less often the more builds are ahead of it, since its turn is not near
//! then. Every second or so it assesses all machines again: loads, back-offs and the results of the rules may have
//! changed.

use std::time::Duration;

use super::choice::{Choice, Outcome, Query, Reason, Rejection};
use super::decision::{PROBE_WAIT, eligible};
use super::environment::Environment;
use super::on_demand;
use super::select::select;
use crate::machine::Machine;

/// How often the first build in the queue checks for a free slot, at first. This costs three system calls for each slot.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// The longest poll interval, after a long wait or with many slots.
const POLL_INTERVAL_MAX: Duration = Duration::from_millis(200);

/// Assessing many machines takes long. The pause until the next poll is this many times as long, within the limits
/// above, so that waiting costs little.
const PAUSE_PER_CHECK: u32 = 20;

/// How often a waiting build assesses all machines again, and renews its ticket, at first.
const REASSESS_INTERVAL: Duration = Duration::from_secs(1);
/// The longest interval of reassessment, where an assessment takes long.
const REASSESS_INTERVAL_MAX: Duration = Duration::from_secs(3);

/// The reason why a wait ended without a machine.
#[derive(Debug)]
pub enum WaitError {
    /// No machine is left that matches.
    NoMatch,
    /// The time limit passed.
    TooLong(Vec<Rejection>),
    /// No machine could be reached for [`Limits::wait_for_machine`].
    Unreachable(Vec<Rejection>),
    /// The build was cancelled.
    Cancelled,
}

/// Why a build waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitReason {
    /// The machines that match are busy.
    Busy,
    /// No machine that matches can be reached.
    Unreachable,
    /// The machine with this index is being started.
    Start(usize),
}

/// Limits of waiting.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The time at which the wait ends, in terms of [`Environment::elapsed`]. `None`: never.
    pub until: Option<Duration>,
    /// How long to wait while no matching machine can be reached.
    pub wait_for_machine: Duration,
    /// The interval at which the wait is reported.
    pub report_interval: Duration,
}

/// Waits until a machine takes the build. It joins the queue if `ticket` is empty, and stores the ticket there.
/// `report` receives the duration of the wait and its reason: at once, regularly, and whenever the reason has changed.
pub fn wait<E: Environment>(
    query: &Query<'_>,
    ticket: &mut Option<E::QueueTicket>,
    limits: Limits,
    env: &E,
    report: &mut dyn FnMut(Duration, WaitReason),
) -> Result<Choice<E>, WaitError> {
    let start = env.elapsed();
    let mut report_at = start;
    let mut reported = None;
    let mut unreachable_since = None;
    loop {
        query.rules.begin();
        let begun = env.elapsed();
        if env.is_cancelled() {
            return Err(WaitError::Cancelled);
        }
        let reasons = match select(query, ticket.as_ref(), PROBE_WAIT.min(limits.report_interval), env) {
            Outcome::Chosen(choice) => return Ok(choice),
            Outcome::NoMatch(_) => return Err(WaitError::NoMatch),
            Outcome::Unreachable(reasons) => {
                unreachable_since.get_or_insert(env.elapsed());
                reasons
            }
            Outcome::Head(reasons) | Outcome::Busy(reasons) => {
                unreachable_since = None;
                reasons
            }
        };
        on_demand::start_one(query, &reasons, ticket.as_ref(), env.elapsed() - start, env);
        let unreachable_until = unreachable_since.map(|since| since + limits.wait_for_machine);
        let machines = eligible(query.machines, &reasons);
        match ticket {
            Some(ticket) => {
                env.renew_ticket(ticket, &machines);
                env.announce_wait(&without_slot(query, &reasons));
            }
            None => {
                *ticket = env.try_join_queue(&machines, usize::MAX).unwrap_or_else(|error| {
                    log::warn!("waiting for a slot outside the queue: {error}");
                    None
                });
            }
        }
        let (queue, mut counts): (Vec<&Machine>, Vec<usize>) = (reasons.iter())
            .filter_map(|over| match over.reason {
                Reason::NoSlot { ahead } => Some((query.machines[over.machine], ahead)),
                _ => None,
            })
            .unzip();
        let ahead = counts.iter().min().copied().unwrap_or(0);
        let reason = match (unreachable_since, on_demand::starting(&reasons)) {
            (Some(_), _) => WaitReason::Unreachable,
            (None, Some(machine)) => WaitReason::Start(machine),
            (None, None) => WaitReason::Busy,
        };
        let choice_took = env.elapsed().saturating_sub(begun);
        let interval = times(REASSESS_INTERVAL, ahead / 4 + 1).max(choice_took * PAUSE_PER_CHECK);
        let reassess_at = env.elapsed() + interval.min(REASSESS_INTERVAL_MAX);
        let mut check_time = Duration::ZERO;
        loop {
            if env.is_cancelled() {
                return Err(WaitError::Cancelled);
            }
            let now = env.elapsed();
            if now >= report_at || reported.is_some_and(|reported| reported != reason) {
                report(now - start, reason);
                reported = Some(reason);
                report_at = now + limits.report_interval;
            }
            if limits.until.is_some_and(|until| now >= until) {
                return Err(WaitError::TooLong(reasons));
            }
            if unreachable_until.is_some_and(|until| now >= until) {
                return Err(WaitError::Unreachable(reasons));
            }
            if now >= reassess_at {
                break;
            }
            let ahead = counts.iter().min().copied().unwrap_or(usize::MAX);
            let pause = times(POLL_INTERVAL, ahead.saturating_add(1)).min(POLL_INTERVAL_MAX);
            let pause = pause.max(check_time * PAUSE_PER_CHECK).min(reassess_at - now);
            let ends = [limits.until, unreachable_until, Some(report_at)].into_iter().flatten().min();
            env.pause(ends.map_or(pause, |ends| pause.min(ends - now)));
            let check_start = env.elapsed();
            let has_more_than = |ahead: usize, machine: &Machine| {
                env.free_slots(machine, ahead.saturating_add(1)).is_ok_and(|free| free > ahead)
            };
            if queue.iter().any(|machine| has_more_than(0, machine)) {
                counts = env.ahead(&queue, ticket.as_ref());
                if queue.iter().zip(&counts).any(|(machine, &ahead)| has_more_than(ahead, machine)) {
                    break;
                }
            }
            check_time = env.elapsed().saturating_sub(check_start);
        }
    }
}

/// Returns the machines that lack nothing except a slot, and for which no build is ahead.
fn without_slot<'a>(query: &Query<'a>, reasons: &[Rejection]) -> Vec<&'a Machine> {
    let is_first = |over: &&Rejection| matches!(over.reason, Reason::NoSlot { ahead: 0 });
    reasons.iter().filter(is_first).map(|over| query.machines[over.machine]).collect()
}

fn times(time: Duration, count: usize) -> Duration {
    time.saturating_mul(count.min(1000) as u32)
}
