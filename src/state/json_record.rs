//! A record of one host, or of all of them: a value as JSON, in a file that is replaced as a whole.
//!
//! `NAME.json` in its state directory is read, changed and written under the lock `NAME.lock`, so that no process
//! undoes the change of another. A reader needs no lock: it sees the old value or the new one, also after a kill. An
//! unreadable or invalid file counts as missing.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::lock::{contents, lock_briefly, replace};
use super::{StateDirectory, StateError};
use crate::machine::Machine;

/// The files of a record.
#[derive(Clone, Debug)]
pub(super) struct JsonRecord<T> {
    path: PathBuf,
    _value: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> JsonRecord<T> {
    /// Returns the record `name` of the host that `machine` describes.
    pub fn of(state: &StateDirectory, machine: &Machine, name: &str) -> Result<JsonRecord<T>, StateError> {
        Ok(JsonRecord { path: state.of(machine)?.join(format!("{name}.json")), _value: PhantomData })
    }

    /// Returns the record `name` of all hosts together.
    pub fn shared(state: &StateDirectory, name: &str) -> Result<JsonRecord<T>, StateError> {
        Ok(JsonRecord { path: state.shared()?.join(format!("{name}.json")), _value: PhantomData })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the value, if there is one.
    pub fn read(&self) -> Option<T> {
        contents(&self.path).and_then(|text| serde_json::from_slice(&text).ok())
    }

    /// Replaces the value by the result of `change`.
    pub fn change(&self, change: impl FnOnce(Option<T>) -> T) -> Result<(), StateError> {
        let _lock = lock_briefly(&self.path.with_extension("lock"))?;
        let text = serde_json::to_vec(&change(self.read()))
            .map_err(|error| StateError { path: self.path.clone(), cause: error.into() })?;
        replace(&self.path, &text)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn record(directory: &Path) -> JsonRecord<u32> {
        let machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        JsonRecord::of(&StateDirectory::new(directory), &machine, "count").unwrap()
    }

    #[test]
    fn no_change_undoes_another() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(record(directory.path()).read(), None);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let record = record(directory.path());
                    for _ in 0..25 {
                        // On a loaded machine a thread may wait for the lock longer than a change does.
                        while let Err(error) = record.change(|count| count.unwrap_or(0) + 1) {
                            assert_eq!(error.cause.kind(), std::io::ErrorKind::TimedOut, "{error}");
                        }
                    }
                });
            }
        });
        assert_eq!(record(directory.path()).read(), Some(100));
    }

    #[test]
    fn an_invalid_record_counts_as_missing_and_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let record = record(directory.path());
        record.change(|_| 1).unwrap();
        std::fs::write(record.path(), "{").unwrap();
        assert_eq!(record.read(), None);
        record.change(|count| count.unwrap_or(7)).unwrap();
        assert_eq!(record.read(), Some(7));
    }
}
