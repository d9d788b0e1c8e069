//! Whether a build runs, for a log that is followed.

use crate::engine::Engine;
use crate::local::{is_output_locked, read_derivation};
use crate::state::Slots;
use crate::store::path::StorePath;

/// Watches the build of a derivation.
pub struct BuildWatch<'a> {
    engine: &'a Engine,
    derivation: &'a StorePath,
    outputs: Vec<StorePath>,
}

impl<'a> BuildWatch<'a> {
    /// Watches the builds of `derivation`, which may be missing from the store.
    pub fn new(engine: &'a Engine, derivation: &'a StorePath) -> BuildWatch<'a> {
        let outputs = match read_derivation(&engine.directories.store, derivation) {
            Ok(read) => read.outputs.into_values().map(|output| output.path).collect(),
            Err(error) => {
                log::debug!("{error}");
                Vec::new()
            }
        };
        BuildWatch { engine, derivation, outputs }
    }

    /// Returns whether the daemon has begun the build: on this machine, on another one, or waiting for a slot.
    pub fn is_running(&self) -> bool {
        let is_locked = |output| is_output_locked(output).unwrap_or(false);
        let has_slot =
            || Slots::holders(&self.engine.state).iter().any(|slot| slot.derivation == self.derivation.as_str());
        self.outputs.iter().any(is_locked) || has_slot()
    }

    /// Returns whether there can be a build: an output is missing.
    pub fn is_possible(&self) -> bool {
        self.outputs.iter().any(|output| std::fs::symlink_metadata(output.as_str()).is_err())
    }
}
