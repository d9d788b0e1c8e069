//! Derivations in this machine's store.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};

use thiserror::Error;

use super::database::{Database, DatabaseError};
use super::directories::Directories;
use crate::store::derivation::{Derivation, DerivationError, MAX_SIZE};
use crate::store::path::{StoreDir, StorePath};

/// The size of most derivations or more, in bytes: they are read in one piece.
const USUAL_SIZE: usize = 8 << 10;

/// Reads the derivation in the file `path`.
pub fn read_derivation(store: &StoreDir, path: &StorePath) -> Result<Derivation, ReadDerivationError> {
    let mut text = Vec::with_capacity(USUAL_SIZE);
    File::open(path.as_str())
        .and_then(|file| file.take(MAX_SIZE as u64 + 1).read_to_end(&mut text))
        .map_err(|cause| ReadDerivationError::Read { path: path.clone(), cause })?;
    Derivation::parse(store, &text).map_err(|cause| ReadDerivationError::Invalid { path: path.clone(), cause })
}

/// The reason why a derivation cannot be read.
#[derive(Debug, Error)]
pub enum ReadDerivationError {
    #[error("cannot read the derivation '{path}': {cause}")]
    Read { path: StorePath, cause: io::Error },
    #[error("'{path}' is not a valid derivation: {cause}")]
    Invalid { path: StorePath, cause: DerivationError },
}

/// Returns the closure of the inputs of a derivation's build: its inputs, the derivation itself, and all their
/// references. guix-daemon sends this to its build hook; a caller without a daemon computes it here.
pub fn closure(
    directories: &Directories,
    path: &StorePath,
    derivation: &Derivation,
) -> Result<BTreeSet<StorePath>, ClosureError> {
    let mut open: Vec<StorePath> = vec![path.clone()];
    for (input, ids) in &derivation.input_derivations {
        let input = read_derivation(&directories.store, input)?;
        open.extend(input.outputs.iter().filter(|(id, _)| ids.contains(*id)).map(|(_, output)| output.path.clone()));
    }
    let database = Database::open(&directories.database, &directories.store)?;
    let mut closure = BTreeSet::new();
    while let Some(path) = open.pop() {
        if closure.contains(&path) {
            continue;
        }
        let item = database.item(&path)?.ok_or_else(|| DatabaseError::NotValid { path: path.clone() })?;
        open.extend(item.references);
        closure.insert(path);
    }
    Ok(closure)
}

/// The reason why a closure cannot be computed.
#[derive(Debug, Error)]
pub enum ClosureError {
    #[error(transparent)]
    Derivation(#[from] ReadDerivationError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
}
