//! One accepted build, from the choice of a machine to outputs in their places.
//!
//! A machine that lets the build down is replaced by another inside the same process: once the daemon has its
//! `# accept` there is no local build any more, and a hook that fails is a failed build. Only the word of a machine's
//! daemon about the build itself ends the search ([`Failure`]).

mod attempt;
mod surroundings;
mod verdict;

pub use surroundings::{Link, Network};

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Failure;
use crate::events::{Event, Observer};
use crate::hook::{Arguments, BuildLog, Request};
use crate::local::Directories;
use crate::machine::Machine;
use crate::schedule::{self, Choice, Outcome, Rules};
use crate::state::waiting::Place;
use crate::state::{Slot, StateDirectory};
use crate::store::path::StorePath;

/// How often a waiting build looks for a free slot. Machines are not asked as often: their records say how they are.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// How often a waiting build says so, for people and for the daemon's silence timer.
const SAY_AGAIN: u64 = 30;

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
    /// Machines tried at most.
    pub max_attempts: usize,
    /// How long the build may wait for a slot.
    pub wait_for_slot: Duration,
}

/// A machine that was chosen, by its slot and its connection.
pub type Chosen = Choice<Slot, Link>;

impl Job<'_> {
    /// Builds. `first` is the machine chosen before the request was accepted; without one, the build waits, and gives
    /// back its place among those that wait once it has a slot.
    pub fn run(
        &self,
        first: Option<Chosen>,
        place: Option<Place>,
        log: &BuildLog,
        observer: &mut dyn Observer,
    ) -> Result<(), Failure> {
        let mut tried: Vec<(usize, String)> = Vec::new();
        let mut next = match first {
            Some(choice) => Some(choice),
            None => Some(self.wait(&tried, observer)?),
        };
        drop(place);
        while tried.len() < self.max_attempts {
            let choice = match next.take() {
                Some(choice) => choice,
                None => self.wait(&tried, observer)?,
            };
            let place = choice.machine;
            let machine = &self.machines[place].name;
            match self.attempt(choice, log, observer) {
                Err(Failure::Machine { cause, .. }) => {
                    let derivation = &self.request.derivation;
                    observer.observe(&Event::Abandoned { derivation, machine, cause: &cause });
                    tried.push((place, cause));
                }
                result => return result,
            }
        }
        Err(self.no_machine_left(&tried, "as many attempts as 'max_attempts' allows have failed".to_owned()))
    }

    /// Waits until a machine takes the build: one that has not been tried or, if no such matches, one that has. Those are
    /// left alone for their back-off first, and the build may find them in better state then.
    fn wait(&self, tried: &[(usize, String)], observer: &mut dyn Observer) -> Result<Chosen, Failure> {
        let mut excluded: Vec<usize> = tried.iter().map(|(place, _)| *place).collect();
        let network = Network::new(self.state, &self.directories.store, self.request);
        let start = Instant::now();
        let mut said = None;
        loop {
            let reasons = match schedule::choose(self.machines, self.request, self.rules, &excluded, &network) {
                Outcome::Chosen(choice) => return Ok(choice),
                Outcome::NoMatch(_) if !excluded.is_empty() => {
                    excluded.clear();
                    continue;
                }
                Outcome::NoMatch(_) => return Err(self.no_machine_left(tried, "no other machine matches".to_owned())),
                Outcome::Busy(reasons) | Outcome::Unreachable(reasons) => reasons,
            };
            let seconds = start.elapsed().as_secs();
            if start.elapsed() >= self.wait_for_slot {
                let reasons: Vec<String> = reasons
                    .iter()
                    .map(|over| format!("{}: {}", self.machines[over.machine].name, over.reason))
                    .collect();
                let last = format!("no machine became free within {seconds} s ({})", reasons.join("; "));
                return Err(self.no_machine_left(tried, last));
            }
            if said.is_none_or(|said| seconds >= said + SAY_AGAIN) {
                observer.observe(&Event::Waiting { derivation: &self.request.derivation, seconds });
                said = Some(seconds);
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    fn no_machine_left(&self, tried: &[(usize, String)], last: String) -> Failure {
        let tried = tried.iter().map(|(place, cause)| (self.machines[*place].name.clone(), cause.clone())).collect();
        Failure::NoMachineLeft { derivation: self.request.derivation.to_string(), tried, last }
    }
}
