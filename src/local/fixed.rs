//! The check of a fixed output against its derivation.
//!
//! The hash is that of the nar or, if the method is not recursive, that of the bytes of the output, which must then be
//! a regular file that is not executable. It is computed from the restored files before they are moved into the store,
//! while the hook can still retry on another machine. The daemon checks a fixed output that it registers itself, but
//! trusts a hook that has registered one. Source: `registerOutputs` in the daemon's `libstore/build.cc`.

use std::io::{self, Read};

use thiserror::Error;

use super::restore::Staging;
use crate::gcrypt::{Digest, DigestError};
use crate::store::HashAlgorithm;
use crate::store::base16;
use crate::store::derivation::FixedOutput;
use crate::store::path::StorePath;

/// Compares a restored output, whose nar has the SHA-256 `nar_hash`, with the derivation.
pub fn check_fixed_output(staging: &Staging<'_>, nar_hash: &[u8; 32], fixed: &FixedOutput) -> Result<(), FixedError> {
    let path = staging.output();
    let read = |cause| FixedError::Read { path: path.clone(), cause };
    let found = if fixed.recursive && fixed.algorithm == HashAlgorithm::Sha256 {
        nar_hash.to_vec()
    } else if fixed.recursive {
        hash(fixed.algorithm, &mut staging.dump().map_err(read)?, read)?
    } else {
        let Some(mut file) = staging.plain_file().map_err(read)? else {
            return Err(FixedError::NotPlain { path: path.clone() });
        };
        hash(fixed.algorithm, &mut file, read)?
    };
    if found == fixed.hash {
        return Ok(());
    }
    let (expected, found) = (base16::encode(&fixed.hash), base16::encode(&found));
    Err(FixedError::Mismatch { path: path.clone(), method: fixed.method(), expected, found })
}

fn hash(
    algorithm: HashAlgorithm,
    reader: &mut dyn Read,
    failed: impl Fn(io::Error) -> FixedError,
) -> Result<Vec<u8>, FixedError> {
    let mut digest = Digest::new(algorithm)?;
    let mut chunk = vec![0; 128 << 10];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(digest.finish()),
            Ok(count) => digest.update(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(failed(error)),
        }
    }
}

/// The reason why a fixed output is rejected.
#[derive(Debug, Error)]
pub enum FixedError {
    #[error("{method} hash mismatch for '{path}': expected {expected}, got {found}")]
    Mismatch { path: StorePath, method: String, expected: String, found: String },
    #[error("'{path}' must be a regular file that is not executable, since its hash is that of its bytes")]
    NotPlain { path: StorePath },
    #[error("cannot read '{path}': {cause}")]
    Read { path: StorePath, cause: io::Error },
    #[error(transparent)]
    Digest(#[from] DigestError),
}

#[cfg(test)]
mod tests;
