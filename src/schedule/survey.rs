//! What would be decided, and why: every machine with its score or the reason why not. Nothing is changed and nobody
//! asked.

use std::cmp::Ordering;
use std::time::Duration;

use super::choice::Reason;
use super::decision::{Decision, decide};
use super::look::{State, look_at, rank_of};
use super::question::Question;
use super::ranking::Rank;
use super::surroundings::Surroundings;
use crate::machine::Machine;
use crate::state::Drained;
use crate::state::Health;
use crate::state::health::Time;
use crate::status::Status;

/// One machine, for one request.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// Its place in the list of machines.
    pub machine: usize,
    /// Its score, if it matches and the rules give it one.
    pub score: Option<f64>,
    pub verdict: Verdict,
}

/// Whether a machine could take the build now.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It could, as its record says.
    Ready,
    /// It would have to be asked first.
    Unknown,
    Not(Reason),
}

/// All machines, in the order in which they would be tried; those that cannot take the build last.
pub fn survey<W: Surroundings>(question: &Question<'_>, world: &W) -> Vec<Surveyed> {
    let ahead = world.ahead(question.machines, None);
    let mut ranked: Vec<(Option<Rank>, Surveyed)> = Vec::new();
    for (place, machine) in question.machines.iter().enumerate() {
        let surveyed = match rank_of(question, place, machine, world) {
            Err(reason) => (None, Surveyed { machine: place, score: None, verdict: Verdict::Not(reason) }),
            Ok(rank) => {
                let verdict = match look_at(machine, ahead.get(place).copied().unwrap_or(0), world) {
                    State::Out(reason) => Verdict::Not(reason),
                    State::Ready(_) | State::Head => Verdict::Ready,
                    State::Unknown { .. } | State::BeingAsked { .. } => Verdict::Unknown,
                };
                let score = Some(rank.score);
                (Some(rank), Surveyed { machine: place, score, verdict })
            }
        };
        ranked.push(surveyed);
    }
    ranked.sort_by(|(one, _), (other, _)| match (one, other) {
        (Some(one), Some(other)) => one.order(other),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    });
    ranked.into_iter().map(|(_, surveyed)| surveyed).collect()
}

/// What the daemon would be told, supposing that machines which would have to be asked answer well; and the place of
/// the machine that would be chosen.
pub fn foresee<W: Surroundings>(
    question: &Question<'_>,
    may_build_locally: bool,
    world: &W,
) -> (&'static str, Option<usize>) {
    let decision = decide(question, may_build_locally, &Rehearsal(world.clone()));
    let word = decision.reply().word();
    match decision {
        Decision::Accept(choice) => (word, Some(choice.machine)),
        _ => (word, None),
    }
}

/// A world that is looked at only: everything that would be taken is there, and everybody who would be asked answers.
#[derive(Clone)]
struct Rehearsal<W>(W);

impl<W: Surroundings> Surroundings for Rehearsal<W> {
    type Slot = ();
    type Link = Status;
    type Asking = ();
    type Place = ();

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

    fn try_ask(&self, _: &Machine) -> Result<Option<()>, String> {
        Ok(Some(()))
    }

    fn connect(&self, machine: &Machine) -> Result<Status, String> {
        Ok(self.0.health(machine).status.unwrap_or_default())
    }

    fn status(&self, link: &Status) -> Result<Status, String> {
        Ok(link.clone())
    }

    fn running(&self, machine: &Machine) -> Vec<Time> {
        self.0.running(machine)
    }

    fn free_slots(&self, machine: &Machine) -> Result<usize, String> {
        self.0.free_slots(machine)
    }

    fn lacks(&self, machine: &Machine) -> usize {
        self.0.lacks(machine)
    }

    fn try_take_slot(&self, machine: &Machine) -> Result<Option<()>, String> {
        Ok((self.0.free_slots(machine)? > 0).then_some(()))
    }

    fn try_take_place(&self, machines: &[&Machine], limit: usize) -> Result<Option<()>, String> {
        let waiting = self.0.ahead(machines, None).into_iter().max().unwrap_or(0);
        Ok((waiting < limit).then_some(()))
    }

    fn renew_place(&self, (): &(), _: &[&Machine]) {}

    fn ahead(&self, machines: &[&Machine], _: Option<&()>) -> Vec<usize> {
        self.0.ahead(machines, None)
    }

    fn own_status(&self) -> Status {
        self.0.own_status()
    }
}
