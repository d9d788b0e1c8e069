//! Derivations: the instructions of builds, in the form of `.drv` files.
//!
//! ```text
//! Derive([OUTPUTS],[INPUTDRVS],[INPUTSRCS],"system","builder",[ARGS],[ENV])
//! OUTPUT   = ("id","path","hashAlgo","hash")     sorted by id
//! INPUTDRV = ("drv path",["id",...])             sorted by path; the ids too
//! INPUTSRC = "path"                              sorted
//! ARG      = "string"
//! ENV      = ("name","value")                    sorted by name
//! ```
//!
//! There is no white space, and no newline at the end. A string is in double quotes, in which `"`, `\`, newline,
//! carriage return and tab are written with a backslash; a backslash before any other character is ignored. Only
//! *fixed* outputs have a hash algorithm and a hash in base 16, with `r:` before the algorithm if the hash is that of
//! the nar. Sources: `libstore/derivations.cc` and `parseString` of the daemon, `guix/derivations.scm`.
//!
//! Unlike the daemon, the reader refuses entries that are not sorted or occur twice. Not checked on reading: that the
//! output paths are those that [`ModuloHashes`] computes, and that the environment names them. The daemon checked that when
//! the derivation came into its store.

mod output_paths;
mod parse;
mod write;

pub use output_paths::{ModuloHashes, Recipe};

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::HashAlgorithm;
use super::path::{self, PathError, StoreDir, StorePath};

/// The size limit of a derivation, in bytes.
pub const MAX_DERIVATION_SIZE: usize = 64 << 20;

/// The contents of a `.drv` file. Strings of any form are bytes; they have no NUL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derivation {
    /// By id: `out`, `dev`, and so on. Never empty.
    pub outputs: BTreeMap<String, Output>,
    /// The derivations it needs, with the needed outputs of each.
    pub input_derivations: BTreeMap<StorePath, BTreeSet<String>>,
    pub input_sources: BTreeSet<StorePath>,
    /// The system type it is built on, such as `x86_64-linux`.
    pub system: String,
    pub builder: Vec<u8>,
    pub args: Vec<Vec<u8>>,
    pub env: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// An output of a derivation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub path: StorePath,
    /// Its required contents, if they are known beforehand.
    pub fixed: Option<FixedOutput>,
}

/// The hash that an output must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedOutput {
    /// True: the hash is that of the nar. False: of the bytes of the file, which is regular and not executable.
    pub recursive: bool,
    pub algorithm: HashAlgorithm,
    /// The hash, with the size of the algorithm.
    pub hash: Vec<u8>,
}

impl FixedOutput {
    /// Returns `sha256` or `r:sha256`, the form in derivations.
    pub fn method(&self) -> String {
        format!("{}{}", if self.recursive { "r:" } else { "" }, self.algorithm)
    }

    /// Returns the store path of an output with this hash, in a derivation of this name.
    pub fn path(&self, store: &StoreDir, name: &str) -> Result<StorePath, PathError> {
        path::fixed_output_path(store, name, self.recursive, self.algorithm, &self.hash)
    }
}

impl Derivation {
    /// Returns whether its only output is `out` and has a fixed hash.
    pub fn is_fixed_output(&self) -> bool {
        self.fixed_output().is_some()
    }

    /// Returns the hash that its only output must have.
    pub fn fixed_output(&self) -> Option<&FixedOutput> {
        let output = self.outputs.get("out")?;
        if self.outputs.len() == 1 { output.fixed.as_ref() } else { None }
    }

    /// Returns the paths of all outputs, in the order of their ids.
    pub fn output_paths(&self) -> impl Iterator<Item = &StorePath> {
        self.outputs.values().map(|output| &output.path)
    }

    /// Returns a variable of the environment of its build.
    pub fn env(&self, name: &str) -> Option<&[u8]> {
        self.env.get(name.as_bytes()).map(Vec::as_slice)
    }

    /// Returns the features that it requires of a build machine: the words of `requiredSystemFeatures`.
    pub fn required_features(&self) -> Vec<String> {
        let words = self.env("requiredSystemFeatures").unwrap_or_default();
        let words = words.split(|byte| b" \t\n\r".contains(byte)).filter(|word| !word.is_empty());
        words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    /// Returns whether it prefers a local build (`preferLocalBuild`).
    pub fn prefers_local_build(&self) -> bool {
        self.env("preferLocalBuild") == Some(b"1")
    }

    /// Returns the references of its `.drv` file, sorted.
    pub fn references(&self) -> Vec<StorePath> {
        self.input_sources
            .iter()
            .chain(self.input_derivations.keys())
            .cloned()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }
}

/// The reason why a derivation cannot be read, or its outputs cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum DerivationError {
    #[error("invalid derivation, at byte {position}: {problem}")]
    Syntax { position: usize, problem: String },
    #[error("the input derivation '{path}' cannot be read")]
    Input { path: StorePath, source: io::Error },
    #[error(transparent)]
    Path(#[from] PathError),
}

#[cfg(test)]
mod tests;
