//! Derivations in this machine's store.

use std::fs::File;
use std::io::{self, Read};

use thiserror::Error;

use crate::store::derivation::{Derivation, DerivationError, MAX_SIZE};
use crate::store::path::{StoreDir, StorePath};

/// Reads the derivation in the file `path`.
pub fn read_derivation(store: &StoreDir, path: &StorePath) -> Result<Derivation, ReadDerivationError> {
    let mut text = Vec::new();
    File::open(path.as_str())
        .and_then(|file| file.take(MAX_SIZE as u64 + 1).read_to_end(&mut text))
        .map_err(|cause| ReadDerivationError::Read { path: path.clone(), cause })?;
    Derivation::parse(store, &text).map_err(|cause| ReadDerivationError::Invalid { path: path.clone(), cause })
}

/// Why there is no derivation.
#[derive(Debug, Error)]
pub enum ReadDerivationError {
    #[error("cannot read the derivation '{path}': {cause}")]
    Read { path: StorePath, cause: io::Error },
    #[error("'{path}' is not a valid derivation: {cause}")]
    Invalid { path: StorePath, cause: DerivationError },
}
