//! What is remembered of a host between hook processes: its last status, and trouble in reaching it.
//!
//! The record is `health.json` in the host's state directory, replaced as a whole by rename, so that a reader never sees
//! half of it and a killed writer leaves the old one. When two processes write at the same time the later one wins;
//! both then tell the truth about the same host.
//!
//! After a failure the host is left alone for a back-off that doubles with each further failure. When it ends, one process
//! may try the host (the lock `trial`); for the others it stays down until that trial has ended. A record from the
//! future, which a clock set back leaves behind, counts as too old.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::slots::try_lock;
use super::{StateDirectory, StateError};
use crate::machine::Machine;
use crate::status::Status;

/// How long a status is good enough to decide on, without asking the machine again.
pub const FRESH: Duration = Duration::from_secs(30);

/// The back-off after a first failure, and the longest one.
pub const FIRST_BACK_OFF: Duration = Duration::from_secs(10);
pub const LONGEST_BACK_OFF: Duration = Duration::from_secs(300);

/// More than any record.
const MAX_RECORD: u64 = 64 * 1024;

/// Milliseconds since 1970.
pub type Time = u64;

/// The time now.
pub fn now() -> Time {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as Time)
}

/// What is remembered of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Its status when it was last asked.
    pub status: Option<Status>,
    /// When that was.
    pub measured: Option<Time>,
    /// Failures since then.
    pub trouble: Option<Trouble>,
}

/// Failures in a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trouble {
    /// When the first of them was.
    pub since: Time,
    /// When the last of them was.
    pub last: Time,
    /// How many there were.
    pub count: u32,
    /// What the last one was.
    pub error: String,
}

impl Trouble {
    /// How long the host is left alone after the last failure.
    pub fn back_off(&self) -> Duration {
        let doublings = self.count.saturating_sub(1).min(16);
        (FIRST_BACK_OFF * (1 << doublings)).min(LONGEST_BACK_OFF)
    }

    /// Whether the back-off is over at `now`.
    pub fn is_over(&self, now: Time) -> bool {
        now < self.last || now >= self.last + self.back_off().as_millis() as Time
    }
}

impl Health {
    /// Age of the status at `now`, if there is one and it does not come from the future.
    pub fn age(&self, now: Time) -> Option<Duration> {
        now.checked_sub(self.measured?).map(Duration::from_millis)
    }

    /// Whether the machine can be chosen on this record alone.
    pub fn is_fresh(&self, now: Time) -> bool {
        self.trouble.is_none() && self.age(now).is_some_and(|age| age < FRESH)
    }

    /// The record of a host that was reached at `now`, and found in this state.
    pub fn reached(status: Status, now: Time) -> Health {
        Health { status: Some(status), measured: Some(now), trouble: None }
    }

    /// The record after the host could not be reached, or let a build down.
    pub fn after_failure(self, error: &str, now: Time) -> Health {
        let (since, count) = match &self.trouble {
            Some(trouble) => (trouble.since.min(now), trouble.count.saturating_add(1)),
            None => (now, 1),
        };
        let error = error.chars().take(1000).collect();
        Health { trouble: Some(Trouble { since, last: now, count, error }), ..self }
    }
}

/// The record of one host.
#[derive(Clone, Debug)]
pub struct HealthRecord {
    directory: PathBuf,
}

/// The right to try a host whose back-off has ended.
#[derive(Debug)]
pub struct Trial {
    _file: File,
}

impl HealthRecord {
    /// The record of the host that `machine` describes.
    pub fn of(state: &StateDirectory, machine: &Machine) -> Result<HealthRecord, StateError> {
        Ok(HealthRecord { directory: state.of(machine)? })
    }

    /// What is remembered; nothing, where there is no record or it makes no sense.
    pub fn read(&self) -> Health {
        let mut text = Vec::new();
        match File::open(self.path()).and_then(|file| file.take(MAX_RECORD).read_to_end(&mut text)) {
            Ok(_) => serde_json::from_slice(&text).unwrap_or_default(),
            Err(_) => Health::default(),
        }
    }

    /// Replaces the record.
    pub fn write(&self, health: &Health) -> Result<(), StateError> {
        let path = self.path();
        let failed = |cause| StateError { path: path.clone(), cause };
        let text = serde_json::to_vec(health).map_err(|error| failed(error.into()))?;
        let new = self.directory.join(format!("health.{}.new", std::process::id()));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&new).and_then(|mut file| file.write_all(&text)).map_err(failed)?;
        fs::rename(&new, &path).map_err(failed)
    }

    /// Takes the right to try the host; `None` while another process has it.
    pub fn try_trial(&self) -> Result<Option<Trial>, StateError> {
        Ok(try_lock(&self.directory.join("trial"))?.map(|file| Trial { _file: file }))
    }

    fn path(&self) -> PathBuf {
        self.directory.join("health.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Time {
        1_000_000 + count * 1000
    }

    #[test]
    fn back_off_doubles_and_is_bounded() {
        let mut health = Health::default();
        let mut waits = Vec::new();
        for _ in 0..8 {
            health = health.after_failure("refused", seconds(0));
            waits.push(health.trouble.as_ref().unwrap().back_off().as_secs());
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300, 300]);
        let trouble = health.trouble.unwrap();
        assert!(!trouble.is_over(seconds(299)));
        assert!(trouble.is_over(seconds(300)));
    }

    #[test]
    fn a_clock_set_back_ends_back_off_and_freshness() {
        let health = Health::reached(Status::default(), seconds(100));
        assert!(health.is_fresh(seconds(101)));
        assert!(!health.is_fresh(seconds(131)));
        assert!(!health.is_fresh(seconds(99)));
        let trouble = health.after_failure("refused", seconds(100)).trouble.unwrap();
        assert!(!trouble.is_over(seconds(101)));
        assert!(trouble.is_over(seconds(99)));
    }

    #[test]
    fn trouble_counts_up_and_keeps_the_status() {
        let status = Status { cores: Some(4), ..Status::default() };
        let health = Health::reached(status.clone(), seconds(0))
            .after_failure("refused", seconds(1))
            .after_failure("timed out", seconds(20));
        assert_eq!(
            health.trouble.as_ref().map(|t| (t.since, t.count, t.error.as_str())),
            Some((seconds(1), 2, "timed out"))
        );
        assert_eq!(health.status, Some(status));
        assert!(!health.is_fresh(seconds(21)));
    }

    #[test]
    fn records_survive_and_rubbish_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        let record = HealthRecord::of(&StateDirectory::new(directory.path()), &machine).unwrap();
        assert_eq!(record.read(), Health::default());
        let health = Health::default().after_failure("refused", seconds(0));
        record.write(&health).unwrap();
        assert_eq!(record.read(), health);
        for rubbish in [&b"{"[..], b"[]", b"{\"trouble\":7}", &[b' '; 100_000]] {
            fs::write(record.path(), rubbish).unwrap();
            assert_eq!(record.read(), Health::default());
        }
    }

    #[test]
    fn one_trial_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        let record = HealthRecord::of(&StateDirectory::new(directory.path()), &machine).unwrap();
        let trial = record.try_trial().unwrap().unwrap();
        assert!(record.try_trial().unwrap().is_none());
        drop(trial);
        assert!(record.try_trial().unwrap().is_some());
    }
}
