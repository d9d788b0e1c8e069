//! How many hook processes wait for a slot: each holds a place, as a build holds a slot.
//!
//! A place is a lock on one of the files `waiting/0`, `waiting/1`, … of the state directory. Their number is bounded, so
//! that a client which asks for a thousand builds does not get a thousand waiting processes.

use std::fs::File;

use super::slots::try_lock;
use super::{StateDirectory, StateError, create_directory};

/// A place among those that wait; dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    /// Holds the lock.
    _file: File,
}

/// Takes one of `places` places; `None` when all are taken. Never waits.
pub fn try_take(state: &StateDirectory, places: usize) -> Result<Option<Place>, StateError> {
    let directory = state.path().join("waiting");
    create_directory(&directory)?;
    for number in 0..places {
        if let Some(file) = try_lock(&directory.join(number.to_string()))? {
            return Ok(Some(Place { _file: file }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        let first = try_take(&state, 2).unwrap().unwrap();
        let _second = try_take(&state, 2).unwrap().unwrap();
        assert!(try_take(&state, 2).unwrap().is_none());
        drop(first);
        assert!(try_take(&state, 2).unwrap().is_some());
        assert!(try_take(&state, 0).unwrap().is_none());
    }
}
