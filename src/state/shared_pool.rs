//! What this head knows of the pool that it shares with others: its own name there, the other heads, an outage of the
//! database, and drained machines.
//!
//! The record is `shared.json` in the directory of all state. An outage counts for the URL and the name that it was met
//! with, so a corrected machine file takes effect at once. While it lasts, no process tries to connect, except one for each
//! [`RETRY_INTERVAL`]: the one that has the lock `shared-retry.lock`. It pays the time limit of a connection, and the
//! others pay nothing.

use std::fs::File;
use std::time::Duration;

use rustix::system::uname;
use serde::{Deserialize, Serialize};

use super::health::Time;
use super::json_record::JsonRecord;
use super::lock::try_lock;
use super::{Drained, StateDirectory, StateError};
use crate::machine::SharedPool;

/// How long no process tries to connect after a failure.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(15);

/// How long the list of drained machines is valid, unless a build renews it. After that, the database decides when a slot
/// is taken. During an outage, the last list is valid.
const DRAINS_TTL: Duration = Duration::from_secs(20);

/// The name of a head in the database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadName {
    /// It never changes, and no other state directory has it.
    pub id: String,
    /// The host name, for people.
    pub name: String,
}

/// An outage of the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    pub since: Time,
    /// When the next process may try to connect.
    pub retry_at: Time,
    pub error: String,
}

/// A machine that some head has drained for all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedDrain {
    /// `NAME:PORT`.
    pub host: String,
    /// The name of the head.
    pub head: String,
    pub since: Time,
    pub until: Option<Time>,
}

/// The record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Known {
    head: Option<HeadName>,
    /// The URL and the name of the pool that the rest is about.
    pool: String,
    /// The number of heads that were last seen; this one counts.
    pub heads: u32,
    pub outage: Option<Outage>,
    pub drains: Vec<SharedDrain>,
    /// When the drains were read.
    drains_read: Time,
}

impl Known {
    /// Returns whether no process may try to connect at `now`.
    pub fn is_down(&self, now: Time) -> bool {
        let lasts = |outage: &Outage| now < outage.retry_at && outage.since <= now;
        self.outage.as_ref().is_some_and(lasts)
    }

    /// Returns the drain of a host by another head, or by this one.
    pub fn drained(&self, host: &str, now: Time) -> Option<Drained> {
        // A process that may try again takes the host for undrained, and hears from the database what is right.
        let is_valid = self.is_down(now) || now.abs_diff(self.drains_read) < DRAINS_TTL.as_millis() as Time;
        if is_valid { self.listed(host, now) } else { None }
    }

    /// Returns whether a host was drained when the database was last asked, if there is an outage.
    pub fn drained_before_outage(&self, host: &str, now: Time) -> bool {
        self.outage.is_some() && self.listed(host, now).is_some()
    }

    fn listed(&self, host: &str, now: Time) -> Option<Drained> {
        let drain = self.drains.iter().find(|drain| drain.host == host)?;
        let drained = Drained { since: drain.since, until: drain.until };
        drained.until.is_none_or(|until| now < until).then_some(drained)
    }
}

/// The record of a shared pool.
#[derive(Clone, Debug)]
pub struct SharedRecord {
    record: JsonRecord<Known>,
    pool: String,
}

/// The right to try to connect although there is an outage.
#[derive(Debug)]
pub struct RetryLock(#[allow(dead_code, reason = "it holds the lock")] File);

impl SharedRecord {
    /// Returns the record about this pool.
    pub fn of(state: &StateDirectory, shared: &SharedPool) -> Result<SharedRecord, StateError> {
        let pool = format!("{} {}", shared.url, shared.name);
        Ok(SharedRecord { record: JsonRecord::shared(state, "shared")?, pool })
    }

    /// Reads what is known of this pool.
    pub fn read(&self) -> Known {
        self.about_this_pool(self.record.read())
    }

    /// Returns the name of this head, which is made if there is none.
    pub fn head(&self) -> Result<HeadName, StateError> {
        let name = uname().nodename().to_string_lossy().into_owned();
        if let Some(head) = self.record.read().and_then(|known| known.head).filter(|head| head.name == name) {
            return Ok(head);
        }
        let mut made = HeadName::default();
        self.change(|known| {
            let id = known.head.take().map_or_else(new_id, |head| head.id);
            made = HeadName { id, name };
            known.head = Some(made.clone());
        })?;
        Ok(made)
    }

    /// Changes what is known of this pool.
    pub fn change(&self, change: impl FnOnce(&mut Known)) -> Result<(), StateError> {
        self.record.change(|known| {
            let mut known = self.about_this_pool(known);
            change(&mut known);
            known
        })
    }

    /// Records an outage. Returns whether it is new.
    pub fn record_outage(&self, error: &str, now: Time) -> Result<bool, StateError> {
        let mut is_new = false;
        self.change(|known| {
            let before = known.outage.take().filter(|outage| outage.since <= now);
            is_new = before.is_none();
            let since = before.map_or(now, |outage| outage.since);
            let retry_at = now + RETRY_INTERVAL.as_millis() as Time;
            known.outage = Some(Outage { since, retry_at, error: error.to_owned() });
        })?;
        Ok(is_new)
    }

    /// Records the end of an outage. Returns whether there was one.
    pub fn end_outage(&self) -> Result<bool, StateError> {
        let mut was_down = false;
        self.change(|known| was_down = known.outage.take().is_some())?;
        Ok(was_down)
    }

    /// Records the drained machines.
    pub fn record_drains(&self, drains: Vec<SharedDrain>, now: Time) -> Result<(), StateError> {
        let known = self.read();
        let is_recent = now.abs_diff(known.drains_read) < DRAINS_TTL.as_millis() as Time / 4;
        if known.drains == drains && is_recent {
            return Ok(());
        }
        self.change(|known| (known.drains, known.drains_read) = (drains, now))
    }

    /// Takes the right to try to connect; `None` while another process tries.
    pub fn try_retry_lock(&self) -> Result<Option<RetryLock>, StateError> {
        Ok(try_lock(&self.record.path().with_file_name("shared-retry.lock"))?.map(RetryLock))
    }

    fn about_this_pool(&self, known: Option<Known>) -> Known {
        let known = known.unwrap_or_default();
        match known.pool == self.pool {
            true => known,
            false => Known { head: known.head, pool: self.pool.clone(), ..Known::default() },
        }
    }
}

/// Returns a name that no other head has.
fn new_id() -> String {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    uuid.chars().filter(char::is_ascii_hexdigit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(directory: &tempfile::TempDir, name: &str) -> SharedRecord {
        let shared = SharedPool { url: "postgresql://db/x".into(), name: name.into(), ..SharedPool::default() };
        SharedRecord::of(&StateDirectory::new(directory.path()), &shared).unwrap()
    }

    #[test]
    fn an_outage_spares_later_processes_and_is_reported_once() {
        let directory = tempfile::tempdir().unwrap();
        let (farm, other) = (record(&directory, "farm"), record(&directory, "other"));
        assert!(!farm.read().is_down(1));
        assert!(farm.record_outage("silent", 1_000).unwrap());
        assert!(farm.read().is_down(1_000) && farm.read().is_down(15_999));
        assert!(!farm.read().is_down(16_000) && !farm.read().is_down(999));
        assert!(!farm.record_outage("silent", 16_000).unwrap());
        assert_eq!(farm.read().outage.unwrap().since, 1_000);
        // Another pool has not failed.
        assert!(!other.read().is_down(16_001));
        assert!(farm.end_outage().unwrap() && !farm.end_outage().unwrap());
        // One process at a time tries again.
        let lock = farm.try_retry_lock().unwrap();
        assert!(lock.is_some() && farm.try_retry_lock().unwrap().is_none());
    }

    #[test]
    fn a_head_keeps_its_name_whatever_the_pool() {
        let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let head = record(&one, "farm").head().unwrap();
        assert_eq!(head.id.len(), 32);
        record(&one, "other").change(|known| known.heads = 2).unwrap();
        assert_eq!(record(&one, "other").head().unwrap(), head);
        assert_ne!(record(&two, "farm").head().unwrap().id, head.id);
    }

    #[test]
    fn drains_count_until_their_end_and_while_they_are_known() {
        let directory = tempfile::tempdir().unwrap();
        let record = record(&directory, "farm");
        let drain = |host: &str, until| SharedDrain { host: host.into(), head: "h".into(), since: 5, until };
        record.record_drains(vec![drain("b1:22", None), drain("b2:22", Some(90))], 10).unwrap();
        let drained = |host, now| record.read().drained(host, now).is_some();
        assert!(drained("b1:22", 80) && drained("b2:22", 80) && !drained("b3:22", 80));
        assert!(!drained("b2:22", 90) && !drained("b1:22", 10 + 20_000));
        // During an outage, nobody can say that they are undrained.
        record.record_outage("silent", 900_000).unwrap();
        assert!(drained("b1:22", 900_001) && !drained("b2:22", 900_001));
        // A process that is to try again looks at it, and finds the list again if the attempt fails.
        assert!(!drained("b1:22", 916_000) && record.read().drained_before_outage("b1:22", 916_000));
        record.end_outage().unwrap();
        assert!(!record.read().drained_before_outage("b1:22", 916_000));
    }
}
