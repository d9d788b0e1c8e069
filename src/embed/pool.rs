//! A pool of build machines.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::build_error::BuildError;
use super::builder::{Engine, EngineState};
use super::explanation::{Explanation, MachineExplanation, Verdict};
use super::load_error::LoadError;
use super::query::Query;
use crate::build::Starter;
use crate::hook::Request;
use crate::local::read_derivation;
use crate::machine_file::{self, Diagnostic, Extend, LoadContext};
use crate::power::{self, Head, PowerError};
use crate::scheduler::{OnlyNamed, Readiness, Rules};
use crate::store::path::{HASH_PART_LENGTH, StorePath};

/// The build machines of a machine file.
///
/// It is what the file said when it was loaded: a program that wants changes to take effect loads the file again. A pool
/// can be shared by threads; clones are the same pool.
#[derive(Clone, Debug)]
pub struct Pool(Arc<PoolState>);

#[derive(Debug)]
struct PoolState {
    engine: Engine,
    file: machine_file::Pool,
}

impl Engine {
    /// Evaluates a machine file.
    ///
    /// A file that does not exist is an error; one without machines gives an empty pool.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<Pool, LoadError> {
        let path = path.as_ref();
        if matches!(path.try_exists(), Ok(false)) {
            return Err(LoadError::Missing { path: path.to_owned() });
        }
        let EngineState { engine, functions, .. } = &*self.0;
        let functions = functions.clone();
        let extend: Extend = Arc::new(move |lua| functions.iter().try_for_each(|function| function(lua)));
        let context = LoadContext { extend: Some(extend), logs_prints: true, ..engine.load_context() };
        let mut pool = engine.load_pool_with(path, &context).map_err(|report| LoadError::Invalid { report })?;
        pool.repeats_warnings = true;
        Ok(Pool::new(self.clone(), pool))
    }
}

impl Pool {
    pub(super) fn new(engine: Engine, file: machine_file::Pool) -> Pool {
        Pool(Arc::new(PoolState { engine, file }))
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(super) fn file(&self) -> &machine_file::Pool {
        &self.0.file
    }

    /// Returns a starter of machines on demand, by threads of this process. If the process ends during a start, the next
    /// start or `offload reap` stops the machine first.
    pub(super) fn starter(&self) -> Starter {
        let pool = self.clone();
        power::limited(move |machine| {
            let (pool, address) = (pool.clone(), machine.address());
            let start = move || {
                let file = pool.file();
                let Engine(state) = pool.engine();
                let index = file.machines.iter().position(|entry| entry.machine.address() == address);
                let head = Head { pool: file, state: &state.engine.state, store: &state.engine.directories.store };
                match index.map(|index| power::start(head, index)) {
                    Some(Err(error)) if !matches!(error, PowerError::Changing) => log::warn!("{address}: {error}"),
                    _ => {}
                }
            };
            if let Err(error) = thread::Builder::new().name("start".to_owned()).spawn(start) {
                log::warn!("no thread to start a machine: {error}");
            }
        })
    }

    /// Returns the names of the machines, in the order of the machine file.
    pub fn machines(&self) -> impl Iterator<Item = &str> {
        self.0.file.machines.iter().map(|entry| entry.machine.name.as_str())
    }

    /// Returns an error if a machine is named that the pool does not have.
    pub(super) fn check_names(&self, names: &[String], derivation: &str) -> Result<(), BuildError> {
        let is_unknown = |name: &&String| !self.0.file.machines.iter().any(|entry| entry.machine.is_called(name));
        match names.iter().find(is_unknown) {
            Some(unknown) => {
                let (reason, hint) = (format!("the machine file has no machine '{unknown}'"), None);
                Err(BuildError::NoMachine { derivation: derivation.to_owned(), reason, attempts: Vec::new(), hint })
            }
            None => Ok(()),
        }
    }

    /// Returns those of `names` that do not name the same machine as one before.
    pub(super) fn without_repetitions(&self, names: Vec<String>) -> Vec<String> {
        let mut machines = BTreeSet::new();
        let named = |name: &str| self.0.file.machines.iter().position(|entry| entry.machine.is_called(name));
        names.into_iter().filter(|name| machines.insert(named(name))).collect()
    }

    /// Returns how many builds these machines take at the same time, all of them together; all machines, if none is named.
    pub fn slots(&self, names: &[impl AsRef<str>]) -> usize {
        let mut slots = BTreeMap::new();
        for machine in self.0.file.machines.iter().map(|entry| &entry.machine).filter(|machine| machine.enabled) {
            if names.is_empty() || names.iter().any(|name| machine.is_called(name.as_ref())) {
                // Entries with the same name and port share their slots.
                slots.insert(machine.address(), machine.parallel_builds as usize);
            }
        }
        slots.values().sum()
    }

    /// Returns the warnings about the machine file.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.0.file.warnings
    }

    /// Explains which machine would build something, and why the others would not. It contacts no machine.
    pub fn explain(&self, query: &Query) -> Explanation {
        let store = &self.0.engine.0.engine.directories.store;
        let named = query.derivation.as_deref().and_then(|path| StorePath::parse(store, path.as_bytes()).ok());
        // A placeholder of valid form: functions may look at its name.
        let placeholder = || {
            let path = format!("{store}/{}-none.drv", "0".repeat(HASH_PART_LENGTH));
            StorePath::parse(store, path.as_bytes()).ok()
        };
        let Some(derivation) = named.or_else(placeholder) else {
            return Explanation { verdict: Verdict::NoMatch, machines: Vec::new(), warnings: Vec::new() };
        };
        let (system, features) = (query.system.clone(), query.features.clone());
        explain(self, &Request { wants_local: false, system, derivation, features }, &[], false)
    }

    /// Returns the query for a derivation in the store: its system type and the features that it requires.
    pub fn query(&self, derivation: impl AsRef<str>) -> Result<Query, BuildError> {
        let derivation = derivation.as_ref();
        let store = &self.0.engine.0.engine.directories.store;
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| BuildError::derivation(derivation, error);
        let path = StorePath::parse(store, derivation.as_bytes()).map_err(|error| failed(error.into()))?;
        let read = read_derivation(store, &path).map_err(|error| failed(error.into()))?;
        let features = read.required_features();
        Ok(Query { system: read.system, features, derivation: Some(derivation.to_owned()) })
    }
}

/// Explains which of the machines with these names would build something; without names, which of all machines.
pub(super) fn explain(pool: &Pool, request: &Request, names: &[String], ignores_drains: bool) -> Explanation {
    let engine = &pool.engine().0.engine;
    let warnings = RefCell::new(Vec::new());
    let report = |warning| {
        if !warnings.borrow().contains(&warning) {
            warnings.borrow_mut().push(warning);
        }
    };
    let mut consideration = engine.consider_reporting(pool.file(), request, Box::new(report));
    consideration.ignores_drains = ignores_drains;
    let only = OnlyNamed { rules: &consideration.rules, machines: &consideration.machines, names };
    let rules: &dyn Rules = if names.is_empty() { &consideration.rules } else { &only };
    let explained = consideration.explain_by(rules);
    let may_wait = explained.iter().any(|one| match &one.verdict {
        Readiness::Not(reason) => reason.is_for_now(),
        _ => true,
    });
    let verdict = match consideration.predict_by(rules) {
        (_, Some(index)) => Verdict::Machine(consideration.machines[index].name.clone()),
        (_, None) if may_wait => Verdict::Waits,
        (_, None) => Verdict::NoMatch,
    };
    let machines = explained.into_iter().map(|one| MachineExplanation {
        name: consideration.machines[one.machine].name.clone(),
        port: consideration.machines[one.machine].port,
        score: one.score,
        readiness: one.verdict.into(),
        soonest: one.estimate.map(|estimate| Duration::try_from_secs_f64(estimate.total()).unwrap_or(Duration::MAX)),
    });
    let machines = machines.collect();
    drop(consideration);
    Explanation { verdict, machines, warnings: warnings.into_inner() }
}
