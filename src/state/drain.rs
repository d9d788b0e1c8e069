//! Machines that are taken out for a while: they get no new builds, and those that run there end.
//!
//! The record (see `record`) is `drained.json` in the host's state directory; where there is none, or its time is over,
//! the machine takes part.

use serde::{Deserialize, Serialize};

use super::health::Time;
use super::record::Record;
use super::{StateDirectory, StateError};
use crate::machine::Machine;
use crate::permissions::files;

/// That a machine is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// When it was taken out.
    pub since: Time,
    /// When it comes back by itself; `None`: not before it is brought back.
    pub until: Option<Time>,
}

/// The drain record of one host.
#[derive(Clone, Debug)]
pub struct Drain(Record<Drained>);

impl Drain {
    /// The record of the host that `machine` describes.
    pub fn of(state: &StateDirectory, machine: &Machine) -> Result<Drain, StateError> {
        Ok(Drain(Record::of(state, machine, "drained")?))
    }

    /// Whether the machine is taken out at `now`. A record that makes no sense takes it out until somebody looks.
    pub fn read(&self, now: Time) -> Option<Drained> {
        let drained = match self.0.read() {
            Some(drained) => drained,
            None if files::exists(self.0.path()) => Drained { since: now, until: None },
            None => return None,
        };
        drained.until.is_none_or(|until| now < until).then_some(drained)
    }

    /// Takes the machine out.
    pub fn set(&self, drained: &Drained) -> Result<(), StateError> {
        self.0.change(|_| *drained)
    }

    /// Brings the machine back.
    pub fn clear(&self) -> Result<(), StateError> {
        files::remove(self.0.path()).map_err(|cause| StateError { path: self.0.path().to_owned(), cause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_for_a_while_or_until_brought_back() {
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
