//! Drained machines: they get no new builds, and the builds that run there continue.
//!
//! The record (see `record`) is `drained.json` in the host's state directory. Without a record, or after its time, the
//! machine takes part.

use serde::{Deserialize, Serialize};

use super::health::Time;
use super::json_record::JsonRecord;
use super::{StateDirectory, StateError};
use crate::machine::Machine;
use crate::permissions::files;

/// A drained machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// When it was drained.
    pub since: Time,
    /// When the drain ends by itself; `None`: only `offload undrain` ends it.
    pub until: Option<Time>,
}

/// The drain record of one host.
#[derive(Clone, Debug)]
pub struct Drain(JsonRecord<Drained>);

impl Drain {
    /// Returns the record of the host that `machine` describes.
    pub fn of(state: &StateDirectory, machine: &Machine) -> Result<Drain, StateError> {
        Ok(Drain(JsonRecord::of(state, machine, "drained")?))
    }

    /// Returns whether the machine is drained at `now`. An invalid record drains it until an administrator undrains it.
    pub fn read(&self, now: Time) -> Option<Drained> {
        let drained = match self.0.read() {
            Some(drained) => drained,
            None if files::exists(self.0.path()) => Drained { since: now, until: None },
            None => return None,
        };
        drained.until.is_none_or(|until| now < until).then_some(drained)
    }

    /// Drains the machine.
    pub fn set(&self, drained: &Drained) -> Result<(), StateError> {
        self.0.change(|_| *drained)
    }

    /// Undrains the machine.
    pub fn clear(&self) -> Result<(), StateError> {
        files::remove(self.0.path()).map_err(|cause| StateError { path: self.0.path().to_owned(), cause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_ends_at_its_time_or_by_undrain() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        let drain = Drain::of(&StateDirectory::new(directory.path()), &machine).unwrap();
        assert_eq!(drain.read(5), None);
        let for_a_while = Drained { since: 1, until: Some(10) };
        drain.set(&for_a_while).unwrap();
        assert_eq!((drain.read(9), drain.read(10)), (Some(for_a_while), None));
        let for_good = Drained { since: 2, until: None };
        drain.set(&for_good).unwrap();
        assert_eq!(drain.read(Time::MAX), Some(for_good));
        drain.clear().unwrap();
        drain.clear().unwrap();
        assert_eq!(drain.read(5), None);
        std::fs::write(drain.0.path(), "{").unwrap();
        assert_eq!(drain.read(5), Some(Drained { since: 5, until: None }));
    }
}
