//! What is remembered of the line to a host: how fast it was, and what was sent over it.
//!
//! The record (see `record`) is `line.json` in the host's state directory. It says nothing before a large transfer, and
//! what it says counts for an hour ([`FOR`]): lines change.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::health::Time;
use super::record::Record;
use super::{StateDirectory, StateError};
use crate::machine::Machine;

/// How long a measurement counts.
pub const FOR: Duration = Duration::from_secs(3600);

/// What is remembered of a line, each way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Line {
    pub sending: Option<Pace>,
    pub receiving: Option<Pace>,
}

/// One way of a line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// The bytes of the line itself in a second: after compression, where there was any.
    pub rate: f64,
    /// When that was last seen.
    pub measured: Time,
    /// What the data were like, where it was worth a look.
    pub data: Option<Data>,
}

/// What compression makes of the data.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// Bytes after compression over bytes before.
    pub ratio: f64,
    /// The bytes that one processor compresses in a second.
    pub speed: f64,
}

impl Pace {
    /// Whether it still counts at `now`. What is from the future does not.
    pub fn counts(&self, now: Time) -> bool {
        now.checked_sub(self.measured).is_some_and(|age| age < FOR.as_millis() as Time)
    }
}

/// The record of one host's line.
#[derive(Clone, Debug)]
pub struct LineRecord(Record<Line>);

impl LineRecord {
    /// The record of the host that `machine` describes.
    pub fn of(state: &StateDirectory, machine: &Machine) -> Result<LineRecord, StateError> {
        Ok(LineRecord(Record::of(state, machine, "line")?))
    }

    /// What is remembered; nothing, where there is no record or it makes no sense.
    pub fn read(&self) -> Line {
        self.0.read().unwrap_or_default()
    }

    /// Replaces what is remembered by what `change` makes of it.
    pub fn change(&self, change: impl FnOnce(&mut Line)) -> Result<(), StateError> {
        self.0.change(|line| {
            let mut line = line.unwrap_or_default();
            change(&mut line);
            line
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_is_remembered_and_nonsense_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        let record = LineRecord::of(&StateDirectory::new(directory.path()), &machine).unwrap();
        assert_eq!(record.read(), Line::default());
        let pace = Pace { rate: 2.5e6, measured: 7, data: Some(Data { ratio: 0.25, speed: 4e7 }) };
        record.change(|line| line.sending = Some(pace)).unwrap();
        record.change(|line| line.receiving = Some(Pace { data: None, ..pace })).unwrap();
        assert_eq!(record.read(), Line { sending: Some(pace), receiving: Some(Pace { data: None, ..pace }) });
        std::fs::write(record.0.path(), "{\"sending\": 3}").unwrap();
        assert_eq!(record.read(), Line::default());
    }

    #[test]
    fn a_measurement_counts_for_an_hour() {
        let pace = Pace { rate: 1.0, measured: 10_000, data: None };
        assert!(pace.counts(10_000) && pace.counts(10_000 + 3_599_999));
        assert!(!pace.counts(10_000 + 3_600_000) && !pace.counts(9_999));
    }
}
