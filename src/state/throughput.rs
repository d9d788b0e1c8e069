//! What is remembered of the line to a host: how fast it was, and what was sent over it.
//!
//! The record (see `record`) is `throughput.json` in the host's state directory. It says nothing before a large transfer, and
//! what it says counts for an hour ([`THROUGHPUT_TTL`]): lines change.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::health::Time;
use super::record::Record;
use super::{StateDirectory, StateError};
use crate::machine::Machine;

/// How long a measurement is valid.
pub const THROUGHPUT_TTL: Duration = Duration::from_secs(3600);

/// What is remembered of a line, each way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Throughput {
    pub sending: Option<LinkSpeed>,
    pub receiving: Option<LinkSpeed>,
}

/// One way of a line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkSpeed {
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

impl LinkSpeed {
    /// Whether it still counts at `now`. What is from the future does not.
    pub fn counts(&self, now: Time) -> bool {
        now.checked_sub(self.measured).is_some_and(|age| age < THROUGHPUT_TTL.as_millis() as Time)
    }
}

/// The record of one host's line.
#[derive(Clone, Debug)]
pub struct ThroughputRecord(Record<Throughput>);

impl ThroughputRecord {
    /// The record of the host that `machine` describes.
    pub fn of(state: &StateDirectory, machine: &Machine) -> Result<ThroughputRecord, StateError> {
        Ok(ThroughputRecord(Record::of(state, machine, "throughput")?))
    }

    /// What is remembered; nothing, where there is no record or it makes no sense.
    pub fn read(&self) -> Throughput {
        self.0.read().unwrap_or_default()
    }

    /// Replaces what is remembered by what `change` makes of it.
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
    fn each_way_is_remembered_and_nonsense_is_not() {
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
    fn a_measurement_counts_for_an_hour() {
        let link_speed = LinkSpeed { rate: 1.0, measured: 10_000, data: None };
        assert!(link_speed.counts(10_000) && link_speed.counts(10_000 + 3_599_999));
        assert!(!link_speed.counts(10_000 + 3_600_000) && !link_speed.counts(9_999));
    }
}
