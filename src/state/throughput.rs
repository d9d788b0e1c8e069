//! The throughput of the link to a host: its speed, and the compressibility of the data.
//!
//! The record (see `record`) is `throughput.json` in the host's state directory. It is empty before a large transfer,
//! and a measurement is valid for an hour ([`THROUGHPUT_TTL`]), since links change.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::health::Time;
use super::json_record::JsonRecord;
use super::{StateDirectory, StateError};
use crate::machine::Machine;

/// How long a measurement is valid.
pub const THROUGHPUT_TTL: Duration = Duration::from_secs(3600);

/// The throughput of a link in each direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Throughput {
    pub sending: Option<LinkSpeed>,
    pub receiving: Option<LinkSpeed>,
}

/// The speed of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkSpeed {
    /// Bytes per second on the link, after any compression.
    pub rate: f64,
    /// When this was last measured.
    pub measured: Time,
    /// The compressibility of the data, if it was measured.
    pub data: Option<Data>,
}

/// The effect of compression on the data.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// Bytes after compression over bytes before.
    pub ratio: f64,
    /// The bytes that one processor compresses per second.
    pub speed: f64,
}

impl LinkSpeed {
    /// Returns whether it is valid at `now`. A measurement from the future is not.
    pub fn counts(&self, now: Time) -> bool {
        now.checked_sub(self.measured).is_some_and(|age| age < THROUGHPUT_TTL.as_millis() as Time)
    }
}

/// The throughput record of one host.
#[derive(Clone, Debug)]
pub struct ThroughputRecord(JsonRecord<Throughput>);

impl ThroughputRecord {
    /// Returns the record of the host that `machine` describes.
    pub fn of(state: &StateDirectory, machine: &Machine) -> Result<ThroughputRecord, StateError> {
        Ok(ThroughputRecord(JsonRecord::of(state, machine, "throughput")?))
    }

    /// Reads the record. A missing or invalid record is an empty one.
    pub fn read(&self) -> Throughput {
        self.0.read().unwrap_or_default()
    }

    /// Replaces the record by the result of `change`.
    pub fn change(&self, change: impl FnOnce(&mut Throughput)) -> Result<(), StateError> {
        self.0.change(|throughput| {
            let mut throughput = throughput.unwrap_or_default();
            change(&mut throughput);
            throughput
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_direction_is_remembered_and_an_invalid_record_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        let record = ThroughputRecord::of(&StateDirectory::new(directory.path()), &machine).unwrap();
        assert_eq!(record.read(), Throughput::default());
        let link_speed = LinkSpeed { rate: 2.5e6, measured: 7, data: Some(Data { ratio: 0.25, speed: 4e7 }) };
        record.change(|throughput| throughput.sending = Some(link_speed)).unwrap();
        record.change(|throughput| throughput.receiving = Some(LinkSpeed { data: None, ..link_speed })).unwrap();
        assert_eq!(
            record.read(),
            Throughput { sending: Some(link_speed), receiving: Some(LinkSpeed { data: None, ..link_speed }) }
        );
        std::fs::write(record.0.path(), "{\"sending\": 3}").unwrap();
        assert_eq!(record.read(), Throughput::default());
    }

    #[test]
    fn a_measurement_is_valid_for_an_hour() {
        let link_speed = LinkSpeed { rate: 1.0, measured: 10_000, data: None };
        assert!(link_speed.counts(10_000) && link_speed.counts(10_000 + 3_599_999));
        assert!(!link_speed.counts(10_000 + 3_600_000) && !link_speed.counts(9_999));
    }
}
