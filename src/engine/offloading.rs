//! Running an accepted build, and recording it.

use std::collections::BTreeSet;

use super::announcer::Announcer;
use super::consideration::Consideration;
use super::head::Engine;
use crate::build::{Build, Chosen, FailOver, HistoryRecorder};
use crate::error::Failure;
use crate::events::Observer;
use crate::hook::{BuildLog, HookArguments};
use crate::scheduler::Rules;
use crate::state::QueueTicket;
use crate::state::history::Outcome;
use crate::store::path::StorePath;
use crate::transfer::{Destination, LeftForDaemon};

/// The start of an accepted build.
pub enum Accepted {
    /// A machine takes it.
    Chosen(Box<Chosen>),
    /// It waits in the queue for a machine.
    Waiting(QueueTicket),
}

/// A build that no daemon has asked for.
pub struct Task<'a> {
    /// The rules of the consideration, or stricter ones.
    pub rules: &'a dyn Rules,
    /// The closure of the inputs of the build, including the derivation.
    pub inputs: &'a BTreeSet<StorePath>,
    /// The outputs that the store lacks.
    pub outputs: &'a BTreeSet<StorePath>,
    pub destination: &'a dyn Destination,
}

impl Consideration<'_> {
    /// Runs an accepted build. It sends those of `inputs` (a closure) that the machine lacks, builds the derivation
    /// there, and puts `outputs` into the store, for the daemon to register.
    pub fn offload(
        &self,
        accepted: Accepted,
        inputs: &BTreeSet<StorePath>,
        outputs: &BTreeSet<StorePath>,
        log: &BuildLog,
        observer: &mut dyn Observer,
    ) -> Result<(), Failure> {
        let (first, ticket) = match accepted {
            Accepted::Chosen(choice) => (Some(*choice), None),
            Accepted::Waiting(ticket) => (None, Some(ticket)),
        };
        let task = Task { rules: &self.rules, inputs, outputs, destination: &LeftForDaemon };
        self.run(first, ticket, &task, log, observer)
    }

    /// Waits for a machine, and builds there.
    pub fn build(&self, task: &Task<'_>, log: &BuildLog, observer: &mut dyn Observer) -> Result<(), Failure> {
        self.run(None, None, task, log, observer)
    }

    fn run(
        &self,
        first: Option<Chosen>,
        ticket: Option<QueueTicket>,
        task: &Task<'_>,
        log: &BuildLog,
        observer: &mut dyn Observer,
    ) -> Result<(), Failure> {
        let &Task { rules, inputs, outputs, destination } = task;
        // The daemon does not wait any more.
        self.rules.begin();
        let arguments = HookArguments { keep_failed: self.keep_failed, ..self.engine.arguments.clone() };
        let failover = FailOver {
            request: self.request,
            arguments: &arguments,
            machines: &self.machines,
            rules,
            max_attempts: self.rules.max_attempts(),
            wait_for_slot: self.rules.wait_for_slot(),
            wait_for_machine: self.pool.settings.wait_for_machine,
        };
        let &Engine { ref directories, ref state, daemon, .. } = self.engine;
        let &Consideration { ignores_drains, persists_connections, .. } = self;
        let job = Build {
            failover,
            inputs,
            outputs,
            destination,
            directories,
            state,
            user: self.user(),
            expectations: self.expectations.clone(),
            ignores_drains,
            on_demand: &self.on_demand(),
            shared: self.shared.clone(),
            persists_connections,
            daemon,
        };
        let history = self.engine.history();
        let row = self.engine.row(self.request, Outcome::Built);
        let mut announcer = Announcer::new(observer, state, &row);
        let mut recorder = HistoryRecorder::new(&mut announcer, &history);
        let result = job.run(first, ticket, log, &mut recorder);
        let rows = recorder.rows(&row, &result);
        history.append(&rows);
        announcer.ended(rows.last());
        result
    }
}
