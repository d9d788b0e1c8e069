//! Selection of a machine: the best one that can take the build now.
//!
//! Matching machines are ranked. Of those that are nearly as good as the best, the one with most of the inputs goes
//! first. A fresh record decides at once whether a machine can take the build; without one the machine is probed, a few
//! of them concurrently. Once some machine can take the build, the selection waits only briefly
//! ([`BETTER_MACHINE_WAIT`]) for better machines that have yet to respond. It does not wait for machines whose last
//! contact failed: their probes run on the side, for the sake of later builds. A slot is taken only on the chosen
//! machine. A machine chosen on its record alone must respond first ([`contact`](super::contact)). The connection that
//! probed or contacted a machine is the one that builds.

use std::time::Duration;

use super::assess::{BETTER_MACHINE_WAIT, CandidateState, assess, check, score};
use super::candidates::{Candidate, candidates};
use super::choice::{Choice, Outcome, Query, Reason, Rejection};
use super::contact::{CONTACT_WAIT, Contacts};
use super::environment::Environment;
use super::power_state::PowerState;
use super::probe::{ProbeResult, Probes};
use super::ranking::{Rank, prefer_locality};
use super::rules::Wants;
use crate::machine::Machine;
use crate::state::Health;
use crate::status::MachineStatus;

/// The most probes at the same time; those that are slow do not count.
pub const MAX_PARALLEL_PROBES: usize = 3;

/// A probe that takes longer is slow, and another one is started beside it.
const SLOW_PROBE_AFTER: Duration = Duration::from_millis(500);

/// How often the results of probes are checked.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Selects a machine. `waiting` is the queue ticket of this process. No probe is awaited longer than `limit`.
pub fn select<E: Environment>(
    query: &Query<'_>,
    waiting: Option<&E::QueueTicket>,
    limit: Duration,
    env: &E,
) -> Outcome<E> {
    let mut selection = Selection::new(query, limit, env);
    if selection.candidates.is_empty() {
        return Outcome::NoMatch(selection.rejections);
    }
    selection.assess(waiting);
    selection.run()
}

struct Selection<'a, E: Environment> {
    query: &'a Query<'a>,
    env: &'a E,
    probes: Probes<'a, E>,
    contacts: Contacts<E::Slot>,
    /// The machine that has responded to its contact, with its slot.
    responded: Option<Choice<E>>,
    /// The time at which the selection must end.
    until: Duration,
    candidates: Vec<Candidate<E::Link>>,
    rejections: Vec<Rejection>,
}

impl<'a, E: Environment> Selection<'a, E> {
    fn new(query: &'a Query<'a>, limit: Duration, env: &'a E) -> Self {
        let until = env.elapsed() + limit;
        let probes = Probes::new(env, limit);
        let contacts = Contacts::new();
        let (candidates, rejections) = candidates(query, env);
        Selection { query, env, probes, contacts, responded: None, until, candidates, rejections }
    }

    /// Assesses each candidate from records and slots.
    fn assess(&mut self, waiting: Option<&E::QueueTicket>) {
        let (query, env) = (self.query, self.env);
        let machines: Vec<&Machine> = (self.candidates.iter())
            .filter(|candidate| !matches!(candidate.state, CandidateState::Head))
            .map(|candidate| query.machines[candidate.rank.index])
            .collect();
        let mut ahead = env.ahead(&machines, waiting).into_iter();
        for candidate in &mut self.candidates {
            if let CandidateState::Head = candidate.state {
                continue;
            }
            let machine = query.machines[candidate.rank.index];
            candidate.state = match (assess(machine, ahead.next().unwrap_or(0), env), &candidate.declined) {
                (CandidateState::Ready(_), Some(why)) => CandidateState::Out(Reason::ScoreDeclined(why.clone())),
                (state, _) => state,
            };
        }
    }

    fn run(mut self) -> Outcome<E> {
        let mut choice_since = None;
        let mut has_waited = false;
        loop {
            if self.env.is_cancelled() {
                return self.none();
            }
            self.collect_results();
            self.contacts.record_slow(self.query.machines, self.env);
            if let Some(choice) = self.responded.take() {
                return Outcome::Chosen(choice);
            }
            let best = self.candidates.iter().position(|candidate| candidate.state.can_build());
            // Probes on the side start only once it is clear that the selection does not wait for them.
            self.start_probes();
            if !self.awaits_better(best, &mut choice_since) {
                if has_waited {
                    self.rerank();
                }
                match self.claim_best() {
                    Some(Ok(outcome)) => return outcome,
                    Some(Err(())) => continue,
                    None => return self.none(),
                }
            }
            self.env.pause(POLL_INTERVAL);
            has_waited = true;
        }
    }

    /// Returns whether the selection waits for the response of a machine that is better than `best`. `choice_since` is
    /// the time at which some machine was first found that can take the build.
    fn awaits_better(&self, best: Option<usize>, choice_since: &mut Option<Duration>) -> bool {
        let now = self.env.elapsed();
        let is_late = match best {
            Some(_) => now >= *choice_since.get_or_insert(now) + BETTER_MACHINE_WAIT,
            None => now >= self.until,
        };
        let mut candidates = self.candidates.iter().enumerate();
        candidates.any(|(number, candidate)| match candidate.state {
            // It was preferred, whatever its rank.
            CandidateState::Contacting => self.contacts.is_awaited(candidate.rank.index, best.is_some(), now),
            ref state => !is_late && best.is_none_or(|best| number < best) && state.is_awaited(best.is_some()),
        })
    }

    /// Probes the candidates that are better than one that can build or is about to respond, within the limit of
    /// concurrent probes.
    fn start_probes(&mut self) {
        let now = self.env.elapsed();
        let is_enough = |candidate: &Candidate<E::Link>| match candidate.state {
            CandidateState::Contacting => self.contacts.is_awaited(candidate.rank.index, true, now),
            ref state => state.can_build(),
        };
        let before = self.candidates.iter().position(is_enough).unwrap_or(self.candidates.len());
        let is_counted = |state: &CandidateState<E::Link>| match state {
            CandidateState::Probing { since, .. } => now < *since + SLOW_PROBE_AFTER,
            _ => false,
        };
        let mut count = self.candidates.iter().filter(|candidate| is_counted(&candidate.state)).count();
        for candidate in &mut self.candidates[..before] {
            let CandidateState::Unknown { after_failure } = candidate.state else { continue };
            if count >= MAX_PARALLEL_PROBES {
                return;
            }
            count += 1;
            self.probes.start(candidate.rank.index, self.query.machines[candidate.rank.index]);
            candidate.state = CandidateState::Probing { after_failure, since: now };
        }
    }

    /// Applies the results of probes. A machine's new status may change its score.
    fn collect_results(&mut self) {
        let results = self.probes.results();
        if results.is_empty() {
            return;
        }
        for (index, result) in results {
            let machine = self.query.machines[index];
            let (rank, state) = match result {
                ProbeResult::Failed(error) => (None, CandidateState::Out(Reason::Unreachable(error))),
                ProbeResult::Reached(link, status) => self.apply_status(index, machine, Some(link), status),
                ProbeResult::FromRecord(status) => self.apply_status(index, machine, None, status),
                ProbeResult::Responded(link) => {
                    self.respond(index, link);
                    continue;
                }
            };
            self.contacts.end(index);
            if let Some(candidate) = self.candidates.iter_mut().find(|candidate| candidate.rank.index == index) {
                candidate.state = state;
                candidate.rank = rank.unwrap_or_else(|| candidate.rank.clone());
            }
        }
        self.candidates.sort_by(|one, other| one.rank.order(&other.rank));
    }

    /// Chooses a machine that has responded to its contact, unless another one was faster.
    fn respond(&mut self, index: usize, link: E::Link) {
        if self.responded.is_none()
            && let Some(slot) = self.contacts.end(index)
        {
            self.responded = Some(Choice { machine: index, slot, link: Some(link) });
        }
    }

    fn apply_status(
        &self,
        index: usize,
        machine: &Machine,
        link: Option<E::Link>,
        status: MachineStatus,
    ) -> (Option<Rank>, CandidateState<E::Link>) {
        if let Err(reason) = check(machine, &status) {
            return (None, CandidateState::Out(reason));
        }
        let health = Health::reached(status, self.env.now());
        match score(self.query, index, machine, &health, self.env) {
            Ok(rank) => (Some(rank), CandidateState::Ready(link)),
            Err(reason) => (None, CandidateState::Out(reason)),
        }
    }

    /// Ranks again. Other processes that awaited the same probe may have chosen by now, and their builds count as load.
    fn rerank(&mut self) {
        for number in 0..self.candidates.len() {
            let candidate = &self.candidates[number];
            if !matches!(candidate.state, CandidateState::Ready(_)) {
                continue;
            }
            let index = candidate.rank.index;
            let machine = self.query.machines[index];
            match score(self.query, index, machine, &self.env.health(machine), self.env) {
                Ok(rank) => self.candidates[number].rank = rank,
                Err(reason) => self.candidates[number].state = CandidateState::Out(reason),
            }
        }
        self.candidates.sort_by(|one, other| one.rank.order(&other.rank));
    }

    /// Takes a slot of the best candidate that can build, and contacts the machine unless it has just been probed. An
    /// error if the selection continues.
    fn claim_best(&mut self) -> Option<Result<Outcome<E>, ()>> {
        let best = self.candidates.iter().position(|candidate| candidate.state.can_build())?;
        if let CandidateState::Head = self.candidates[best].state {
            return Some(Ok(Outcome::Head(self.reasons())));
        }
        let number = self.prefer_locality().unwrap_or(best);
        let index = self.candidates[number].rank.index;
        let machine = self.query.machines[index];
        let is_estimate = self.query.rules.wants(index) == Wants::Estimate;
        let expected = is_estimate.then(|| Duration::try_from_secs_f64(-self.candidates[number].rank.score).ok());
        let reason = match self.env.try_take_slot(machine, expected.flatten()) {
            // It may have been stopped since it was assessed. While this process has the slot, it is not stopped.
            Ok(Some(slot)) if self.env.power(machine) != PowerState::Running => {
                drop(slot);
                Reason::Power(self.env.power(machine))
            }
            Ok(Some(slot)) => {
                let state = std::mem::replace(&mut self.candidates[number].state, CandidateState::Contacting);
                if let CandidateState::Ready(link @ Some(_)) = state {
                    return Some(Ok(Outcome::Chosen(Choice { machine: index, slot, link })));
                }
                self.contacts.add(index, slot, self.env.elapsed());
                self.probes.contact(index, machine);
                return Some(Err(()));
            }
            Ok(None) => Reason::NoSlot { ahead: 0 },
            Err(error) => Reason::SlotsUnknown(error),
        };
        self.candidates[number].state = CandidateState::Out(reason);
        Some(Err(()))
    }

    /// Returns, of the machines that can build and are nearly the best, the one that has most of the inputs.
    fn prefer_locality(&self) -> Option<usize> {
        let ready: Vec<usize> = (0..self.candidates.len())
            .filter(|&number| matches!(self.candidates[number].state, CandidateState::Ready(_)))
            .collect();
        let scores: Vec<f64> = ready.iter().map(|&number| self.candidates[number].rank.score).collect();
        let missing_inputs = |number: usize| {
            let index = self.candidates[ready[number]].rank.index;
            self.env.missing_inputs(self.query.machines[index])
        };
        let prefer_locality = prefer_locality(&scores, self.query.rules.nearly_as_good(), missing_inputs)?;
        ready.get(prefer_locality).copied()
    }

    fn none(mut self) -> Outcome<E> {
        let reasons = self.reasons();
        if reasons.iter().any(|over| over.reason.is_busy()) {
            Outcome::Busy(reasons)
        } else {
            Outcome::Unreachable(reasons)
        }
    }

    fn reasons(&mut self) -> Vec<Rejection> {
        let mut reasons = std::mem::take(&mut self.rejections);
        for candidate in self.candidates.drain(..) {
            let reason = match candidate.state {
                CandidateState::Out(reason) => reason,
                CandidateState::Ready(_) | CandidateState::Head => continue,
                CandidateState::Probing { .. } => Reason::Unreachable("the probe has not finished".to_owned()),
                CandidateState::Contacting => {
                    Reason::Unreachable(format!("it has not responded within {} s", CONTACT_WAIT.as_secs()))
                }
                CandidateState::Unknown { .. } => Reason::Unreachable("it has not been probed".to_owned()),
            };
            reasons.push(Rejection { machine: candidate.rank.index, reason });
        }
        reasons
    }
}
