//! What is known about the substitute servers of a host: how fast its daemon fetches, and whether they fail.
//!
//! The record (see `record`) is `substitutes.json` in the host's state directory. After a failure no build has the host
//! fetch for a back-off that doubles with each further failure. A fetch that works ends it. Times in the future are
//! ignored, as in [`health`](super::health).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::health::Time;
use super::json_record::JsonRecord;
use super::throughput::THROUGHPUT_TTL;
use super::{StateDirectory, StateError};
use crate::machine::Machine;

/// The back-off after a first failure of the servers.
pub const FETCH_BACK_OFF_MIN: Duration = Duration::from_secs(60);
/// The longest back-off.
pub const FETCH_BACK_OFF_MAX: Duration = Duration::from_secs(1800);

/// The longest cause that is stored, in characters.
const MAX_CAUSE: usize = 500;

/// What is known about the substitute servers of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SubstituteServers {
    pub rate: Option<FetchRate>,
    pub failures: Option<FetchFailures>,
}

/// How fast the host fetched last.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FetchRate {
    /// Bytes of nars per second.
    pub rate: f64,
    pub measured: Time,
}

/// Consecutive failures to fetch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FetchFailures {
    /// When the last of them was.
    pub last: Time,
    pub count: u32,
    /// The message of the last one.
    pub cause: String,
}

impl FetchFailures {
    /// Returns the back-off after the last failure.
    pub fn back_off(&self) -> Duration {
        let doublings = self.count.saturating_sub(1).min(16);
        (FETCH_BACK_OFF_MIN * (1 << doublings)).min(FETCH_BACK_OFF_MAX)
    }

    /// Returns the time that is left of the back-off at `now`; `None` if it has ended.
    pub fn time_left(&self, now: Time) -> Option<Duration> {
        let since = Duration::from_millis(now.checked_sub(self.last)?);
        self.back_off().checked_sub(since).filter(|left| !left.is_zero())
    }
}

impl SubstituteServers {
    /// Returns the failures because of which the host does not fetch at `now`.
    pub fn backing_off(&self, now: Time) -> Option<&FetchFailures> {
        self.failures.as_ref().filter(|failures| failures.time_left(now).is_some())
    }

    /// Returns the bytes per second of the last fetch, if that was within the last hour.
    pub fn rate(&self, now: Time) -> Option<f64> {
        let is_valid = |rate: &FetchRate| {
            now.checked_sub(rate.measured).is_some_and(|age| age < THROUGHPUT_TTL.as_millis() as Time)
        };
        self.rate.filter(is_valid).map(|rate| rate.rate)
    }

    /// Returns the record after a fetch that worked.
    pub fn fetched(bytes: u64, time: Duration, now: Time) -> SubstituteServers {
        let rate = bytes as f64 / time.as_secs_f64().max(1e-3);
        SubstituteServers { rate: Some(FetchRate { rate, measured: now }), failures: None }
    }

    /// Returns the record after a failure. Failures during a back-off belong to fetches that began before it.
    pub fn failed(self, cause: &str, now: Time) -> SubstituteServers {
        let count = match &self.failures {
            Some(failures) if failures.time_left(now).is_some() => return self,
            Some(failures) => failures.count.saturating_add(1),
            None => 1,
        };
        let cause = cause.chars().take(MAX_CAUSE).collect();
        SubstituteServers { failures: Some(FetchFailures { last: now, count, cause }), ..self }
    }
}

/// The record of one host.
#[derive(Clone, Debug)]
pub struct SubstituteRecord(JsonRecord<SubstituteServers>);

impl SubstituteRecord {
    /// Returns the record of the host that `machine` describes.
    pub fn of(state: &StateDirectory, machine: &Machine) -> Result<SubstituteRecord, StateError> {
        Ok(SubstituteRecord(JsonRecord::of(state, machine, "substitutes")?))
    }

    /// Reads the record. A missing or invalid record is an empty one.
    pub fn read(&self) -> SubstituteServers {
        self.0.read().unwrap_or_default()
    }

    /// Replaces the record by the result of `change`.
    pub fn change(&self, change: impl FnOnce(SubstituteServers) -> SubstituteServers) -> Result<(), StateError> {
        self.0.change(|servers| change(servers.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Time = 1000;

    #[test]
    fn each_failure_doubles_the_back_off_and_one_success_ends_it() {
        let mut servers = SubstituteServers::default();
        let mut now = 10_000_000;
        for seconds in [60, 120, 240, 480, 960, 1800, 1800] {
            servers = servers.failed("no", now);
            assert!(servers.backing_off(now + (seconds - 1) * SECOND).is_some(), "{seconds}");
            // One that was under way.
            assert_eq!(servers.clone().failed("other", now + 5), servers);
            now += seconds * SECOND;
            assert!(servers.backing_off(now).is_none(), "{seconds}");
        }
        assert!(servers.backing_off(now - 10_000_000).is_none(), "the clock was set back");
        assert_eq!(SubstituteServers::fetched(10, Duration::from_secs(2), now).failures, None);
    }

    #[test]
    fn a_rate_is_valid_for_an_hour_and_survives_failures() {
        let servers = SubstituteServers::fetched(4000, Duration::from_secs(2), 50_000);
        assert_eq!((servers.rate(50_000 + 3_599_999), servers.rate(50_000 + 3_600_000)), (Some(2000.0), None));
        assert_eq!((servers.rate(49_999), servers.failed("no", 60_000).rate(60_000)), (None, Some(2000.0)));
    }

    #[test]
    fn an_invalid_record_is_empty_and_a_cause_is_cut() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        let record = SubstituteRecord::of(&StateDirectory::new(directory.path()), &machine).unwrap();
        assert_eq!(record.read(), SubstituteServers::default());
        record.change(|servers| servers.failed(&"x".repeat(10_000), 7)).unwrap();
        assert_eq!(record.read().failures.unwrap().cause.len(), 500);
        std::fs::write(record.0.path(), "[]").unwrap();
        assert_eq!(record.read(), SubstituteServers::default());
    }
}
