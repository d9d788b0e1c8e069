//! What is remembered of a host between hook processes: its last status, and trouble in reaching it.
//!
//! The record (see `record`) is `health.json` in the host's state directory.
//!
//! After a failure the host is left alone for a back-off that doubles with each further one. Several processes that run
//! into the same trouble count once: what fails during a back-off was begun before it. Whoever is about to ask a host
//! how it is holds the lock `probe.lock` and notes the time first ([`Health::probe_started`]). So a host is asked by one process
//! at a time, the others wait for what that one learns, and one that ends while it asks has still begun a back-off.
//!
//! Such a mark without an answer counts as a failure of the host. A host that is well answers within a fraction of a
//! second, so a process that ends while it asks has nearly always been asking one that does not: its build was done
//! elsewhere, or its daemon killed it because the request was answered or the client had gone, all of which is usual.
//! Were the mark not to count, a silent host would cost a contact every ten seconds for ever. A host that is well and
//! was asked at a bad moment is left alone for the first back-off, and the answer to the next question ends the matter.
//!
//! An SSH server that has banned this machine for a while is left alone for [`BAN_MIN`] at the least.
//!
//! Times are those of the wall clock, which may jump. What a record says of the future counts for nothing: a clock set
//! back ends freshness and back-off, and costs one question to the host.

use std::fs::File;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::lock::try_lock;
use super::record::Record;
use super::{StateDirectory, StateError};
use crate::machine::Machine;
use crate::status::MachineStatus;

/// How old a status may be for a decision. An older one is probed again.
pub const STATUS_TTL: Duration = Duration::from_secs(30);

/// The back-off after a first failure.
pub const BACK_OFF_MIN: Duration = Duration::from_secs(10);
/// The longest back-off.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(300);

/// The shortest time for which OpenSSH bans an address: `min` of `PerSourcePenalties`, 15 s by default. It says nothing
/// of the time that is left. When a ban goes on, the back-off grows as after any other failure.
pub const BAN_MIN: Duration = Duration::from_secs(15);

/// The longest message that is kept, in characters.
const MAX_MESSAGE: usize = 1000;

/// Milliseconds since 1970.
pub type Time = u64;

/// The time now.
pub fn now() -> Time {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as Time)
}

/// What is remembered of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Its status when it was last asked.
    pub status: Option<MachineStatus>,
    /// When that was.
    pub measured: Option<Time>,
    /// Failures since then.
    pub failures: Option<Failures>,
    /// When a process began to ask it, if that has not come to an end.
    pub probing_since: Option<Time>,
}

/// Failures in a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failures {
    /// When the first of them was.
    pub since: Time,
    /// When the last of them was.
    pub last: Time,
    /// How many there were, each at the end of a back-off.
    pub count: u32,
    /// What the last one was.
    pub error: String,
    /// Whether it was a ban.
    #[serde(default)]
    pub is_ban: bool,
}

/// How a host stands at some moment.
#[derive(Clone, Debug, PartialEq)]
pub enum Availability {
    /// It can be chosen on its record alone.
    Fresh,
    /// It has to be asked: never seen, or not for a while. `after_failure`: the last thing known is a failure, and its
    /// back-off is over.
    Unknown { after_failure: bool },
    /// Some process asks it, or did and has not lived to tell.
    Probing { since: Time },
    /// It is left alone, for this reason.
    BackingOff { error: String, until: Time },
}

/// How long a host is left alone after the last of so many failures.
fn back_off(count: u32) -> Duration {
    let doublings = count.saturating_sub(1).min(16);
    (BACK_OFF_MIN * (1 << doublings)).min(BACK_OFF_MAX)
}

/// Whether `now` is less than `time` after `then`, and not before it.
fn is_within(time: Duration, then: Time, now: Time) -> bool {
    now.checked_sub(then).is_some_and(|since| since < time.as_millis() as Time)
}

impl Failures {
    /// How long the host is left alone after the last failure.
    pub fn back_off(&self) -> Duration {
        let shortest = if self.is_ban { BAN_MIN } else { Duration::ZERO };
        back_off(self.count).max(shortest)
    }

    /// Whether the back-off is over at `now`.
    pub fn is_over(&self, now: Time) -> bool {
        !is_within(self.back_off(), self.last, now)
    }
}

impl Health {
    /// Age of the status at `now`, if there is one and it does not come from the future.
    pub fn age(&self, now: Time) -> Option<Duration> {
        now.checked_sub(self.measured?).map(Duration::from_millis)
    }

    /// How the host stands at `now`.
    pub fn availability(&self, now: Time) -> Availability {
        if let Some(failures) = self.failures.as_ref().filter(|failures| !failures.is_over(now)) {
            let until = failures.last + failures.back_off().as_millis() as Time;
            return Availability::BackingOff { error: failures.error.clone(), until };
        }
        match &self.failures {
            None if self.age(now).is_some_and(|age| age < STATUS_TTL) => Availability::Fresh,
            failures => {
                match self.probing_since.filter(|&probing_since| is_within(self.next_back_off(), probing_since, now)) {
                    Some(since) => Availability::Probing { since },
                    None => Availability::Unknown { after_failure: failures.is_some() },
                }
            }
        }
    }

    /// What the back-off will be if the host fails now.
    fn next_back_off(&self) -> Duration {
        back_off(self.failures.as_ref().map_or(0, |failures| failures.count) + 1)
    }

    /// The record of a host that is about to be asked at `now`. One that was asked before, and by a process that told
    /// nothing of it, has failed.
    pub fn probe_started(self, now: Time) -> Health {
        let before = match self.probing_since {
            Some(probing_since) if probing_since <= now => {
                self.after_failure("no answer when it was last asked", probing_since)
            }
            _ => self,
        };
        Health { probing_since: Some(now), ..before }
    }

    /// The record of a host that was reached at `now`, and found in this state.
    pub fn reached(status: MachineStatus, now: Time) -> Health {
        Health { status: Some(status), measured: Some(now), failures: None, probing_since: None }
    }

    /// The record after the host could not be reached, or let a build down.
    pub fn after_failure(self, error: &str, now: Time) -> Health {
        self.after(error, now, false)
    }

    /// The record after its SSH server said that it lets nobody in from here for a while.
    pub fn after_ban(self, error: &str, now: Time) -> Health {
        self.after(error, now, true)
    }

    fn after(self, error: &str, now: Time, is_ban: bool) -> Health {
        let error = error.chars().take(MAX_MESSAGE).collect();
        let failures = match self.failures {
            Some(failures) if !failures.is_over(now) => failures,
            Some(failures) => {
                let (since, count) = (failures.since.min(now), failures.count.saturating_add(1));
                Failures { since, last: now, count, error, is_ban }
            }
            None => Failures { since: now, last: now, count: 1, error, is_ban },
        };
        Health { failures: Some(failures), probing_since: None, ..self }
    }
}

/// The record of one host.
#[derive(Clone, Debug)]
pub struct HealthRecord(Record<Health>);

/// The right to ask a host how it is.
#[derive(Debug)]
pub struct ProbeLock {
    _file: File,
}

impl HealthRecord {
    /// The record of the host that `machine` describes.
    pub fn of(state: &StateDirectory, machine: &Machine) -> Result<HealthRecord, StateError> {
        Ok(HealthRecord(Record::of(state, machine, "health")?))
    }

    /// What is remembered; nothing, where there is no record or it makes no sense.
    pub fn read(&self) -> Health {
        self.0.read().unwrap_or_default()
    }

    /// Replaces what is remembered by what `change` makes of it.
    pub fn change(&self, change: impl FnOnce(Health) -> Health) -> Result<(), StateError> {
        self.0.change(|health| change(health.unwrap_or_default()))
    }

    /// Takes the right to ask the host; `None` while another process has it.
    pub fn try_probe_lock(&self) -> Result<Option<ProbeLock>, StateError> {
        Ok(try_lock(&self.0.path().with_file_name("probe.lock"))?.map(|file| ProbeLock { _file: file }))
    }
}

#[cfg(test)]
mod tests;
