//! The output paths of derivations.
//!
//! The path of an output that is not fixed comes from the SHA-256 of a changed text of the derivation. In this text the
//! output paths are empty (as outputs and as variables of the environment), each input derivation's path is replaced by
//! that derivation's *hash modulo*, in base 16, and all is sorted again. The hash modulo of a derivation is the SHA-256
//! of its text with the same replacement, output paths included. That of a fixed-output derivation is the SHA-256 of
//! `fixed:out:METHOD:HASH:PATH`, so that its download method does not affect the derivations that need it. Source:
//! `hashDerivationModulo` and `checkDerivationOutputs` of the daemon.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use sha2::{Digest, Sha256};

use super::{Derivation, DerivationError, FixedOutput, Output, write};
use crate::store::base16;
use crate::store::path::{self, StoreDir, StorePath};

/// Computes hashes modulo and caches those of input derivations. `lookup` returns the derivation at a path. The
/// computation would not end for a derivation that is its own input, which no real derivation is.
pub struct ModuloHashes<F> {
    lookup: F,
    known: HashMap<StorePath, [u8; 32]>,
}

impl<F: FnMut(&StorePath) -> io::Result<Derivation>> ModuloHashes<F> {
    pub fn new(lookup: F) -> ModuloHashes<F> {
        ModuloHashes { lookup, known: HashMap::new() }
    }

    /// Returns the paths that the outputs of `derivation` must have, by id, given its name (without `.drv`). The paths
    /// that it has now are ignored.
    pub fn output_paths(
        &mut self,
        store: &StoreDir,
        derivation: &Derivation,
        name: &str,
    ) -> Result<BTreeMap<String, StorePath>, DerivationError> {
        if let Some(fixed) = derivation.fixed_output() {
            return Ok(BTreeMap::from([("out".to_owned(), fixed.path(store, name)?)]));
        }
        let mut masked = derivation.clone();
        for id in derivation.outputs.keys() {
            masked.env.insert(id.clone().into_bytes(), Vec::new());
        }
        self.learn(derivation)?;
        let hash = self.hash(&masked, true);
        let path = |id: &String| Ok((id.clone(), path::output_path(store, id, &hash, name)?));
        derivation.outputs.keys().map(path).collect()
    }

    /// Returns the hash that replaces `derivation` in derivations that have it as an input.
    pub fn modulo(&mut self, derivation: &Derivation) -> Result<[u8; 32], DerivationError> {
        self.learn(derivation)?;
        Ok(self.hash(derivation, false))
    }

    /// Computes the hashes of all inputs.
    fn learn(&mut self, derivation: &Derivation) -> Result<(), DerivationError> {
        let mut pending = self.unknown(derivation);
        while let Some(path) = pending.last().cloned() {
            if self.known.contains_key(&path) {
                pending.pop();
                continue;
            }
            let input = (self.lookup)(&path).map_err(|source| DerivationError::Input { path: path.clone(), source })?;
            let unknown = self.unknown(&input);
            if unknown.is_empty() {
                let hash = self.hash(&input, false);
                self.known.insert(path, hash);
                pending.pop();
            } else {
                pending.extend(unknown);
            }
        }
        Ok(())
    }

    /// Returns the inputs whose hashes must be computed before its own.
    fn unknown(&self, derivation: &Derivation) -> Vec<StorePath> {
        if derivation.is_fixed_output() {
            return Vec::new();
        }
        derivation.input_derivations.keys().filter(|path| !self.known.contains_key(path)).cloned().collect()
    }

    fn hash(&self, derivation: &Derivation, masked: bool) -> [u8; 32] {
        if let (Some(fixed), Some(path)) = (derivation.fixed_output(), derivation.output_paths().next()) {
            let subject = format!("fixed:out:{}:{}:{path}", fixed.method(), base16::encode(&fixed.hash));
            return Sha256::digest(subject.as_bytes()).into();
        }
        // If two inputs have the same hash, the daemon uses the later one.
        let inputs: BTreeMap<String, &BTreeSet<String>> = (derivation.input_derivations.iter())
            .filter_map(|(path, ids)| Some((base16::encode(self.known.get(path)?), ids)))
            .collect();
        let inputs = inputs.iter().map(|(hash, ids)| (hash.as_str(), *ids));
        Sha256::digest(write::derivation(derivation, inputs, masked)).into()
    }
}

/// A derivation without the paths of its outputs.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// By id, with the hash of a fixed output. Only a single output `out` can be fixed.
    pub outputs: BTreeMap<String, Option<FixedOutput>>,
    pub input_derivations: BTreeMap<StorePath, BTreeSet<String>>,
    pub input_sources: BTreeSet<StorePath>,
    pub system: String,
    pub builder: Vec<u8>,
    pub args: Vec<Vec<u8>>,
    /// The environment without the outputs, which are added.
    pub env: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Recipe {
    /// Returns the derivation of this name, with its output paths.
    pub fn derivation<F: FnMut(&StorePath) -> io::Result<Derivation>>(
        self,
        store: &StoreDir,
        name: &str,
        hashes: &mut ModuloHashes<F>,
    ) -> Result<Derivation, DerivationError> {
        // A placeholder for the output paths. The text that is hashed for them does not have them.
        let nowhere = path::text_path(store, name, &[0; 32], &[])?;
        let output = |(id, fixed)| (id, Output { path: nowhere.clone(), fixed });
        let mut derivation = Derivation {
            outputs: self.outputs.into_iter().map(output).collect(),
            input_derivations: self.input_derivations,
            input_sources: self.input_sources,
            system: self.system,
            builder: self.builder,
            args: self.args,
            env: self.env,
        };
        for (id, path) in hashes.output_paths(store, &derivation, name)? {
            derivation.env.insert(id.clone().into_bytes(), path.as_str().into());
            if let Some(output) = derivation.outputs.get_mut(&id) {
                output.path = path;
            }
        }
        Ok(derivation)
    }
}
