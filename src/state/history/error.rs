//! Why the history cannot be read or written, and which of these reasons is damage.

use std::path::PathBuf;

use rusqlite::ErrorCode;
use thiserror::Error;

use crate::state::StateError;

/// The reason why the history cannot be read or written.
#[derive(Debug, Error)]
pub enum HistoryError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("{}: {cause}", file.display())]
    Sqlite { file: PathBuf, cause: rusqlite::Error },
    #[error("{}: a newer version of offload has made it (schema {version}); use that version, or move the file", file.display())]
    Newer { file: PathBuf, version: i64 },
    #[error("the history is damaged, and is set aside as '{}': {cause}", aside.display())]
    Damaged { aside: PathBuf, cause: Box<HistoryError> },
}

impl HistoryError {
    /// Returns whether another process is using the database.
    pub(super) fn is_busy(&self) -> bool {
        let HistoryError::Sqlite { cause: rusqlite::Error::SqliteFailure(error, _), .. } = self else { return false };
        matches!(error.code, ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    }

    /// Returns whether the file is damaged, or is not a history.
    pub(super) fn is_damage(&self) -> bool {
        let HistoryError::Sqlite { cause, .. } = self else { return false };
        match cause {
            rusqlite::Error::SqliteFailure(error, _) => matches!(
                error.code,
                // The last one: a table or a column is missing or has another type.
                ErrorCode::DatabaseCorrupt
                    | ErrorCode::NotADatabase
                    | ErrorCode::ConstraintViolation
                    | ErrorCode::Unknown
            ),
            rusqlite::Error::SqlInputError { .. }
            | rusqlite::Error::InvalidColumnName(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..) => true,
            _ => false,
        }
    }
}
