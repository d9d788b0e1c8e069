//! Hosts whose store is known not to be this machine's: `store.json` in the host's state directory.
//!
//! An entry may refer to this very machine, by another name or through a proxy. A build there would wait for the lock
//! that its own daemon holds. The check takes a round trip, so its result is valid for a day, for the same host keys
//! and the same daemon socket.

use serde::{Deserialize, Serialize};

use super::health::Time;
use super::json_record::JsonRecord;
use super::{StateDirectory, StateError};
use crate::machine::Machine;

/// How long a check is valid, in milliseconds.
const DAY: Time = 24 * 60 * 60 * 1000;

#[derive(Serialize, Deserialize)]
struct Checked {
    /// The host keys and the socket.
    host: Vec<String>,
    /// The time of the check.
    time: Time,
}

/// The result of the check of one host.
pub struct OtherStore {
    record: JsonRecord<Checked>,
    host: Vec<String>,
}

impl OtherStore {
    pub fn of(state: &StateDirectory, machine: &Machine) -> Result<OtherStore, StateError> {
        let keys = machine.host_keys.iter().map(|key| key.fingerprint());
        let host = keys.chain([machine.daemon_socket.to_string_lossy().into_owned()]).collect();
        Ok(OtherStore { record: JsonRecord::of(state, machine, "store")?, host })
    }

    /// Returns whether the host is known to have another store.
    pub fn is_known(&self, now: Time) -> bool {
        // A time in the future, as after a clock was set back, is ignored.
        let is_fresh = |time: Time| now.checked_sub(time).is_some_and(|age| age < DAY);
        self.record.read().is_some_and(|checked| checked.host == self.host && is_fresh(checked.time))
    }

    /// Records that the host has another store.
    pub fn remember(&self, now: Time) -> Result<(), StateError> {
        self.record.change(|_| Checked { host: self.host.clone(), time: now })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_valid_for_a_day_and_one_host() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        let mut machine = Machine::new("b1", "root", Vec::new(), Vec::new());
        let known = |machine: &Machine, now| OtherStore::of(&state, machine).unwrap().is_known(now);
        let now = 1_000_000_000;
        assert!(!known(&machine, now));
        OtherStore::of(&state, &machine).unwrap().remember(now).unwrap();
        assert!(known(&machine, now) && known(&machine, now + DAY - 1));
        assert!(!known(&machine, now + DAY) && !known(&machine, now - 1));
        machine.daemon_socket = "/run/other".into();
        assert!(!known(&machine, now));
    }
}
