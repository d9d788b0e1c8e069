//! A request considered: the reply to it, its explanation, and what that is decided by.

use std::sync::Arc;
use std::time::Duration;

use super::head::Engine;
use crate::build::{Expectations, LiveEnvironment, OnDemand, Starter, end_outdated};
use crate::error::with_causes;
use crate::hook::Request;
use crate::local::read_derivation;
use crate::machine::Machine;
use crate::machine_file::{
    Candidate, DerivationReader, FoundRequestFacts, LuaRequest, Pool, QueueCounter, RequestFacts,
};
use crate::scheduler::decision::{self, FULL_QUEUE_HOLD};
use crate::scheduler::file_rules::log_warning;
use crate::scheduler::matching::builds_locally;
use crate::scheduler::soonest::head_estimate;
use crate::scheduler::{
    self, Decision, Environment, Estimate, Explanation, FileRules, Query, Reason, Rejection, Rules, WarningSink,
};
use crate::shared::SharedSlots;
use crate::state::Queue;

impl Engine {
    /// Considers a request. All functions of the machine file share the time limit of one decision, and their errors are
    /// logged.
    pub fn consider<'a>(&'a self, pool: &'a Pool, request: &'a Request) -> Consideration<'a> {
        self.consider_reporting(pool, request, Box::new(log_warning))
    }

    /// Returns the slots of a pool that other heads share. There is no connection yet.
    fn shared_slots(&self, pool: &Pool) -> Option<SharedSlots> {
        let shared = pool.settings.shared.as_ref()?;
        SharedSlots::new(&self.state, shared)
            .inspect_err(|error| log::warn!("builds do not count in the shared pool '{}': {error}", shared.name))
            .ok()
    }

    /// Considers a request, and reports the errors of the machine file's functions to `report`.
    pub fn consider_reporting<'a>(
        &'a self,
        pool: &'a Pool,
        request: &'a Request,
        report: WarningSink<'a>,
    ) -> Consideration<'a> {
        let (store, path) = (self.directories.store.clone(), request.derivation.clone());
        let read = move || read_derivation(&store, &path).map_err(|error| with_causes(&error));
        let state = self.state.clone();
        let waiting = move || Queue::length(&state).unwrap_or(0);
        let expectations = Expectations::new(&self.state, &self.directories, request, &pool.speeds);
        let known = expectations.clone();
        let request_for_rules = LuaRequest {
            user: self.client_name(),
            queue: Some(QueueCounter(Arc::new(waiting))),
            reader: Some(DerivationReader(Arc::new(read))),
            facts: Some(RequestFacts(Arc::new(move || request_facts(&known)))),
            ..LuaRequest::new(request, &self.arguments)
        };
        let rules = FileRules::new(pool, request_for_rules).reporting(report);
        let machines = pool.machines.iter().map(|entry| &entry.machine).collect();
        Consideration {
            engine: self,
            pool,
            request,
            machines,
            rules,
            expectations,
            ignores_drains: false,
            keep_failed: false,
            persists_connections: self.persists_connections,
            starter: None,
            shared: self.shared_slots(pool),
        }
    }
}

fn request_facts(expectations: &Expectations) -> FoundRequestFacts {
    let learned = expectations.learned();
    FoundRequestFacts {
        input_bytes: expectations.input_bytes(),
        expected_seconds: learned.seconds(),
        expected_output_bytes: learned.output_bytes().map(|bytes| bytes as u64),
    }
}

/// One request and the pool that may serve it.
pub struct Consideration<'a> {
    pub(super) engine: &'a Engine,
    pub(super) pool: &'a Pool,
    pub(super) request: &'a Request,
    /// In the order of the machine file. Other functions name a machine by its index in this list.
    pub machines: Vec<&'a Machine>,
    /// The functions of the machine file.
    pub rules: FileRules<'a>,
    /// What is expected of the build.
    pub expectations: Expectations,
    /// Whether drained machines may take it. Default: false.
    pub ignores_drains: bool,
    /// Whether the machine keeps the directory of a failed build. Default: false.
    pub keep_failed: bool,
    /// Whether SSH sessions are shared with other builds. Default: as the engine.
    pub persists_connections: bool,
    /// Starts machines on demand. Default: `None`, they are not started.
    pub starter: Option<Starter>,
    /// The slots of the pool, if other heads share it.
    pub(super) shared: Option<SharedSlots>,
}

impl Consideration<'_> {
    /// Decides the reply to the request. If a machine is chosen, the decision holds one of its slots.
    pub fn decide(&self) -> Decision<LiveEnvironment> {
        self.decide_within(FULL_QUEUE_HOLD)
    }

    /// Decides like [`decide`](Self::decide), but waits up to `hold` before it postpones a request because the queue is
    /// full.
    pub fn decide_within(&self, hold: Duration) -> Decision<LiveEnvironment> {
        let decide = || scheduler::decide(&self.query(&self.rules), self.may_build_locally(), hold, &self.env());
        let Some(shared) = self.shared.as_ref().filter(|_| self.may_build_locally()) else { return decide() };
        let local = |reason: String| Decision::Decline(self.all_rejected(&reason));
        if let Some(reason) = shared.prefers_local() {
            return local(reason);
        }
        // The decision may be the one that finds the database down.
        let decision = decide();
        shared.prefers_local().map_or(decision, local)
    }

    /// Returns a rejection of each machine, because the pool that heads share has no database.
    fn all_rejected(&self, reason: &str) -> Vec<Rejection> {
        let rejected = |machine| Rejection { machine, reason: Reason::SlotsUnknown(reason.to_owned()) };
        (0..self.machines.len()).map(rejected).collect()
    }

    /// Returns every machine with its score, or the reason why it is rejected.
    pub fn explain(&self) -> Vec<Explanation> {
        self.explain_by(&self.rules)
    }

    /// Explains as [`explain`](Self::explain) does, by stricter rules.
    pub fn explain_by(&self, rules: &dyn Rules) -> Vec<Explanation> {
        scheduler::explain(&self.query(rules), &self.env())
    }

    /// Ends the persistent connections that must not be used any more: the machine file has no such machine now, or the
    /// machine's entry or its keys have changed.
    pub fn end_outdated_connections(&self) {
        end_outdated(&self.engine.state, &self.engine.directories, &self.machines);
    }

    /// Returns the reply's word that [`decide`](Self::decide) would give, and the index of the machine that it would
    /// choose.
    pub fn predict(&self) -> (&'static str, Option<usize>) {
        self.predict_by(&self.rules)
    }

    /// Predicts as [`predict`](Self::predict) does, by stricter rules.
    pub fn predict_by(&self, rules: &dyn Rules) -> (&'static str, Option<usize>) {
        scheduler::predict(&self.query(rules), self.may_build_locally(), &self.env())
    }

    /// Returns the score of the head itself, if it takes part and can build this.
    pub fn head_score(&self) -> Option<f64> {
        if self.may_build_locally() { decision::head_score(&self.rules, &self.env()) } else { None }
    }

    /// Returns when the head itself would have the outputs, if that is its score.
    pub fn head_estimate(&self) -> Option<Estimate> {
        let head = self.pool.local.as_ref().filter(|_| self.pool.uses_soonest(Candidate::Local))?;
        Some(head_estimate(&self.expectations.learned(), head.speed, self.env().own_status().load()))
    }

    /// Returns what is expected of the build, as functions of the machine file can read it.
    pub fn facts(&self) -> FoundRequestFacts {
        request_facts(&self.expectations)
    }

    /// Returns the user whose command requests the build, if known.
    pub fn user(&self) -> Option<String> {
        self.rules.user()
    }

    /// Returns the environment of this request.
    pub fn env(&self) -> LiveEnvironment {
        let sessions = self.persists_connections.then(|| self.engine.sessions());
        let on_demand = self.on_demand();
        let state = &self.engine.state;
        let (user, shared) = (self.user(), self.shared.clone());
        LiveEnvironment::new(state, &self.expectations, user, sessions, self.ignores_drains, on_demand, shared)
    }

    pub(super) fn on_demand(&self) -> OnDemand {
        let machines = self.machines.iter().filter(|machine| machine.on_demand.is_some());
        OnDemand {
            machines: machines.map(|machine| (*machine).clone()).collect(),
            limits: self.pool.settings.on_demand.clone(),
            start: self.starter.clone(),
        }
    }

    /// Returns the input of the decision about this request.
    pub fn query<'b>(&'b self, rules: &'b dyn Rules) -> Query<'b> {
        Query { request: self.request, machines: &self.machines, rules, excluded: &[], head: None }
    }

    /// Returns whether the daemon would build it at once and the head's system allows that.
    pub fn may_build_locally(&self) -> bool {
        let own = self.pool.local.as_ref().and_then(|head| head.systems.as_ref());
        let can_build = builds_locally(&self.engine.arguments.system, &self.request.system)
            || own.is_some_and(|systems| systems.contains(&self.request.system));
        self.request.wants_local && can_build
    }
}
