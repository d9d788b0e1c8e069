//! One accepted build, from the choice of a machine to outputs in their places.
//!
//! A machine that lets the build down is replaced by another inside the same process: once the daemon has its
//! `# accept` there is no local build any more, and a hook that fails is a failed build. Only the word of a machine's
//! daemon about the build itself ends the search ([`Failure`]).
//!
//! What a failure means for the machine: one that cannot be reached, is lost, or refuses what every build needs (inputs, a
//! signature) is left alone for a while. One whose daemon only failed this build, for reasons that say nothing
//! about the derivation (status 1), is not tried again for it, and remains good for others. What fails on this side is no machine's
//! fault, and no other machine would mend it.
//!
//! The daemon counts its time limit for the build from `# accept` on, whatever happens here. So no machine is waited for up
//! to that moment: the daemon would say that the build took too long, which would not be true.

mod attempt;
mod connect;
mod look;
mod reach;
mod surroundings;
mod verdict;

pub use connect::connect;
pub use reach::{Reached, reach};
pub use surroundings::{Network, remember_failure, remember_success};

use std::collections::BTreeSet;
use std::time::Duration;

use crate::error::Failure;
use crate::events::{Event, Observer};
use crate::hook::{Arguments, BuildLog, Request};
use crate::local::Directories;
use crate::machine::Machine;
use crate::schedule::{Choice, PassedOver, Question, Rules, Surroundings, Waited, wait, waiting};
use crate::state::{Place, StateDirectory};
use crate::store::path::StorePath;

/// How often a waiting build says so at the least, for people. The daemon's silence timer may want it more often.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// How long a build whose machine failed it waits for another one, before it takes that one again as well.
const ANOTHER_WITHIN: Duration = Duration::from_secs(30);

/// How long before the daemon's time limit waiting ends.
const MARGIN: Duration = Duration::from_secs(1);

/// An accepted build.
pub struct Job<'a> {
    pub request: &'a Request,
    pub arguments: &'a Arguments,
    /// The closure of what the build needs, the derivation included.
    pub inputs: &'a BTreeSet<StorePath>,
    /// The outputs that are missing here.
    pub outputs: &'a BTreeSet<StorePath>,
    pub machines: &'a [&'a Machine],
    pub rules: &'a dyn Rules,
    pub directories: &'a Directories,
    pub state: &'a StateDirectory,
    /// Attempts at most, on one machine or several.
    pub max_attempts: usize,
    /// How long the build may wait for a slot, each time it needs one.
    pub wait_for_slot: Duration,
}

/// A machine that was chosen, by its slot and its connection.
pub type Chosen = Choice<Network>;

/// A machine that let the build down.
struct Tried {
    /// Its place in the list.
    machine: usize,
    cause: String,
    /// It did not build this, and would not another time.
    is_final: bool,
}

impl Job<'_> {
    /// Builds. `first` is the machine chosen before the request was accepted; without one the build waits, at `place` in the
    /// line.
    pub fn run(
        &self,
        first: Option<Chosen>,
        mut place: Option<Place>,
        log: &BuildLog,
        observer: &mut dyn Observer,
    ) -> Result<(), Failure> {
        let world = Network::new(self.state, &self.directories.store, self.request);
        let mut tried: Vec<Tried> = Vec::new();
        let mut next = first;
        while tried.len() < self.max_attempts {
            let choice = match next.take() {
                Some(choice) => choice,
                None => self.wait(&tried, &mut place, &world, observer)?,
            };
            // Whoever has a slot waits no more.
            place = None;
            let machine = choice.machine;
            let (cause, is_final) = match self.attempt(choice, &world, log, observer) {
                Err(Failure::Machine { cause, .. }) => (cause, false),
                Err(Failure::Refused { cause, .. }) => (cause, true),
                result => return result,
            };
            let (derivation, name) = (&self.request.derivation, &self.machines[machine].name);
            observer.observe(&Event::Abandoned { derivation, machine: name, cause: &cause });
            tried.push(Tried { machine, cause, is_final });
        }
        Err(self.no_machine_left(&tried, "as many attempts as 'max_attempts' allows have failed".to_owned()))
    }

    /// Waits until a machine takes the build: one that has not been tried or, if there is none for a while, one that has.
    /// Those are left alone for their back-off first, and the build may find them in better state then.
    fn wait(
        &self,
        tried: &[Tried],
        place: &mut Option<Place>,
        world: &Network,
        observer: &mut dyn Observer,
    ) -> Result<Chosen, Failure> {
        let excluded = |is_final: bool| -> Vec<usize> {
            tried.iter().filter(|tried| tried.is_final || !is_final).map(|tried| tried.machine).collect()
        };
        let limit = if tried.is_empty() { self.wait_for_slot } else { self.wait_for_slot.min(ANOTHER_WITHIN) };
        let mut waited = self.wait_without(&excluded(false), limit, place, world, observer);
        if waited.is_err() && !tried.is_empty() {
            waited = self.wait_without(&excluded(true), self.wait_for_slot, place, world, observer);
        }
        waited.map_err(|waited| {
            let last = match waited {
                Waited::NoMatch => "no other machine matches".to_owned(),
                Waited::TooLong(reasons) => self.nothing_free(&reasons),
            };
            self.no_machine_left(tried, last)
        })
    }

    fn wait_without(
        &self,
        excluded: &[usize],
        limit: Duration,
        place: &mut Option<Place>,
        world: &Network,
        observer: &mut dyn Observer,
    ) -> Result<Chosen, Waited> {
        let Job { request, machines, rules, .. } = *self;
        let question = Question { request, machines, rules, excluded, head: None };
        let own = world.elapsed() + limit;
        let daemons = self.arguments.build_timeout.map(|limit| limit.saturating_sub(MARGIN));
        let silence = self.arguments.max_silent_time.map(|limit| limit / 3);
        let limits = waiting::Limits {
            until: daemons.map_or(own, |daemons| own.min(daemons)),
            say_every: silence.map_or(SAY_EVERY, |silence| silence.min(SAY_EVERY)),
        };
        let derivation = &request.derivation;
        let mut say = |time: Duration| {
            observer.observe(&Event::Waiting { derivation, seconds: time.as_secs() });
        };
        wait(&question, place, limits, world, &mut say)
    }

    fn nothing_free(&self, reasons: &[PassedOver]) -> String {
        let reasons: Vec<String> =
            reasons.iter().map(|over| format!("{}: {}", self.machines[over.machine].name, over.reason)).collect();
        let reasons = reasons.join("; ");
        match self.arguments.build_timeout {
            Some(limit) if limit < self.wait_for_slot => {
                format!("no machine became free before the daemon's time limit for the build ({reasons})")
            }
            _ => format!("no machine became free within {} s ({reasons})", self.wait_for_slot.as_secs()),
        }
    }

    fn no_machine_left(&self, tried: &[Tried], last: String) -> Failure {
        let tried =
            tried.iter().map(|tried| (self.machines[tried.machine].name.clone(), tried.cause.clone())).collect();
        Failure::NoMachineLeft { derivation: self.request.derivation.to_string(), tried, last }
    }
}
