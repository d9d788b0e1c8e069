//! Why inputs could not be sent to a build machine.

use std::io;
use std::path::PathBuf;

use crate::daemon;
use crate::local::DatabaseError;

/// How often inputs may get lost while they are sent before the machine is given up.
pub(super) const ATTEMPTS: usize = 3;

/// Why inputs could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    SigningKey(#[from] crate::gcrypt::Error),
    /// An item of this store cannot be read, or is damaged.
    #[error("{0}")]
    Source(io::Error),
    /// The build machine's daemon, or the way there.
    #[error(transparent)]
    Machine(daemon::Error),
    /// It trusts nothing that this machine signs.
    #[error(
        "its daemon does not trust what this machine signs\n  hint: copy '{}' there, and as root: \
         `guix archive --authorize < signing-key.pub`",
        key.display()
    )]
    NotAuthorized { key: PathBuf },
    /// Inputs keep disappearing from its store.
    #[error("inputs were lost {ATTEMPTS} times while they were sent; is its garbage collector running all the time?")]
    Lost,
}

impl UploadError {
    /// Whether another machine may do better.
    pub fn is_of_machine(&self) -> bool {
        match self {
            UploadError::Machine(_) | UploadError::NotAuthorized { .. } | UploadError::Lost => true,
            UploadError::Database(_) | UploadError::SigningKey(_) | UploadError::Source(_) => false,
        }
    }
}
