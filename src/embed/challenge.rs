//! A challenge: builds of one derivation on several machines, whose outputs are compared and enter no store.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::build_error::BuildError;
use super::builder::EngineState;
use super::built::Roots;
use super::challenged::{Challenged, CopySource, OutputCopy, compare};
use super::explanation::{Obstacle, Readiness};
use super::pool::{Pool, explain};
use super::preparation::Preparation;
use super::recorder::{Emitter, Recorder};
use crate::cancel::Cancel;
use crate::engine::Task;
use crate::events::Event;
use crate::hook::{BuildLog, Request};
use crate::local::{DatabaseError, LocalStore};
use crate::machine_file::Diagnostic;
use crate::scheduler::OnlyNamed;
use crate::store::path::StorePath;
use crate::transfer::KeptApart;

/// How many machines build by default.
const DEFAULT_MACHINES: usize = 2;

/// The program's function for events of a machine.
type OnEventOf<'a> = Box<dyn FnMut(&str, &Event<'_>) + Send + 'a>;

type LogFn<'a> = Box<dyn Fn(&str) -> Box<dyn Write + Send> + Send + Sync + 'a>;

/// Builds of one derivation on several machines, or several times on one, to see whether the outputs are the same.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = offload::Engine::builder().build()?.load("/etc/guix/machines.lua")?;
/// let drv = "/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-vec.drv";
/// let challenged = pool.challenge(drv).on("b1").on("b2").run()?;
/// println!("{}", challenged.is_reproducible());
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct Challenge<'a> {
    pool: &'a Pool,
    derivation: String,
    names: Vec<String>,
    rounds: Option<u32>,
    cancel: Cancel,
    log: LogFn<'a>,
    on_event: OnEventOf<'a>,
}

impl Pool {
    /// Returns the challenge of a derivation in the store. [`Challenge::run`] starts it.
    pub fn challenge(&self, derivation: impl AsRef<str>) -> Challenge<'_> {
        Challenge {
            pool: self,
            derivation: derivation.as_ref().to_owned(),
            names: Vec::new(),
            rounds: None,
            cancel: Cancel::default(),
            log: Box::new(|_| Box::new(io::sink())),
            on_event: Box::new(|_, _| {}),
        }
    }
}

impl<'a> Challenge<'a> {
    /// Builds on the machine of this name, and on those of other calls. Default: on the two best machines that match, or
    /// on the only one. If one of these cannot build, the next best one does.
    pub fn on(mut self, machine: impl Into<String>) -> Self {
        self.names.push(machine.into());
        self
    }

    /// Sets how often each machine builds. Default: once. If there would be only one copy, the machine builds twice.
    pub fn rounds(mut self, rounds: u32) -> Self {
        self.rounds = Some(rounds);
        self
    }

    /// Ends all builds when this switch is turned.
    pub fn cancel(mut self, cancel: &Cancel) -> Self {
        self.cancel = cancel.clone();
        self
    }

    /// Writes the output of the builders on each machine to what `log` returns for its name. Default: it is dropped.
    pub fn log(mut self, log: impl Fn(&str) -> Box<dyn Write + Send> + Send + Sync + 'a) -> Self {
        self.log = Box::new(log);
        self
    }

    /// Calls a function for each event, on a thread of one of the builds, with the name of its machine. The name is empty
    /// before the builds. Default: none.
    pub fn on_event(mut self, on_event: impl FnMut(&str, &Event<'_>) + Send + 'a) -> Self {
        self.on_event = Box::new(on_event);
        self
    }

    /// Builds, and compares the outputs, with those in the store of this machine if they are valid there.
    ///
    /// A machine that has the outputs deletes them first, and fails if something there needs them. The builds of different
    /// machines run at the same time. If one of them fails, the others end, and the challenge fails.
    pub fn run(self) -> Result<Challenged, BuildError> {
        let cancel = self.cancel.clone();
        let result = cancel.scope(|| self.run_in_scope());
        match result {
            Err(_) if cancel.is_cancelled() => Err(BuildError::Cancelled),
            result => result,
        }
    }

    fn run_in_scope(self) -> Result<Challenged, BuildError> {
        let Challenge { pool, derivation, names, rounds, cancel, log, on_event } = self;
        let engine = &pool.engine().0.engine;
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| BuildError::this_machine(&derivation, error);
        pool.check_names(&names, &derivation)?;
        let preparation = Preparation::new(&engine.directories, &engine.state, &derivation)?;
        preparation.protect()?;
        let request = preparation.request();
        let (names, spares) = match names.is_empty() {
            true => {
                let mut best = best(pool, &request)?;
                let spares = best.split_off(best.len().min(DEFAULT_MACHINES));
                (best, spares)
            }
            false => (pool.without_repetitions(names), Vec::new()),
        };
        let on_event = Mutex::new(on_event);
        let emit = |machine: &str, event: &Event<'_>| {
            on_event.lock().unwrap_or_else(PoisonError::into_inner)(machine, event);
        };
        let preparing = Emitter::new(Box::new(|event: &Event<'_>| emit("", event)));
        let sink = BuildLog::of_writer(log("")).sink().map_err(|error| failed(error.into()))?;
        let inputs = preparation.inputs(sink, &mut Recorder::new(&preparing))?;
        let outputs = preparation.derivation.output_paths().cloned().collect();

        let own = own_copy(&preparation, &LocalStore::open(&engine.directories).map_err(|error| failed(error.into()))?)
            .map_err(|error| failed(error.into()))?;
        let is_single = names.len() + usize::from(own.is_some()) < 2;
        let rounds = rounds.unwrap_or(1).max(if is_single { 2 } else { 1 });
        let spares = Mutex::new(spares.into());
        let (inputs, outputs) = (&inputs, &outputs);
        let one = OneMachine { pool, request: &request, inputs, outputs, spares: &spares, log: &log, emit: &emit };
        // One failure ends all builds.
        let all = cancel.child();
        let build = |name| all.scope(|| one.build_or_replace(name, rounds).inspect_err(|_| all.cancel()));
        let copies: Vec<Result<_, _>> = thread::scope(|scope| {
            let build = &build;
            let builds: Vec<_> = names.into_iter().map(|name| scope.spawn(move || build(name))).collect();
            builds.into_iter().map(|build| build.join().unwrap_or_else(|_| Err(BuildError::Cancelled))).collect()
        });
        let copies: Vec<OutputCopy> = own.into_iter().chain(all_of(copies)?).collect();
        let outputs = preparation.derivation.outputs.iter().map(|(id, output)| (id.clone(), output.path.clone()));
        let outputs = outputs.map(|(id, path)| Ok((id, compare(path, &copies, &engine.directories, &cancel)?)));
        let outputs = outputs.collect::<io::Result<_>>().map_err(|error| failed(error.into()))?;
        let Preparation { path, daemon, .. } = preparation;
        let roots = Roots(Arc::new(Mutex::new(daemon.into_inner())));
        Ok(Challenged { derivation: path, outputs, copies, _roots: roots })
    }
}

impl std::fmt::Debug for Challenge<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Challenge")
            .field("derivation", &self.derivation)
            .field("on", &self.names)
            .finish_non_exhaustive()
    }
}

/// Returns all copies, or the error that has ended the builds.
fn all_of(results: Vec<Result<Vec<OutputCopy>, BuildError>>) -> Result<Vec<OutputCopy>, BuildError> {
    let (mut copies, mut errors) = (Vec::new(), Vec::new());
    for result in results {
        result.map_or_else(|error| errors.push(error), |more| copies.extend(more));
    }
    // The others were cancelled for it.
    errors.sort_by_key(|error| matches!(error, BuildError::Cancelled));
    errors.into_iter().next().map_or(Ok(copies), Err)
}

/// Returns the names of the machines that match, the best one first.
fn best(pool: &Pool, request: &Request) -> Result<Vec<String>, BuildError> {
    let explanation = explain(pool, request, &[], false);
    let (mut names, mut obstacles): (Vec<String>, Vec<String>) = Default::default();
    for machine in explanation.machines {
        let can_build = match &machine.readiness {
            Readiness::Ready | Readiness::NotChecked => true,
            Readiness::Not(Obstacle::Busy(_) | Obstacle::Overloaded { .. }) => true,
            Readiness::Not(obstacle) => {
                obstacles.push(format!("{}: {obstacle}", machine.name));
                false
            }
        };
        if can_build && !names.contains(&machine.name) {
            names.push(machine.name);
        }
    }
    match names.is_empty() {
        true => {
            let reason = format!("no machine can build it now ({})", obstacles.join("; "));
            let derivation = request.derivation.to_string();
            Err(BuildError::NoMachine { derivation, reason, attempts: Vec::new(), hint: None })
        }
        false => Ok(names),
    }
}

/// Returns the outputs in the store of this machine, if all of them are valid.
fn own_copy(preparation: &Preparation<'_>, store: &LocalStore<'_>) -> Result<Option<OutputCopy>, DatabaseError> {
    let mut hashes = BTreeMap::new();
    for output in preparation.derivation.output_paths() {
        let Some(item) = store.database.item(output)? else { return Ok(None) };
        hashes.insert(output.clone(), item.nar_hash);
    }
    Ok(Some(OutputCopy::new(CopySource::ThisMachine, hashes, None)))
}

/// The input of all builds of a challenge.
struct OneMachine<'a> {
    pool: &'a Pool,
    request: &'a Request,
    inputs: &'a BTreeSet<StorePath>,
    outputs: &'a BTreeSet<StorePath>,
    /// The machines that replace others which cannot build, the best one first.
    spares: &'a Mutex<VecDeque<String>>,
    log: &'a LogFn<'a>,
    emit: &'a (dyn Fn(&str, &Event<'_>) + Sync),
}

impl OneMachine<'_> {
    /// Builds so many times on this machine, or on one that replaces it.
    fn build_or_replace(&self, mut name: String, rounds: u32) -> Result<Vec<OutputCopy>, BuildError> {
        loop {
            let result = self.build(&name, rounds);
            let Err(BuildError::NoMachine { .. }) = result else { return result };
            match self.spares.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
                Some(spare) => name = spare,
                None => return result,
            }
        }
    }

    /// Builds so many times on one machine.
    fn build(&self, name: &str, rounds: u32) -> Result<Vec<OutputCopy>, BuildError> {
        (1..=rounds).map(|round| self.build_once(name, round)).collect()
    }

    fn build_once(&self, name: &str, round: u32) -> Result<OutputCopy, BuildError> {
        let EngineState { engine, .. } = &*self.pool.engine().0;
        let derivation = self.request.derivation.as_str();
        let emit = |event: &Event<'_>| (self.emit)(name, event);
        let report = |warning: Diagnostic| {
            let Diagnostic { file, line, message, .. } = &warning;
            emit(&Event::Warning { file, line: *line, message });
        };
        let mut consideration = engine.consider_reporting(self.pool.file(), self.request, Box::new(report));
        // A stream that has served a build before keeps its outputs from being deleted.
        consideration.persists_connections = false;
        consideration.starter = Some(self.pool.starter());
        let names = [name.to_owned()];
        let rules = OnlyNamed { rules: &consideration.rules, machines: &consideration.machines, names: &names };
        let kept =
            KeptApart::new(&engine.directories.store).map_err(|error| BuildError::this_machine(derivation, error))?;
        let task = Task { rules: &rules, inputs: self.inputs, outputs: self.outputs, destination: &kept };
        let log = BuildLog::of_writer((self.log)(name));
        let emitter = Emitter::new(Box::new(&emit));
        let mut recorder = Recorder::new(&emitter);
        let result = consideration.build(&task, &log, &mut recorder);
        let attempts = recorder.end().attempts;
        let machine = attempts.last().map_or_else(|| name.to_owned(), |attempt| attempt.machine.clone());
        result.map_err(|failure| BuildError::of_failure(derivation, failure, attempts))?;
        let source = CopySource::Machine { name: machine, round };
        Ok(OutputCopy::new(source, kept.hashes(), Some(kept)))
    }
}
