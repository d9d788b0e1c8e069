//! The log levels of all hooks of this head, for some time: `offload log-level`.
//!
//! The record is `log-level.json` in the state directory. Without it, or after its time, each hook has the levels of its
//! environment. A hook looks for the file when it begins, when it reads a request, and at most once a second while it
//! builds. Where it does not exist, a look is one call of the system.

use serde::{Deserialize, Serialize};

use super::health::Time;
use super::json_record::JsonRecord;
use super::{StateDirectory, StateError};
use crate::permissions::files;

/// The name of the record.
const NAME: &str = "log-level";

/// Levels that apply for some time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevel {
    /// In the syntax of `OFFLOAD_LOG`.
    pub levels: String,
    /// When they end.
    pub until: Time,
}

impl LogLevel {
    /// Returns the levels that apply at `now`, if there are some. Nothing is created.
    pub fn read(state: &StateDirectory, now: Time) -> Option<LogLevel> {
        // One call, before those that open it as its owner.
        state.path().join(format!("{NAME}.json")).symlink_metadata().ok()?;
        let record = JsonRecord::<LogLevel>::shared(state, NAME).ok()?;
        record.read().filter(|record| now < record.until)
    }

    /// Makes these levels apply.
    pub fn set(&self, state: &StateDirectory) -> Result<(), StateError> {
        // Root creates no state where another user could have created it first.
        let path = state.path();
        files::as_owner_of(path, || Ok(())).map_err(|cause| StateError { path: path.to_owned(), cause })?;
        JsonRecord::shared(state, NAME)?.change(|_| self.clone())
    }

    /// Ends the levels of any record.
    pub fn clear(state: &StateDirectory) -> Result<(), StateError> {
        let path = state.path().join(format!("{NAME}.json"));
        files::remove(&path).map_err(|cause| StateError { path, cause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_end_at_their_time_or_before() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path().join("offload"));
        assert_eq!(LogLevel::read(&state, 5), None);
        assert!(!state.path().exists());
        LogLevel::clear(&state).unwrap();
        let level = LogLevel { levels: "debug".to_owned(), until: 10 };
        level.set(&state).unwrap();
        assert_eq!((LogLevel::read(&state, 9), LogLevel::read(&state, 10)), (Some(level), None));
        LogLevel::clear(&state).unwrap();
        assert_eq!(LogLevel::read(&state, 9), None);
        std::fs::write(state.path().join("log-level.json"), "{").unwrap();
        assert_eq!(LogLevel::read(&state, 9), None);
    }
}
