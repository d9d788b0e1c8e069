//! A build: its settings, and its course.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use super::build_error::BuildError;
use super::builder::EngineState;
use super::built::{Built, BuiltOn, Roots};
use super::plan::Plan;
use super::pool::{Pool, explain};
use super::preparation::Preparation;
use super::recorder::{Emitter, OnEvent, Recorder, Sums};
use crate::cancel::Cancel;
use crate::engine::Task;
use crate::events::Event;
use crate::events::attempts::Phase;
use crate::hook::BuildLog;
use crate::local::TemporaryStore;
use crate::machine_file::Diagnostic;
use crate::scheduler::{OnlyNamed, Rules};
use crate::store::derivation::Derivation;
use crate::store::path::StorePath;
use crate::transfer::ThroughDaemon;

/// The build of a derivation, before it is started.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = offload::Engine::builder().build()?.load("/etc/guix/machines.lua")?;
/// let built = pool.build("/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-vec.drv").on("b1").run()?;
/// println!("{}", built.outputs["out"]);
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct Build<'a> {
    pool: &'a Pool,
    derivation: String,
    cancel: Cancel,
    log: BuildLog,
    on_event: OnEvent<'a>,
    /// The machines that may build it; none: all.
    names: Vec<String>,
    keep_failed: bool,
    ignores_drains: bool,
}

impl Pool {
    /// Returns the build of a derivation in the store, the file name of which ends in `.drv`. [`Build::run`] starts it.
    pub fn build(&self, derivation: impl AsRef<str>) -> Build<'_> {
        Build::new(self, derivation.as_ref().to_owned())
    }
}

impl<'a> Build<'a> {
    fn new(pool: &'a Pool, derivation: String) -> Build<'a> {
        Build {
            pool,
            derivation,
            cancel: Cancel::default(),
            log: BuildLog::of_writer(io::sink()),
            on_event: Box::new(|_| {}),
            names: Vec::new(),
            keep_failed: false,
            ignores_drains: false,
        }
    }

    /// Builds only on the machine of this name, or, after several calls, on one of these. The name may have the port after
    /// it, as in `b1:22`. Default: on any machine.
    pub fn on(mut self, machine: impl Into<String>) -> Self {
        self.names.push(machine.into());
        self
    }

    /// Ends the build when this switch is turned, wherever it waits: within half a second, with the build on the machine
    /// ended, all locks free and nothing left in the store.
    pub fn cancel(mut self, cancel: &Cancel) -> Self {
        self.cancel = cancel.clone();
        self
    }

    /// Sets whether the machine keeps the build directory if the build fails. [`BuildError::Failed`] has its name. Default:
    /// false.
    pub fn keep_failed(mut self, keep: bool) -> Self {
        self.keep_failed = keep;
        self
    }

    /// Sets whether drained machines take the build as others do. Default: false.
    pub fn ignore_drains(mut self, ignore: bool) -> Self {
        self.ignores_drains = ignore;
        self
    }

    /// Writes the output of the builders to `log`. Errors of the writer are ignored. Default: it is dropped.
    pub fn log(mut self, log: impl Write + Send + 'static) -> Self {
        self.log = BuildLog::of_writer(log);
        self
    }

    /// Calls a function for each event, on the thread that runs the build. Default: none.
    pub fn on_event(mut self, on_event: impl FnMut(&Event<'_>) + 'a) -> Self {
        self.on_event = Box::new(on_event);
        self
    }

    /// Returns what [`run`](Build::run) would do now. It builds nothing and contacts no machine.
    pub fn plan(&self) -> Result<Plan, BuildError> {
        let engine = &self.pool.engine().0.engine;
        self.pool.check_names(&self.names, &self.derivation)?;
        let preparation = Preparation::new(&engine.directories, &engine.state, &self.derivation)?;
        preparation.protect()?;
        let (missing_outputs, missing_inputs) = (preparation.missing_outputs()?, preparation.missing_inputs()?);
        let request = preparation.request();
        let explanation = explain(self.pool, &request, &self.names, self.ignores_drains);
        let Preparation { path, derivation, .. } = preparation;
        Ok(Plan { derivation: path, outputs: outputs(derivation), missing_outputs, missing_inputs, explanation })
    }

    /// Builds, and returns when the outputs are valid in the store of this machine.
    ///
    /// Nothing is built if they are valid already, or if another program makes them valid meanwhile. If a machine fails,
    /// another one continues the build.
    pub fn run(self) -> Result<Built, BuildError> {
        let cancel = self.cancel.clone();
        let result = cancel.scope(|| self.run_in_scope());
        match result {
            Err(_) if cancel.is_cancelled() => Err(BuildError::Cancelled),
            result => result,
        }
    }

    fn run_in_scope(self) -> Result<Built, BuildError> {
        self.pool.check_names(&self.names, &self.derivation)?;
        let Build { pool, derivation, log, on_event, names, keep_failed, ignores_drains, .. } = self;
        let EngineState { engine, imports, .. } = &*pool.engine().0;
        let emitter = Emitter::new(on_event);
        let mut recorder = Recorder::new(&emitter);
        let preparation = Preparation::new(&engine.directories, &engine.state, &derivation)?;
        preparation.protect()?;
        if !preparation.missing_outputs()?.is_empty() {
            let sink = log.sink().map_err(|error| BuildError::this_machine(&derivation, error))?;
            let inputs = preparation.inputs(sink, &mut recorder)?;
            if let Some((locks, outputs)) = preparation.lock(&mut recorder)? {
                let request = preparation.request();
                let staging = TemporaryStore::if_read_only(&engine.directories.store)
                    .map_err(|error| BuildError::this_machine(&derivation, error))?;
                let report = once(|warning: &Diagnostic| {
                    let Diagnostic { file, line, message, .. } = warning;
                    emitter.emit(&Event::Warning { file, line: *line, message });
                });
                let mut consideration = engine.consider_reporting(pool.file(), &request, Box::new(report));
                (consideration.keep_failed, consideration.ignores_drains) = (keep_failed, ignores_drains);
                consideration.starter = Some(pool.starter());
                let only = OnlyNamed { rules: &consideration.rules, machines: &consideration.machines, names: &names };
                let rules: &dyn Rules = if names.is_empty() { &consideration.rules } else { &only };
                let destination = ThroughDaemon {
                    state: &engine.state,
                    directories: &engine.directories,
                    derivation: &preparation.path,
                    daemon: &preparation.daemon,
                    imports,
                    locks: locks.into(),
                    staging,
                };
                let task = Task { rules, inputs: &inputs, outputs: &outputs, destination: &destination };
                if let Err(failure) = consideration.build(&task, &log, &mut recorder) {
                    return Err(BuildError::of_failure(&derivation, failure, recorder.end().attempts));
                }
            }
        }
        Ok(built(preparation, recorder.end()))
    }
}

impl std::fmt::Debug for Build<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Build").field("derivation", &self.derivation).field("on", &self.names).finish_non_exhaustive()
    }
}

/// Returns a function that reports each warning once.
fn once(report: impl Fn(&Diagnostic)) -> impl Fn(Diagnostic) {
    let reported = Mutex::new(Vec::new());
    move |warning| {
        let mut reported = reported.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !reported.contains(&warning) {
            report(&warning);
            reported.push(warning);
        }
    }
}

/// Returns the outputs by their ids.
fn outputs(derivation: Derivation) -> BTreeMap<String, StorePath> {
    derivation.outputs.into_iter().map(|(id, output)| (id, output.path)).collect()
}

fn built(preparation: Preparation<'_>, sums: Sums) -> Built {
    let Preparation { path, derivation, daemon, .. } = preparation;
    let Sums { attempts, sent, substituted, fetched, times } = sums;
    let last = attempts.last().filter(|attempt| attempt.failure.is_none());
    let time = |phase: Phase| times[phase as usize];
    Built {
        derivation: path,
        outputs: outputs(derivation),
        machine: last.map_or(BuiltOn::AlreadyValid, |attempt| BuiltOn::Machine(attempt.machine.clone())),
        sent,
        substituted,
        fetched,
        waiting: time(Phase::Waiting),
        sending: time(Phase::Sending),
        building: time(Phase::Building),
        fetching: time(Phase::Retrieving),
        registering: time(Phase::Placing),
        attempts,
        roots: Roots(Arc::new(Mutex::new(daemon.into_inner()))),
    }
}
