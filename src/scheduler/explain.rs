//! A prediction of the decision, with reasons: every machine with its score, or why it is rejected. It changes nothing
//! and contacts no machine.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use super::assess::{CandidateState, assess, rank_of};
use super::choice::{Query, Reason};
use super::decision::{Decision, FULL_QUEUE_HOLD, decide};
use super::environment::Environment;
use super::outlook::estimate_now;
use super::power_state::PowerState;
use super::ranking::Rank;
use super::rules::Wants;
use super::soonest::Estimate;
use crate::machine::Machine;
use crate::state::health::Time;
use crate::state::history::Learned;
use crate::state::{Drained, Health, RunningBuild};
use crate::status::MachineStatus;

/// One machine, for one request.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Its index in the list of machines.
    pub machine: usize,
    /// Its score, if it matches and the rules give it one.
    pub score: Option<f64>,
    pub verdict: Readiness,
    /// When the outputs would be here, if the machine matches.
    pub estimate: Option<Estimate>,
    /// Whether the score is that estimate.
    pub scores_estimate: bool,
}

/// Whether a machine can take the build now.
#[derive(Clone, Debug, PartialEq)]
pub enum Readiness {
    /// Its record says that it can.
    Ready,
    /// It was not checked recently; it would be probed before use.
    Unknown,
    Not(Reason),
}

/// Returns all machines in the order in which they would be tried; those that cannot take the build come last.
pub fn explain<E: Environment>(query: &Query<'_>, env: &E) -> Vec<Explanation> {
    let ahead = env.ahead(query.machines, None);
    let mut ranked: Vec<(Option<Rank>, Explanation)> = Vec::new();
    for (index, machine) in query.machines.iter().enumerate() {
        let scores_estimate = query.rules.wants(index) == Wants::Estimate;
        let explanation =
            |score, verdict| Explanation { machine: index, score, verdict, estimate: None, scores_estimate };
        let explanation = match rank_of(query, index, machine, env) {
            Err(reason) => (None, explanation(None, Readiness::Not(reason))),
            Ok(rank) => {
                let verdict = match assess(machine, ahead.get(index).copied().unwrap_or(0), env) {
                    CandidateState::Out(reason) => Readiness::Not(reason),
                    CandidateState::Ready(_) | CandidateState::Head => Readiness::Ready,
                    CandidateState::Unknown { .. } | CandidateState::Probing { .. } | CandidateState::Contacting => {
                        Readiness::Unknown
                    }
                };
                let score = Some(rank.score);
                let estimate = Some(estimate_now(machine, env));
                (Some(rank), Explanation { estimate, ..explanation(score, verdict) })
            }
        };
        ranked.push(explanation);
    }
    ranked.sort_by(|(one, _), (other, _)| match (one, other) {
        (Some(one), Some(other)) => one.order(other),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    });
    ranked.into_iter().map(|(_, explanation)| explanation).collect()
}

/// Returns the reply's word and the index of the machine that would be chosen. It assumes that every machine without a
/// fresh record would pass its probe.
pub fn predict<E: Environment>(query: &Query<'_>, may_build_locally: bool, env: &E) -> (&'static str, Option<usize>) {
    let decision = decide(query, may_build_locally, FULL_QUEUE_HOLD, &DryRun(env.clone()));
    let word = decision.reply().word();
    match decision {
        Decision::Accept(choice) => (word, Some(choice.machine)),
        _ => (word, None),
    }
}

/// A read-only environment: every slot and lock can be taken, and every probe succeeds.
#[derive(Clone)]
struct DryRun<E>(E);

impl<E: Environment> Environment for DryRun<E> {
    type Slot = ();
    type Link = MachineStatus;
    type ProbeLock = ();
    type QueueTicket = ();

    fn now(&self) -> Time {
        self.0.now()
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    fn pause(&self, time: Duration) {
        self.0.pause(time);
    }

    fn spawn(&self, task: Box<dyn FnOnce() + Send>) {
        task();
    }

    fn health(&self, machine: &Machine) -> Health {
        self.0.health(machine)
    }

    fn change_health(&self, _: &Machine, _: &mut dyn FnMut(Health) -> Health) {}

    fn drained(&self, machine: &Machine) -> Option<Drained> {
        self.0.drained(machine)
    }

    fn power(&self, machine: &Machine) -> PowerState {
        self.0.power(machine)
    }

    fn boot_time(&self, machine: &Machine) -> Duration {
        self.0.boot_time(machine)
    }

    fn try_probe_lock(&self, _: &Machine) -> Result<Option<()>, String> {
        Ok(Some(()))
    }

    fn connect(&self, machine: &Machine) -> Result<MachineStatus, String> {
        Ok(self.0.health(machine).status.unwrap_or_default())
    }

    fn status(&self, link: &MachineStatus) -> Result<(MachineStatus, Duration), String> {
        Ok((link.clone(), Duration::ZERO))
    }

    fn running(&self, machine: &Machine) -> Vec<RunningBuild> {
        self.0.running(machine)
    }

    fn free_slots(&self, machine: &Machine, enough: usize) -> Result<usize, String> {
        self.0.free_slots(machine, enough)
    }

    fn missing_inputs(&self, machine: &Machine) -> usize {
        self.0.missing_inputs(machine)
    }

    fn missing_bytes(&self, machine: &Machine) -> Option<u64> {
        self.0.missing_bytes(machine)
    }

    fn learned(&self) -> Arc<Learned> {
        self.0.learned()
    }

    fn try_take_slot(&self, machine: &Machine, _: Option<Duration>) -> Result<Option<()>, String> {
        Ok((self.0.free_slots(machine, 1)? > 0).then_some(()))
    }

    fn try_join_queue(&self, machines: &[&Machine], limit: usize) -> Result<Option<()>, String> {
        Ok((self.0.waiting(machines) < limit).then_some(()))
    }

    fn renew_ticket(&self, (): &(), _: &[&Machine]) {}

    fn take_turn(&self, (): (), _: &Machine) {}

    fn waiting(&self, machines: &[&Machine]) -> usize {
        self.0.waiting(machines)
    }

    fn ahead(&self, machines: &[&Machine], _: Option<&()>) -> Vec<usize> {
        self.0.ahead(machines, None)
    }

    fn own_status(&self) -> MachineStatus {
        self.0.own_status()
    }
}
