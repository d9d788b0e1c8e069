//! Errors of uploads and downloads.

use std::io;
use std::path::PathBuf;

use super::rejected::RejectedOutput;
use crate::daemon;
use crate::gcrypt::VerifyError;
use crate::local::{AclError, DatabaseError, ReadDerivationError, RestoreError};
use crate::store::path::StorePath;

/// How often inputs may be lost during an upload before the machine is given up.
pub(super) const MAX_UPLOAD_ATTEMPTS: usize = 3;

/// The reason why inputs could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    SigningKey(#[from] crate::gcrypt::Error),
    /// An item of this store cannot be read, or is damaged.
    #[error("{0}")]
    Source(io::Error),
    /// The build machine's daemon or the connection failed.
    #[error(transparent)]
    Machine(daemon::Error),
    /// The daemon trusts no key of this machine.
    #[error(
        "its daemon has not authorized this machine's signing key\n  hint: copy '{}' there, and as root: \
         `guix archive --authorize < signing-key.pub`",
        key.display()
    )]
    NotAuthorized { key: PathBuf },
    /// Inputs keep disappearing from its store.
    #[error(
        "inputs were lost {MAX_UPLOAD_ATTEMPTS} times while they were sent; is its garbage collector running all the time?"
    )]
    Lost,
}

impl UploadError {
    /// Returns whether another machine may succeed.
    pub fn is_of_machine(&self) -> bool {
        match self {
            UploadError::Machine(_) | UploadError::NotAuthorized { .. } | UploadError::Lost => true,
            UploadError::Database(_) | UploadError::SigningKey(_) | UploadError::Source(_) => false,
        }
    }
}

/// The reason why outputs could not be downloaded.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    #[error(transparent)]
    Derivation(#[from] ReadDerivationError),
    #[error(transparent)]
    Acl(#[from] AclError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The build machine's daemon or the connection failed.
    #[error(transparent)]
    Machine(daemon::Error),
    /// An output is rejected.
    #[error("'{output}' from '{machine}' is rejected: {cause}")]
    Refused { output: StorePath, machine: String, cause: Box<RejectedOutput> },
}

impl DownloadError {
    /// Returns whether the reason is a key that is not authorized, or no longer authorized.
    pub fn is_of_key(&self) -> bool {
        let DownloadError::Refused { cause, .. } = self else { return false };
        matches!(**cause, RejectedOutput::Revoked(_) | RejectedOutput::Signature(VerifyError::Unauthorized { .. }))
    }

    /// Returns whether another machine may succeed.
    pub fn is_of_machine(&self) -> bool {
        match self {
            DownloadError::Machine(_) | DownloadError::Refused { .. } => true,
            DownloadError::Derivation(_) | DownloadError::Acl(_) | DownloadError::Restore(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::path::StoreDir;
    use crate::store::signature::PublicKey;

    #[test]
    fn only_a_key_that_is_not_authorized_is_a_matter_of_the_key() {
        let is_of_key = |cause: RejectedOutput| {
            let output = b"/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-x";
            let output = StorePath::parse(&StoreDir::default(), output).unwrap();
            let error = DownloadError::Refused { output, machine: "b1".to_owned(), cause: Box::new(cause) };
            assert!(error.is_of_machine());
            error.is_of_key()
        };
        let key = || PublicKey::parse(b"(public-key (ecc (curve Ed25519) (q #0123#)))").unwrap();
        assert!(is_of_key(RejectedOutput::Signature(VerifyError::Unauthorized { key: key() })));
        assert!(is_of_key(RejectedOutput::Revoked(key())));
        assert!(!is_of_key(RejectedOutput::Signature(VerifyError::Hash)));
        assert!(!is_of_key(RejectedOutput::NotSigned));
        assert!(!DownloadError::Machine(daemon::Error::Broken { operation: "ExportPath" }).is_of_key());
    }
}
