//! The rules that a machine file may replace: which machine may take a build, and how well it suits.

use std::cell::RefCell;

use log::warn;

use super::ranking::default_score;
use crate::hook::{Arguments, Request};
use crate::machine::Machine;
use crate::policy::{self, Candidate, Pool, Score, Verdict};
use crate::state::Health;
use crate::state::health::Time;

/// What is known of a machine when the rules are asked.
pub struct Known<'a> {
    pub health: &'a Health,
    /// How many of its slots are taken.
    pub running: usize,
    pub now: Time,
}

/// The seam for functions written by the administrator.
pub trait Rules {
    /// Whether the machine may take the build; the error says why not.
    fn accepts(&self, machine: usize) -> Result<(), String>;

    /// How well the machine suits the build, the higher the better; the error says why it does not at all.
    fn score(&self, machine: usize, known: &Known<'_>) -> Result<f64, String>;
}

/// The rules where the machine file has none: every matching machine may take every build.
pub struct BuiltIn<'a>(pub &'a [&'a Machine]);

impl Rules for BuiltIn<'_> {
    fn accepts(&self, _: usize) -> Result<(), String> {
        Ok(())
    }

    fn score(&self, machine: usize, known: &Known<'_>) -> Result<f64, String> {
        let status = known.health.status.clone().unwrap_or_default();
        Ok(default_score(self.0[machine], &status))
    }
}

/// The rules of a machine file, for one request. What goes wrong in them is logged, and the built-in rules hold.
pub struct FileRules<'a>(RefCell<policy::Decision<'a>>);

impl<'a> FileRules<'a> {
    /// Begins a decision about `request`; all calls of the file's functions share the time of one decision.
    pub fn new(
        pool: &'a Pool,
        request: &Request,
        arguments: &Arguments,
        reader: Option<policy::DerivationReader>,
    ) -> Self {
        FileRules(RefCell::new(pool.decide(policy::Request { reader, ..policy::Request::new(request, arguments) })))
    }

    /// Asks, and logs the warnings.
    pub fn ask<T>(&self, question: impl FnOnce(&mut policy::Decision<'a>) -> T) -> T {
        let mut decision = self.0.borrow_mut();
        let answer = question(&mut decision);
        for warning in decision.take_warnings() {
            warn!("{warning}");
        }
        answer
    }
}

impl Rules for FileRules<'_> {
    fn accepts(&self, machine: usize) -> Result<(), String> {
        match self.ask(|decision| decision.accepts(Candidate::Machine(machine))) {
            Verdict::Yes => Ok(()),
            Verdict::No(why) => Err(why),
        }
    }

    fn score(&self, machine: usize, known: &Known<'_>) -> Result<f64, String> {
        let status = status_for_lua(known);
        match self.ask(|decision| decision.score(Candidate::Machine(machine), &status)) {
            Score::Value(score) => Ok(score),
            Score::No(why) => Err(why),
        }
    }
}

/// What is known of a machine, in the words of the machine file.
fn status_for_lua(known: &Known<'_>) -> policy::Status {
    let Health { status, trouble, .. } = known.health;
    let measured = match (status, known.health.age(known.now)) {
        (Some(status), Some(age)) => policy::Status::measured(status, age),
        _ => policy::Status::default(),
    };
    let reachable = if trouble.is_some() { Some(false) } else { measured.reachable };
    policy::Status { running: u32::try_from(known.running).ok(), reachable, ..measured }
}
