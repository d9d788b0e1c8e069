//! What guix-daemon does before it starts its hook, for a build that no daemon has asked for: temporary roots, valid
//! inputs, and the locks of the outputs.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::build_error::BuildError;
use crate::cancel;
use crate::daemon::{self, Log, Options};
use crate::events::{Event, Observer};
use crate::hook::Request;
use crate::local::{
    Directories, LocalDaemon, LocalDaemonError, OutputLocks, closure, connect_to_daemon, is_read_only, read_derivation,
};
use crate::state::{RegistrationLock, StateDirectory};
use crate::store::derivation::Derivation;
use crate::store::path::StorePath;

/// How often a build checks whether another program has finished the same derivation.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The interval at which a wait for another program is reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);

/// A derivation whose build is prepared.
pub(super) struct Preparation<'a> {
    pub directories: &'a Directories,
    pub state: &'a StateDirectory,
    pub path: StorePath,
    pub derivation: Derivation,
    /// The connection that holds the temporary roots.
    pub daemon: RefCell<LocalDaemon>,
}

impl<'a> Preparation<'a> {
    /// Reads a derivation, and connects to the daemon.
    pub fn new(
        directories: &'a Directories,
        state: &'a StateDirectory,
        derivation: &str,
    ) -> Result<Preparation<'a>, BuildError> {
        let path = StorePath::parse(&directories.store, derivation.as_bytes())
            .map_err(|error| BuildError::derivation(derivation, error))?;
        let read =
            read_derivation(&directories.store, &path).map_err(|error| BuildError::derivation(derivation, error))?;
        let daemon = connect_to_daemon(directories).map_err(|error| BuildError::this_machine(derivation, error))?;
        Ok(Preparation { directories, state, path, derivation: read, daemon: RefCell::new(daemon) })
    }

    fn failed(&self, error: daemon::Error) -> BuildError {
        BuildError::this_machine(self.path.as_str(), LocalDaemonError::from(error))
    }

    fn outputs(&self) -> BTreeSet<StorePath> {
        self.derivation.output_paths().cloned().collect()
    }

    /// Protects the derivation and its outputs from the garbage collector, as long as the connection lasts.
    pub fn protect(&self) -> Result<(), BuildError> {
        let mut daemon = self.daemon.borrow_mut();
        let mut roots = self.outputs();
        roots.insert(self.path.clone());
        roots.iter().try_for_each(|root| daemon.add_temp_root(root)).map_err(|error| self.failed(error))?;
        match daemon.is_valid_path(&self.path).map_err(|error| self.failed(error))? {
            true => Ok(()),
            false => {
                let error = std::io::Error::other("it is not a valid item of the store");
                Err(BuildError::derivation(self.path.as_str(), error))
            }
        }
    }

    /// Returns the outputs that are not valid.
    pub fn missing_outputs(&self) -> Result<BTreeSet<StorePath>, BuildError> {
        let outputs = self.outputs();
        let valid = self.daemon.borrow_mut().query_valid_paths(&outputs).map_err(|error| self.failed(error))?;
        Ok(outputs.difference(&valid).cloned().collect())
    }

    /// Returns the request for a build elsewhere.
    pub fn request(&self) -> Request {
        Request {
            wants_local: false,
            system: self.derivation.system.clone(),
            derivation: self.path.clone(),
            features: self.derivation.required_features(),
        }
    }

    /// Protects the inputs. Returns those that are not valid: derivations for outputs of theirs, and sources.
    pub fn missing_inputs(&self) -> Result<BTreeSet<StorePath>, BuildError> {
        // Each input, and what is requested from the daemon if it is not valid.
        let mut inputs: Vec<(StorePath, StorePath)> =
            self.derivation.input_sources.iter().map(|source| (source.clone(), source.clone())).collect();
        for (input, ids) in &self.derivation.input_derivations {
            let read = read_derivation(&self.directories.store, input)
                .map_err(|error| self.inputs_failed(error.to_string()))?;
            let needed = read.outputs.iter().filter(|(id, _)| ids.contains(*id));
            inputs.extend(needed.map(|(_, output)| (output.path.clone(), input.clone())));
        }
        let mut daemon = self.daemon.borrow_mut();
        let paths: BTreeSet<StorePath> = inputs.iter().map(|(path, _)| path.clone()).collect();
        paths.iter().try_for_each(|path| daemon.add_temp_root(path)).map_err(|error| self.failed(error))?;
        let valid = daemon.query_valid_paths(&paths).map_err(|error| self.failed(error))?;
        Ok(inputs.into_iter().filter(|(path, _)| !valid.contains(path)).map(|(_, asked)| asked).collect())
    }

    fn inputs_failed(&self, message: String) -> BuildError {
        BuildError::Inputs { derivation: self.path.to_string(), message }
    }

    /// Returns the closure of the inputs, after the daemon has provided those that are not valid. `log` gets the output of
    /// its builds.
    pub fn inputs(&self, log: Log, observer: &mut dyn Observer) -> Result<BTreeSet<StorePath>, BuildError> {
        let missing = self.missing_inputs()?;
        if !missing.is_empty() {
            observer.observe(&Event::Preparing { derivation: &self.path, items: missing.len() });
            let mut daemon = self.daemon.borrow_mut();
            let options = Options { offload: true, fallback: true, ..Options::default() };
            daemon.set_options(&options).map_err(|error| self.failed(error))?;
            daemon.set_log(Some(log));
            let built = daemon.build_paths(&missing);
            daemon.set_log(None);
            built.map_err(|error| match error {
                daemon::Error::Daemon { message, .. } => self.inputs_failed(message),
                error => self.failed(error),
            })?;
        }
        closure(self.directories, &self.path, &self.derivation)
            .map_err(|error| BuildError::this_machine(self.path.as_str(), error))
    }

    /// Waits until no other program builds the derivation. Returns the locks of the outputs, with the outputs that are not
    /// valid; none if another program has made them valid.
    pub fn lock(&self, observer: &mut dyn Observer) -> Result<Option<(OutputLocks, BTreeSet<StorePath>)>, BuildError> {
        let (start, mut report_at) = (Instant::now(), POLL_INTERVAL);
        loop {
            if let Some(locks) = self.try_lock()? {
                let missing = self.missing_outputs()?;
                return Ok((!missing.is_empty()).then_some((locks, missing)));
            }
            let waited = start.elapsed();
            if waited >= report_at {
                observer.observe(&Event::WaitingForOther { derivation: &self.path, seconds: waited.as_secs() });
                report_at = waited + REPORT_INTERVAL;
            }
            cancel::sleep(POLL_INTERVAL);
            cancel::check().map_err(|_| BuildError::Cancelled)?;
        }
    }

    /// Takes the locks of the outputs, unless another program builds or registers them. In a store that is read-only there
    /// are none: guix-daemon takes them for the import, and waits for a build of its own then.
    fn try_lock(&self) -> Result<Option<OutputLocks>, BuildError> {
        let registration = RegistrationLock::try_take(self.state, &self.path);
        match registration.map_err(|error| BuildError::this_machine(self.path.as_str(), error))? {
            Some(_registration) if is_read_only(&self.directories.store) => Ok(Some(OutputLocks::none())),
            Some(_registration) => OutputLocks::try_take(self.derivation.output_paths())
                .map_err(|error| BuildError::this_machine(self.path.as_str(), error)),
            None => Ok(None),
        }
    }
}
