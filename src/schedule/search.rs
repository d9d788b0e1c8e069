//! Choosing a machine: the best one that can take the build now.
//!
//! Machines that match are ranked. Of those that are nearly as good as the best the one goes first that has most of the
//! inputs. Of the best of them a record may say at once whether it can take the build; where it does not, the machine
//! is asked, a few at the same time. A machine that answered, or that a fresh record speaks for, need not wait long for
//! better ones that have yet to answer ([`PATIENCE`]), and not at all for those that were in trouble when they were
//! last seen: these are asked on the side, for the sake of later builds. A slot is taken on the machine that is chosen,
//! and on no other. The connection over which a machine answered is the one that builds.

use std::time::Duration;

use super::ask::{Answer, Inquiry};
use super::choice::{Choice, Outcome, PassedOver, Reason};
use super::look::{PATIENCE, State, check, look_at, rank_of, score};
use super::question::Question;
use super::ranking::{Rank, nearest};
use super::surroundings::Surroundings;
use crate::machine::Machine;
use crate::state::Health;
use crate::status::Status;

/// How many machines are asked at the same time, not counting those that are slow to answer.
pub const SIDE_BY_SIDE: usize = 3;

/// When a machine is slow to answer.
const SLOW: Duration = Duration::from_millis(500);

/// How often answers are looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Chooses a machine. `waiting`: the place of this process among those that wait. No answer is waited for longer than
/// `limit`.
pub fn choose<W: Surroundings>(
    question: &Question<'_>,
    waiting: Option<&W::Place>,
    limit: Duration,
    world: &W,
) -> Outcome<W> {
    let mut search = Search::new(question, limit, world);
    search.rank();
    if search.candidates.is_empty() {
        return Outcome::NoMatch(search.passed_over);
    }
    search.look(waiting);
    search.run()
}

/// A machine that may take the build, or the head.
struct Candidate<L> {
    rank: Rank,
    state: State<L>,
    /// What `score` said against it, going by its record.
    refusal: Option<String>,
}

impl<L> Candidate<L> {
    fn new(rank: Rank, refusal: Option<String>) -> Candidate<L> {
        Candidate { rank, state: State::Unknown { after_trouble: false }, refusal }
    }
}

struct Search<'a, W: Surroundings> {
    question: &'a Question<'a>,
    world: &'a W,
    inquiry: Inquiry<'a, W>,
    /// When this has to come to an end.
    until: Duration,
    candidates: Vec<Candidate<W::Link>>,
    passed_over: Vec<PassedOver>,
}

impl<'a, W: Surroundings> Search<'a, W> {
    fn new(question: &'a Question<'a>, limit: Duration, world: &'a W) -> Self {
        let until = world.elapsed() + limit;
        let inquiry = Inquiry::new(world, limit);
        Search { question, world, inquiry, until, candidates: Vec::new(), passed_over: Vec::new() }
    }

    /// Those that match, the best first.
    fn rank(&mut self) {
        for (place, machine) in self.question.machines.iter().enumerate() {
            if self.question.excluded.contains(&place) {
                continue;
            }
            match rank_of(self.question, place, machine, self.world) {
                Ok(rank) => self.candidates.push(Candidate::new(rank, None)),
                // It may be better now than its record says, or later than it is now; so it stays, behind the others.
                Err(Reason::NotNow(why)) => {
                    let rank = Rank { score: f64::NEG_INFINITY, occupied: 0.0, place };
                    self.candidates.push(Candidate::new(rank, Some(why)));
                }
                Err(reason) => self.passed_over.push(PassedOver { machine: place, reason }),
            }
        }
        if let Some(score) = self.question.head.filter(|_| !self.candidates.is_empty()) {
            // After machines that are as good: the head has other things to do.
            let rank = Rank { score, occupied: f64::INFINITY, place: usize::MAX };
            self.candidates.push(Candidate { rank, state: State::Head, refusal: None });
        }
        self.candidates.sort_by(|one, other| one.rank.order(&other.rank));
    }

    /// What records and slots say of each candidate.
    fn look(&mut self, waiting: Option<&W::Place>) {
        let (question, world) = (self.question, self.world);
        let machines: Vec<&Machine> = (self.candidates.iter())
            .filter(|candidate| !matches!(candidate.state, State::Head))
            .map(|candidate| question.machines[candidate.rank.place])
            .collect();
        let mut ahead = world.ahead(&machines, waiting).into_iter();
        for candidate in &mut self.candidates {
            if let State::Head = candidate.state {
                continue;
            }
            let machine = question.machines[candidate.rank.place];
            candidate.state = match (look_at(machine, ahead.next().unwrap_or(0), world), &candidate.refusal) {
                (State::Ready(_), Some(why)) => State::Out(Reason::NotNow(why.clone())),
                (state, _) => state,
            };
        }
    }

    fn run(mut self) -> Outcome<W> {
        let mut choice_since = None;
        let mut has_waited = false;
        loop {
            self.take_answers();
            let best = self.candidates.iter().position(|candidate| candidate.state.can_build());
            let before = &self.candidates[..best.unwrap_or(self.candidates.len())];
            let is_awaited = before.iter().any(|candidate| candidate.state.is_awaited(best.is_some()));
            let now = self.world.elapsed();
            let is_late = match best {
                Some(_) => now >= *choice_since.get_or_insert(now) + PATIENCE,
                None => now >= self.until,
            };
            // Those on the side are asked as well when it is known that nobody waits for them.
            self.ask_next(best);
            if !is_awaited || is_late {
                if has_waited {
                    self.rank_again();
                }
                match self.take() {
                    Some(Ok(outcome)) => return outcome,
                    Some(Err(())) => continue,
                    None => return self.none(),
                }
            }
            self.world.pause(LOOK_AGAIN);
            has_waited = true;
        }
    }

    /// Asks the best of those not asked yet, as long as there are not too many at a time.
    fn ask_next(&mut self, best: Option<usize>) {
        let before = best.unwrap_or(self.candidates.len());
        let now = self.world.elapsed();
        let is_counted = |state: &State<W::Link>| match state {
            State::BeingAsked { since, .. } => now < *since + SLOW,
            _ => false,
        };
        let mut count = self.candidates.iter().filter(|candidate| is_counted(&candidate.state)).count();
        for candidate in &mut self.candidates[..before] {
            let State::Unknown { after_trouble } = candidate.state else { continue };
            if count >= SIDE_BY_SIDE {
                return;
            }
            count += 1;
            self.inquiry.ask(candidate.rank.place, self.question.machines[candidate.rank.place]);
            candidate.state = State::BeingAsked { after_trouble, since: now };
        }
    }

    /// What the answers change. The score of a machine that told its status may be another now.
    fn take_answers(&mut self) {
        let answers = self.inquiry.answers();
        if answers.is_empty() {
            return;
        }
        for (place, answer) in answers {
            let machine = self.question.machines[place];
            let (rank, state) = match answer {
                Answer::Failed(error) => (None, State::Out(Reason::Unreachable(error))),
                Answer::Reached(link, status) => self.judge(place, machine, Some(link), status),
                Answer::Known(status) => self.judge(place, machine, None, status),
            };
            if let Some(candidate) = self.candidates.iter_mut().find(|candidate| candidate.rank.place == place) {
                candidate.state = state;
                candidate.rank = rank.unwrap_or_else(|| candidate.rank.clone());
            }
        }
        self.candidates.sort_by(|one, other| one.rank.order(&other.rank));
    }

    fn judge(
        &self,
        place: usize,
        machine: &Machine,
        link: Option<W::Link>,
        status: Status,
    ) -> (Option<Rank>, State<W::Link>) {
        if let Err(reason) = check(machine, &status) {
            return (None, State::Out(reason));
        }
        let health = Health::reached(status, self.world.now());
        match score(self.question, place, machine, &health, self.world) {
            Ok(rank) => (Some(rank), State::Ready(link)),
            Err(reason) => (None, State::Out(reason)),
        }
    }

    /// Those who waited for the same answers may have chosen by now, and what they build counts as load.
    fn rank_again(&mut self) {
        for number in 0..self.candidates.len() {
            let candidate = &self.candidates[number];
            if !matches!(candidate.state, State::Ready(_)) {
                continue;
            }
            let place = candidate.rank.place;
            let machine = self.question.machines[place];
            match score(self.question, place, machine, &self.world.health(machine), self.world) {
                Ok(rank) => self.candidates[number].rank = rank,
                Err(reason) => self.candidates[number].state = State::Out(reason),
            }
        }
        self.candidates.sort_by(|one, other| one.rank.order(&other.rank));
    }

    /// Takes a slot of the best that can build; an error if another process was faster.
    fn take(&mut self) -> Option<Result<Outcome<W>, ()>> {
        let best = self.candidates.iter().position(|candidate| candidate.state.can_build())?;
        if let State::Head = self.candidates[best].state {
            return Some(Ok(Outcome::Head(self.reasons())));
        }
        let number = self.nearest();
        let candidate = &mut self.candidates[number.unwrap_or(best)];
        let place = candidate.rank.place;
        let reason = match self.world.try_take_slot(self.question.machines[place]) {
            Ok(Some(slot)) => {
                let State::Ready(link) = std::mem::replace(&mut candidate.state, State::Head) else { return None };
                return Some(Ok(Outcome::Chosen(Choice { machine: place, slot, link })));
            }
            Ok(None) => Reason::NoSlot { ahead: 0 },
            Err(error) => Reason::SlotsUnknown(error),
        };
        candidate.state = State::Out(reason);
        Some(Err(()))
    }

    /// Of the machines that can build and are nearly the best, the one that has most of the inputs.
    fn nearest(&self) -> Option<usize> {
        let ready: Vec<usize> = (0..self.candidates.len())
            .filter(|&number| matches!(self.candidates[number].state, State::Ready(_)))
            .collect();
        let scores: Vec<f64> = ready.iter().map(|&number| self.candidates[number].rank.score).collect();
        let lacks = |number: usize| {
            let place = self.candidates[ready[number]].rank.place;
            self.world.lacks(self.question.machines[place])
        };
        let nearest = nearest(&scores, self.question.rules.nearly_as_good(), lacks)?;
        ready.get(nearest).copied()
    }

    fn none(mut self) -> Outcome<W> {
        let reasons = self.reasons();
        if reasons.iter().any(|over| over.reason.is_busy()) {
            Outcome::Busy(reasons)
        } else {
            Outcome::Unreachable(reasons)
        }
    }

    fn reasons(&mut self) -> Vec<PassedOver> {
        let mut reasons = std::mem::take(&mut self.passed_over);
        for candidate in self.candidates.drain(..) {
            let reason = match candidate.state {
                State::Out(reason) => reason,
                State::Ready(_) | State::Head => continue,
                State::BeingAsked { .. } => Reason::Unreachable("it has not answered yet".to_owned()),
                State::Unknown { .. } => Reason::Unreachable("it has not been asked yet".to_owned()),
            };
            reasons.push(PassedOver { machine: candidate.rank.place, reason });
        }
        reasons
    }
}
