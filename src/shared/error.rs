//! Errors of the engine of a shared pool. None of them fails a build.

use std::io;
use std::path::{Path, PathBuf};

use super::schema::VERSION;
use crate::permissions::{Need, remedy};

/// The reason why the engine cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[cfg(not(feature = "shared"))]
    #[error("this build of offload cannot share a pool (cargo feature 'shared')")]
    NotBuilt,
    #[error("the URL of the shared pool cannot be used: {0}")]
    Url(String),
    #[error("the password of the shared pool cannot be read: {}: {cause}", path.display())]
    Password { path: PathBuf, cause: String },
    #[error("TLS cannot be set up for the shared pool: {0}")]
    Tls(String),
    #[error("the database of the shared pool cannot be reached: {0}")]
    Unreachable(String),
    #[error("the database of the shared pool did not respond within {0} s")]
    Silent(u64),
    #[error("the database of the shared pool refuses the login: {0}")]
    Login(String),
    #[error("the database of the shared pool has no free connection: {0}")]
    TooManyConnections(String),
    #[error("the database of the shared pool can only be read; it may be a standby")]
    ReadOnly,
    #[error("the database of the shared pool has not been set up")]
    NoSchema,
    #[error("the database of the shared pool has version {found}, and this offload needs version {VERSION}")]
    Version { found: i32 },
    #[error("the account has too few rights in the database of the shared pool: {0}")]
    Rights(String),
    #[error("the URL of the shared pool leads to a pooler that shares sessions between clients")]
    Pooled,
    #[error("the shared pool needs PostgreSQL 14 or newer, and this is {0}")]
    TooOld(String),
    #[error("the database of the shared pool failed: {0}")]
    Statement(String),
    #[error("no thread for the shared pool: {0}")]
    Thread(String),
}

impl Error {
    /// Returns the error of reading the file with the password.
    pub(super) fn password(path: &Path, error: &io::Error) -> Error {
        let advice = remedy::advice(path, Need::ReadSecret, error);
        let cause = advice.map_or(error.to_string(), |advice| format!("{error}; {advice}"));
        Error::Password { path: path.to_owned(), cause }
    }

    /// Returns what to do, if that is known.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Error::NoSchema => "run `offload shared init`",
            Error::Version { found } if *found < VERSION => "run `offload shared init` with the newest offload",
            Error::Version { .. } => "update offload on this head",
            Error::Pooled => "connect to PostgreSQL itself, or use the pooler's mode `session` (pool_mode = session)",
            Error::TooManyConnections(_) => {
                "raise max_connections: the slots of all machines, the heads, and a few more"
            }
            Error::ReadOnly => "add target_session_attrs=read-write to the URL, if it names several servers",
            Error::Rights(_) => "make the account the owner of the database: alter database … owner to …",
            _ => return None,
        })
    }
}
