//! The rules of a machine file: its functions and fields decide about one request.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use log::warn;

use super::ranking::SIMILAR_SCORE_RATIO;
use super::rules::{LearnedSource, RuleInput, Rules, Wants};
use super::soonest::head_estimate;
use crate::machine_file::{
    self, Acceptance, Candidate, Diagnostic, Fallback, FoundFacts, MachineFacts, Pool, Score, Severity,
};
use crate::state::Health;
use crate::status::MachineStatus;

/// Receives the errors of the functions of a machine file.
pub type WarningSink<'a> = Box<dyn Fn(Diagnostic) + 'a>;

/// Logs an error of a function.
pub fn log_warning(warning: Diagnostic) {
    // The log adds the word "warning" itself.
    warn!("{}", Diagnostic { severity: Severity::Warning, ..warning }.to_string().replacen(" warning: ", " ", 1));
}

/// The rules of a machine file, for one request. Errors in them are reported, and the built-in rules apply.
pub struct FileRules<'a> {
    pool: &'a Pool,
    report: WarningSink<'a>,
    decision: RefCell<machine_file::RequestCallbacks<'a>>,
}

impl<'a> FileRules<'a> {
    /// Begins a decision about `request`; all calls of the file's functions share the time of one decision.
    pub fn new(pool: &'a Pool, request: machine_file::LuaRequest) -> Self {
        FileRules { pool, report: Box::new(log_warning), decision: RefCell::new(pool.callbacks(request)) }
    }

    /// Reports errors to `report` instead of the log.
    pub fn reporting(self, report: WarningSink<'a>) -> Self {
        FileRules { report, ..self }
    }

    /// Returns the user of the request, if known.
    pub fn user(&self) -> Option<String> {
        self.decision.borrow().request().user.clone()
    }

    /// Changes the request that the functions receive.
    pub fn change_request(&self, change: impl FnOnce(&mut machine_file::LuaRequest)) {
        let mut request = self.decision.borrow().request().clone();
        change(&mut request);
        *self.decision.borrow_mut() = self.pool.callbacks(request);
    }

    /// Returns the limit of attempts at the build.
    pub fn max_attempts(&self) -> usize {
        self.ask(|decision| decision.max_attempts()) as usize
    }

    /// Returns how long the build may wait for a slot. `None`: as long as the daemon's limits allow.
    pub fn wait_for_slot(&self) -> Option<Duration> {
        self.ask(|decision| decision.wait_for_slot())
    }

    /// Runs a callback, and reports its warnings.
    fn ask<T>(&self, query: impl FnOnce(&mut machine_file::RequestCallbacks<'a>) -> T) -> T {
        let mut decision = self.decision.borrow_mut();
        let answer = query(&mut decision);
        let warnings = decision.take_warnings();
        drop(decision);
        warnings.into_iter().for_each(&self.report);
        answer
    }
}

impl Rules for FileRules<'_> {
    fn accepts(&self, machine: usize) -> Result<(), String> {
        match self.ask(|decision| decision.accepts(Candidate::Machine(machine))) {
            Acceptance::Yes => Ok(()),
            Acceptance::No(why) => Err(why),
        }
    }

    fn score(&self, machine: usize, known: &RuleInput<'_>) -> Result<f64, String> {
        if let (Some(estimate), true) = (&known.estimate, self.pool.uses_soonest(Candidate::Machine(machine))) {
            return Ok(-estimate.total());
        }
        let status = status_for_lua(known);
        match self.ask(|decision| decision.score(Candidate::Machine(machine), &status)) {
            Score::Value(score) => Ok(score),
            Score::No(why) => Err(why),
        }
    }

    /// Returns 1.0 for scores of the administrator's own, which are compared exactly.
    fn nearly_as_good(&self) -> f64 {
        let has_own = self.pool.settings.has_score || self.pool.machines.iter().any(|entry| entry.has_score);
        if has_own { 1.0 } else { SIMILAR_SCORE_RATIO }
    }

    fn wants(&self, machine: usize) -> Wants {
        let candidate = Candidate::Machine(machine);
        match (self.pool.uses_soonest(candidate), self.pool.has_score(candidate)) {
            (true, _) => Wants::Estimate,
            (false, true) => Wants::Facts,
            (false, false) => Wants::Nothing,
        }
    }

    fn head(&self, status: &MachineStatus, learned: &LearnedSource) -> Option<f64> {
        let head = self.pool.local.as_ref().filter(|head| head.enabled)?;
        let decision = self.decision.borrow();
        let lacks_feature = decision.request().features.iter().any(|feature| !head.features.contains(feature));
        drop(decision);
        let is_overloaded =
            status.load().zip(head.overload_threshold).is_some_and(|(load, threshold)| load > threshold);
        if lacks_feature || is_overloaded || self.ask(|decision| decision.accepts(Candidate::Local)) != Acceptance::Yes
        {
            return None;
        }
        let (speed, load, source) = (head.speed, status.load(), Arc::clone(learned));
        let soonest = move || head_estimate(&source(), speed, load);
        if self.pool.uses_soonest(Candidate::Local) {
            return Some(-soonest().total());
        }
        let health = Health::reached(status.clone(), 0);
        let found = move || FoundFacts { soonest: -soonest().total(), missing_inputs: Some(0), missing_bytes: Some(0) };
        let facts = Some(MachineFacts(Arc::new(found)));
        let status =
            status_for_lua(&RuleInput { health: &health, running: &[], now: 0, power: None, estimate: None, facts });
        match self.ask(|decision| decision.score(Candidate::Local, &status)) {
            Score::Value(score) => Some(score),
            Score::No(_) => None,
        }
    }

    /// Returns half of the time that the machine file lets a build wait, and at most a tenth of the time that the
    /// daemon allows for waiting and building together: the expectation may be wrong.
    fn max_expected_wait(&self) -> Option<Duration> {
        let daemon = Some(self.decision.borrow().request().build_timeout).filter(|&seconds| seconds > 0);
        let daemon = daemon.map(|seconds| Duration::from_secs(seconds) / 10);
        [self.wait_for_slot().map(|limit| limit / 2), daemon].into_iter().flatten().min()
    }

    fn when_busy(&self) -> Fallback {
        self.ask(|decision| decision.when_busy())
    }

    fn when_unreachable(&self) -> Fallback {
        self.ask(|decision| decision.when_unreachable())
    }

    fn begin(&self) {
        self.change_request(|_| {});
    }

    fn record_attempt(&self, machine: usize) {
        let name = self.pool.machines.get(machine).map(|entry| entry.machine.name.clone());
        self.change_request(|request| request.tried.extend(name));
    }
}

/// Returns the facts about a machine under the names of the machine file.
fn status_for_lua(known: &RuleInput<'_>) -> machine_file::LuaStatus {
    let Health { status, failures, .. } = known.health;
    let measured = match (status, known.health.age(known.now)) {
        (Some(status), Some(age)) => machine_file::LuaStatus::measured(status, age),
        _ => machine_file::LuaStatus::default(),
    };
    machine_file::LuaStatus {
        load: known.load(),
        running: u32::try_from(known.running.len()).ok(),
        power: known.power,
        reachable: if failures.is_some() { Some(false) } else { measured.reachable },
        facts: known.facts.clone(),
        ..measured
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hook::{HookArguments, Request};
    use crate::machine_file::{LoadContext, LuaRequest};
    use crate::state::RunningBuild;
    use crate::state::health::Time;
    use crate::store::path::{StoreDir, StorePath};

    const MACHINE: &str = "name = 'a', user = 'u', systems = { 'x86_64-linux' }, host_key = 'ssh-ed25519 \
                           AAAAC3NzaC1lZDI1NTE5AAAAIGiZC8RF5TdIuz3cZ2RZ6pH6/WJ7mzWKRX7KPrGwENOG'";

    fn running(since: &[Time]) -> Vec<RunningBuild> {
        since.iter().map(|&since| RunningBuild { since, expected: None }).collect()
    }

    fn nothing_learned() -> LearnedSource {
        Arc::new(Arc::default)
    }

    /// Does something with the rules of a machine file with two machines and `more`, for a build that requires features.
    fn with_rules<T>(
        more: &str,
        features: &[&str],
        build_timeout: Option<u64>,
        work: impl FnOnce(&FileRules<'_>) -> T,
    ) -> T {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("machines.lua");
        let machines = format!("build_machine {{ {MACHINE} }}, build_machine {{ {MACHINE}, port = 23, OWN }}");
        let (own, more) = more.split_once("POOL ").unwrap_or(("", more));
        std::fs::write(&file, format!("return {{ {}, {more} }}", machines.replace("OWN", own))).unwrap();
        let pool = machine_file::load(&file, &LoadContext::default()).unwrap_or_else(|report| panic!("{report}"));
        let derivation = b"/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-x.drv";
        let request = Request {
            wants_local: true,
            system: "x86_64-linux".to_owned(),
            derivation: StorePath::parse(&StoreDir::default(), derivation).unwrap(),
            features: features.iter().map(|&feature| feature.to_owned()).collect(),
        };
        let build_timeout = build_timeout.map(Duration::from_secs);
        let arguments = HookArguments { build_timeout, ..HookArguments::without_limits("x86_64-linux") };
        work(&FileRules::new(&pool, LuaRequest::new(&request, &arguments)))
    }

    #[test]
    fn the_shorter_of_two_waits_is_expected() {
        for (file, daemon, expected) in [
            ("", None, None),
            ("wait_for_slot = 60", None, Some(30)),
            ("", Some(100), Some(10)),
            ("wait_for_slot = 60", Some(100), Some(10)),
            ("wait_for_slot = 10", Some(100), Some(5)),
            ("wait_for_slot = 60", Some(600), Some(30)),
        ] {
            let most = with_rules(file, &[], daemon, |rules| rules.max_expected_wait());
            assert_eq!(most, expected.map(Duration::from_secs), "{file} {daemon:?}");
        }
    }

    #[test]
    fn a_score_from_the_machine_file_is_not_adjusted() {
        let function = "score = function() return 1 end";
        for (file, expected) in [
            (String::new(), SIMILAR_SCORE_RATIO),
            (function.to_owned(), 1.0),
            (format!("{function} POOL "), 1.0),
            (format!("{function} POOL {function}"), 1.0),
        ] {
            assert_eq!(with_rules(&file, &[], None, |rules| rules.nearly_as_good()), expected, "{file}");
        }
    }

    #[test]
    fn functions_get_what_is_known_of_the_machine() {
        let status = MachineStatus { load1: Some(1.0), cores: Some(4), ..MachineStatus::default() };
        let well = Health::reached(status, 100_000);
        let failed = well.clone().after_failure("down", 101_000);
        let score = |what: &str, health: &Health, since: &[Time]| {
            let running = running(since);
            let function = format!("score = function(request, machine, status) return {what} end");
            let known = RuleInput { health, running: &running, now: 110_000, power: None, estimate: None, facts: None };
            with_rules(&function, &[], None, |rules| rules.score(1, &known).unwrap())
        };
        assert_eq!(score("status.running", &well, &[100_000, 105_000]), 2.0);
        assert_eq!(score("status.load", &well, &[]), 0.25);
        // Builds that have just been started count.
        assert_eq!(score("status.load", &well, &[100_000, 105_000]), 0.75);
        assert_eq!(score("status.age", &well, &[]), 10.0);
        for (health, expected) in [(&well, 1.0), (&failed, 0.0), (&Health::default(), -1.0)] {
            let number = "status.reachable == nil and -1 or status.reachable and 1 or 0";
            assert_eq!(score(number, health, &[]), expected, "{health:?}");
        }
    }

    #[test]
    fn the_head_takes_part_unless_one_thing_speaks_against_it() {
        let status = |load| MachineStatus { load1: Some(load), cores: Some(1), ..MachineStatus::default() };
        for (fields, features, load, expected) in [
            ("score = function() return 5 end", &[][..], 0.0, Some(5.0)),
            ("speed = 3", &[], 0.5, Some(2.0)),
            ("features = { 'kvm', 'big' }", &["kvm", "big"], 0.0, Some(1.0)),
            ("features = { 'kvm' }", &["kvm", "big"], 0.0, None),
            ("features = { 'kvm' }", &["big", "kvm"], 0.0, None),
            ("overload_threshold = 0.5", &[], 0.5, Some(1.0 / 1.5)),
            ("overload_threshold = 0.5", &[], 0.6, None),
            ("overload_threshold = false", &[], 3.0, Some(0.25)),
            ("enabled = false", &[], 0.0, None),
            ("accepts = function() return false end", &[], 0.0, None),
            ("score = function() return false end", &[], 0.0, None),
        ] {
            let file = format!("local_machine {{ {fields} }}");
            let score = with_rules(&file, features, None, |rules| rules.head(&status(load), &nothing_learned()));
            assert_eq!(score, expected, "{fields} {features:?} {load}");
        }
        assert_eq!(with_rules("", &[], None, |rules| rules.head(&status(0.0), &nothing_learned())), None);
        let file = "local_machine {}, accepts = function(request, machine) return machine.name ~= 'localhost' end";
        assert_eq!(with_rules(file, &[], None, |rules| rules.head(&status(0.0), &nothing_learned())), None);
    }
}
