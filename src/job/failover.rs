//! Fail-over: an accepted build goes from machine to machine until one of them has built it.
//!
//! Between attempts it waits for a machine: one that has not been tried or, if there is none for a while, one that has.
//! All that touches the world goes through [`Surroundings`] and the attempt that is passed in, so that simulations
//! drive this very code.

use std::time::Duration;

use crate::error::Failure;
use crate::events::{Event, Observer};
use crate::hook::{Arguments, Request};
use crate::machine::Machine;
use crate::schedule::{Choice, PassedOver, Question, Rules, Surroundings, Waited, wait, waiting};

/// How often a waiting build says so at the least, for people. The daemon's silence timer may want it more often.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// How long a build whose machine failed it waits for another one, before it takes that one again as well.
const ANOTHER_WITHIN: Duration = Duration::from_secs(30);

/// The largest `wait_for_slot` that a machine file may give, in seconds.
const LONGEST_WAIT: u64 = 86_400;

/// How long before the daemon's time limit waiting ends.
const MARGIN: Duration = Duration::from_secs(1);

/// Where a build may go, and for how long it may look for a place.
pub struct FailOver<'a> {
    pub request: &'a Request,
    /// The daemon's limits for the build.
    pub arguments: &'a Arguments,
    pub machines: &'a [&'a Machine],
    pub rules: &'a dyn Rules,
    /// Attempts at most, on one machine or several.
    pub max_attempts: usize,
    /// How long the build may wait for a slot, each time it needs one.
    pub wait_for_slot: Duration,
}

/// Builds on the machine that was chosen. [`Failure::Machine`] and [`Failure::Refused`] leave the build to another one.
pub type Attempt<'a, W> = dyn FnMut(Choice<W>, &mut dyn Observer) -> Result<(), Failure> + 'a;

/// A machine that let the build down.
struct Tried {
    /// Its place in the list.
    machine: usize,
    cause: String,
    /// It did not build this, and would not another time.
    is_final: bool,
}

impl FailOver<'_> {
    /// Makes one attempt after the other. `first` is the machine chosen before the request was accepted; without one
    /// the build waits, at `place` in the line.
    pub fn run<W: Surroundings>(
        &self,
        first: Option<Choice<W>>,
        mut place: Option<W::Place>,
        world: &W,
        attempt: &mut Attempt<'_, W>,
        observer: &mut dyn Observer,
    ) -> Result<(), Failure> {
        let daemons = self.arguments.build_timeout.map(|limit| world.elapsed() + limit.saturating_sub(MARGIN));
        let mut tried: Vec<Tried> = Vec::new();
        let mut next = first;
        while tried.len() < self.max_attempts {
            let choice = match next.take() {
                Some(choice) => choice,
                None => self.wait(&tried, &mut place, daemons, world, observer)?,
            };
            // Whoever has a slot waits no more.
            place = None;
            let machine = choice.machine;
            let (cause, is_final) = match attempt(choice, observer) {
                Err(Failure::Machine { cause, .. }) => (cause, false),
                Err(Failure::Refused { cause, .. }) => (cause, true),
                result => return result,
            };
            let (derivation, name) = (&self.request.derivation, &self.machines[machine].name);
            observer.observe(&Event::Abandoned { derivation, machine: name, cause: &cause });
            tried.push(Tried { machine, cause, is_final });
        }
        Err(self.no_machine_left(&tried, "as many attempts as 'max_attempts' allows have failed".to_owned(), None))
    }

    /// Waits until a machine takes the build. Those that were tried are left alone for their back-off first, and the
    /// build may find them in better state then. `daemons`: when the daemon's time limit for the build is about to end.
    fn wait<W: Surroundings>(
        &self,
        tried: &[Tried],
        place: &mut Option<W::Place>,
        daemons: Option<Duration>,
        world: &W,
        observer: &mut dyn Observer,
    ) -> Result<Choice<W>, Failure> {
        let excluded = |is_final: bool| -> Vec<usize> {
            tried.iter().filter(|tried| tried.is_final || !is_final).map(|tried| tried.machine).collect()
        };
        let until = |limit: Duration| {
            let own = world.elapsed() + limit;
            daemons.map_or(own, |daemons| own.min(daemons))
        };
        let limit = if tried.is_empty() { self.wait_for_slot } else { self.wait_for_slot.min(ANOTHER_WITHIN) };
        let mut waited = self.wait_without(&excluded(false), until(limit), place, world, observer);
        if waited.is_err() && !tried.is_empty() {
            waited = self.wait_without(&excluded(true), until(self.wait_for_slot), place, world, observer);
        }
        waited.map_err(|waited| match waited {
            Waited::NoMatch => self.no_machine_left(tried, "no other machine matches".to_owned(), None),
            Waited::TooLong(reasons) => self.nothing_free(tried, &reasons),
        })
    }

    fn wait_without<W: Surroundings>(
        &self,
        excluded: &[usize],
        until: Duration,
        place: &mut Option<W::Place>,
        world: &W,
        observer: &mut dyn Observer,
    ) -> Result<Choice<W>, Waited> {
        let FailOver { request, machines, rules, .. } = *self;
        let question = Question { request, machines, rules, excluded, head: None };
        let silence = self.arguments.max_silent_time.map(|limit| limit / 3);
        let say_every = silence.map_or(SAY_EVERY, |silence| silence.min(SAY_EVERY));
        let derivation = &request.derivation;
        let mut say = |time: Duration| {
            observer.observe(&Event::Waiting { derivation, seconds: time.as_secs() });
        };
        wait(&question, place, waiting::Limits { until, say_every }, world, &mut say)
    }

    fn nothing_free(&self, tried: &[Tried], reasons: &[PassedOver]) -> Failure {
        let is_busy = reasons.iter().any(|over| over.reason.is_busy());
        let reasons: Vec<String> =
            reasons.iter().map(|over| format!("{}: {}", self.machines[over.machine].name, over.reason)).collect();
        let reasons = reasons.join("; ");
        match self.arguments.build_timeout {
            Some(limit) if limit < self.wait_for_slot => {
                let last = format!("no machine became free before the daemon's time limit for the build ({reasons})");
                self.no_machine_left(tried, last, None)
            }
            _ => {
                let seconds = self.wait_for_slot.as_secs();
                let longer = (seconds * 6).clamp(600, LONGEST_WAIT);
                let hint = format!(
                    "builds wait longer for a slot with `wait_for_slot = {longer}` in the machine file; it is {seconds} now \
                     (seconds)"
                );
                let last = format!("no machine became free within {seconds} s ({reasons})");
                self.no_machine_left(tried, last, (is_busy && seconds < LONGEST_WAIT).then_some(hint))
            }
        }
    }

    fn no_machine_left(&self, tried: &[Tried], last: String, hint: Option<String>) -> Failure {
        let tried =
            tried.iter().map(|tried| (self.machines[tried.machine].name.clone(), tried.cause.clone())).collect();
        Failure::NoMachineLeft { derivation: self.request.derivation.to_string(), tried, last, hint }
    }
}
