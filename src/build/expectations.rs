//! What is expected of a build: its inputs and their sizes, from the store, and what the history says about it.
//!
//! Everything is read when it is first needed. A build that waits reads the history again. A failed read is no error: the
//! value is unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use log::debug;

use crate::hook::Request;
use crate::local::{Database, Directories, read_derivation};
use crate::machine::Machine;
use crate::state::history::{History, Learned, Speeds};
use crate::state::{KnownOutputs, StateDirectory};
use crate::store::derivation::Derivation;
use crate::store::path::StorePath;

/// How long what was learned is used before it is read again.
const LEARNED_TTL: Duration = Duration::from_secs(2);

/// What is expected of the build of a request. Clones are the same.
#[derive(Clone)]
pub struct Expectations(Arc<Expected>);

struct Expected {
    state: StateDirectory,
    directories: Directories,
    derivation: StorePath,
    system: String,
    pool: Arc<Speeds>,
    read: OnceLock<Option<Derivation>>,
    needs: OnceLock<BTreeSet<StorePath>>,
    inputs: OnceLock<Option<Inputs>>,
    learned: Mutex<Option<(Instant, Arc<Learned>)>>,
}

/// The bytes of the inputs that a derivation names.
struct Inputs {
    /// Of the outputs of each derivation that it needs.
    derivations: BTreeMap<StorePath, u64>,
    sources: u64,
}

impl Expectations {
    /// Returns what is expected of the build of `request` on a pool of machines.
    pub fn new(
        state: &StateDirectory,
        directories: &Directories,
        request: &Request,
        pool: &Arc<Speeds>,
    ) -> Expectations {
        Expectations(Arc::new(Expected {
            state: state.clone(),
            directories: directories.clone(),
            derivation: request.derivation.clone(),
            system: request.system.clone(),
            pool: Arc::clone(pool),
            read: OnceLock::new(),
            needs: OnceLock::new(),
            inputs: OnceLock::new(),
            learned: Mutex::default(),
        }))
    }

    pub(super) fn derivation(&self) -> &StorePath {
        &self.0.derivation
    }

    pub(super) fn system(&self) -> &str {
        &self.0.system
    }

    pub(super) fn directories(&self) -> &Directories {
        &self.0.directories
    }

    fn read(&self) -> Option<&Derivation> {
        let Expected { directories, derivation, .. } = &*self.0;
        let read = || {
            let read = read_derivation(&directories.store, derivation);
            read.inspect_err(|error| debug!("{error}")).ok()
        };
        self.0.read.get_or_init(read).as_ref()
    }

    /// Returns the derivations whose outputs the build needs, as far as they are known.
    pub(super) fn needs(&self) -> &BTreeSet<StorePath> {
        let needs = || self.read().map(|derivation| derivation.input_derivations.keys().cloned().collect());
        self.0.needs.get_or_init(|| needs().unwrap_or_default())
    }

    /// Returns the bytes of the inputs that the derivation names, without what these refer to.
    pub fn input_bytes(&self) -> Option<u64> {
        let inputs = self.inputs()?;
        Some(inputs.derivations.values().fold(inputs.sources, |sum, bytes| sum.saturating_add(*bytes)))
    }

    /// Returns the bytes of those that the machine is not known to have. It may have the sources, which are not recorded.
    pub fn missing_bytes(&self, machine: &Machine) -> Option<u64> {
        let inputs = self.inputs()?;
        let needs = self.needs();
        let missing = match KnownOutputs::of(&self.0.state, machine) {
            Ok(known) if !needs.is_empty() => known.missing(needs),
            _ => needs.iter().collect(),
        };
        let bytes = missing.into_iter().filter_map(|path| inputs.derivations.get(path));
        Some(bytes.fold(inputs.sources, |sum, bytes| sum.saturating_add(*bytes)))
    }

    fn inputs(&self) -> Option<&Inputs> {
        self.0.inputs.get_or_init(|| self.measure()).as_ref()
    }

    /// Returns the sizes in the store's database; `None` if an input is not valid.
    fn measure(&self) -> Option<Inputs> {
        let derivation = self.read()?;
        let Directories { database, store, .. } = &self.0.directories;
        let sizes = || {
            let database = Database::open_for_sizes(database, store)?;
            let outputs = |(path, ids): (&StorePath, _)| Ok(Some((path.clone(), database.output_bytes(path, ids)?)));
            let derivations = derivation.input_derivations.iter().filter_map(|input| outputs(input).transpose());
            let sources = database.nar_bytes(&derivation.input_sources)?;
            Ok(Inputs { derivations: derivations.collect::<Result<_, _>>()?, sources })
        };
        let sizes: Result<Inputs, crate::local::DatabaseError> = sizes();
        sizes.inspect_err(|error| debug!("the sizes of the inputs are unknown: {error}")).ok()
    }

    /// Returns what the history says about the build.
    pub fn learned(&self) -> Arc<Learned> {
        let mut learned = self.0.learned.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, learned)) = &*learned
            && read.elapsed() < LEARNED_TTL
        {
            return Arc::clone(learned);
        }
        let name = self.0.derivation.name();
        let name = name.strip_suffix(".drv").unwrap_or(name);
        let read = Arc::new(History::of_hook(&self.0.state).learned(name, &self.0.pool));
        *learned = Some((Instant::now(), Arc::clone(&read)));
        read
    }
}
