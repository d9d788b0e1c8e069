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
        let seconds = |limit: Option<std::time::Duration>| limit.map_or(0, |limit| limit.as_secs());
        let derivation = request.derivation.to_string();
        FileRules(RefCell::new(pool.decide(policy::Request {
            system: request.system.clone(),
            features: request.features.clone(),
            name: policy::Request::name_of(&derivation).to_owned(),
            derivation,
            wants_local: request.wants_local,
            max_silent_time: seconds(arguments.max_silent_time),
            build_timeout: seconds(arguments.build_timeout),
            reader,
        })))
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
    let status = known.health.status.clone().unwrap_or_default();
    let loads = [status.load1, status.load5, status.load15];
    let measured = known.health.measured;
    let is_measured = known.health.status.is_some();
    policy::Status {
        load: status.load(),
        loadavg: loads.iter().all(Option::is_some).then(|| loads.map(Option::unwrap_or_default)),
        cores: status.cores,
        pressure: status.pressure_cpu,
        free_memory: status.free_memory,
        free_disk: status.store_free,
        free_inodes: status.store_free_inodes,
        running: u32::try_from(known.running).ok(),
        clock_skew: status.clock.zip(measured).map(|(theirs, ours)| theirs as f64 - ours as f64 / 1000.0),
        age: known.health.age(known.now).map(|age| age.as_secs_f64()),
        reachable: match (&known.health.trouble, is_measured) {
            (Some(_), _) => Some(false),
            (None, true) => Some(true),
            (None, false) => None,
        },
    }
}
