//! The health record of a host, shared between hook processes: its last status, and failures to reach it.
//!
//! The record (see `record`) is `health.json` in the host's state directory.
//!
//! After a failure the host is skipped for a back-off that doubles with each further failure. If several processes meet
//! the same failure, it counts once: a failure during a back-off belongs to an attempt that began before it. A process
//! that is about to probe a host takes the lock `probe.lock` and records the time first ([`Health::probe_started`]). So
//! one process at a time probes a host, and the others wait for its result. If the process ends during the probe, the
//! recorded time starts a back-off.
//!
//! A probe that was started and has no result counts as a failure of the host. A healthy host responds within a
//! fraction of a second, so a process that ends during a probe has nearly always been probing a silent host. Such an
//! end is usual: another machine took its build, or its daemon killed it because the request was answered or the client
//! had gone. If the start did not count, a silent host would cost a contact every ten seconds, indefinitely. A healthy
//! host that was probed at a bad moment is skipped for the first back-off, and the next probe clears the failure.
//!
//! An SSH server that has temporarily banned this machine is skipped for at least [`BAN_MIN`].
//!
//! Times are those of the wall clock, which may jump. Times in the future are ignored: a clock that is set back ends
//! freshness and back-off, and costs one probe of the host.

use std::fs::File;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::json_record::JsonRecord;
use super::lock::try_lock;
use super::{StateDirectory, StateError};
use crate::events::pool::{PoolEvent, PoolEventKind};
use crate::machine::{Machine, label};
use crate::status::MachineStatus;

/// How old a status may be for a decision. An older one is probed again.
pub const STATUS_TTL: Duration = Duration::from_secs(30);

/// The back-off after a first failure.
pub const BACK_OFF_MIN: Duration = Duration::from_secs(10);
/// The longest back-off.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(300);

/// The shortest time for which OpenSSH bans an address: `min` of `PerSourcePenalties`, 15 s by default. The server does
/// not report the time that is left. If a ban lasts longer, the back-off grows as after any other failure.
pub const BAN_MIN: Duration = Duration::from_secs(15);

/// The longest error message that is stored, in characters.
const MAX_MESSAGE: usize = 1000;

/// Milliseconds since 1970.
pub type Time = u64;

/// Returns the time now.
pub fn now() -> Time {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as Time)
}

/// The health of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Its status at the last successful probe.
    pub status: Option<MachineStatus>,
    /// When that probe was.
    pub measured: Option<Time>,
    /// Failures since then.
    pub failures: Option<Failures>,
    /// When a running probe began; `None` if no probe is running.
    pub probing_since: Option<Time>,
}

/// Consecutive failures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failures {
    /// When the first of them was.
    pub since: Time,
    /// When the last of them was.
    pub last: Time,
    /// The number of consecutive failures. Failures during a back-off are not counted.
    pub count: u32,
    /// The message of the last one.
    pub error: String,
    /// Whether the last one was a ban.
    #[serde(default)]
    pub is_ban: bool,
    /// Whether there was an event about it ([`HealthRecord::change`]).
    #[serde(default)]
    pub is_announced: bool,
}

/// The availability of a host at some moment.
#[derive(Clone, Debug, PartialEq)]
pub enum Availability {
    /// It can be chosen on its record alone.
    Fresh,
    /// It must be probed first: it was never probed, or its status is too old. `after_failure`: the last event was a
    /// failure, and its back-off has ended.
    Unknown { after_failure: bool },
    /// A process probes it, or has ended during the probe.
    Probing { since: Time },
    /// It is skipped until `until`, because of this failure.
    BackingOff { error: String, until: Time },
}

/// Returns the back-off after `count` failures.
fn back_off(count: u32) -> Duration {
    let doublings = count.saturating_sub(1).min(16);
    (BACK_OFF_MIN * (1 << doublings)).min(BACK_OFF_MAX)
}

/// Returns whether `now` is less than `time` after `then`, and not before it.
fn is_within(time: Duration, then: Time, now: Time) -> bool {
    now.checked_sub(then).is_some_and(|since| since < time.as_millis() as Time)
}

impl Failures {
    /// Returns the back-off after the last failure.
    pub fn back_off(&self) -> Duration {
        let shortest = if self.is_ban { BAN_MIN } else { Duration::ZERO };
        back_off(self.count).max(shortest)
    }

    /// Returns whether the back-off has ended at `now`.
    pub fn is_over(&self, now: Time) -> bool {
        !is_within(self.back_off(), self.last, now)
    }
}

impl Health {
    /// Returns the age of the status at `now`, if there is one and it is not from the future.
    pub fn age(&self, now: Time) -> Option<Duration> {
        now.checked_sub(self.measured?).map(Duration::from_millis)
    }

    /// Returns the availability of the host at `now`.
    pub fn availability(&self, now: Time) -> Availability {
        if let Some(failures) = self.failures.as_ref().filter(|failures| !failures.is_over(now)) {
            let until = failures.last + failures.back_off().as_millis() as Time;
            return Availability::BackingOff { error: failures.error.clone(), until };
        }
        match &self.failures {
            None if self.is_status_fresh(now) && self.probing_since.is_none() => Availability::Fresh,
            failures => {
                match self.probing_since.filter(|&probing_since| is_within(self.next_back_off(), probing_since, now)) {
                    Some(since) => Availability::Probing { since },
                    None => Availability::Unknown { after_failure: failures.is_some() },
                }
            }
        }
    }

    fn is_status_fresh(&self, now: Time) -> bool {
        self.age(now).is_some_and(|age| age < STATUS_TTL)
    }

    /// Returns whether the host was chosen for a build on this record, and has not responded since.
    pub fn is_contact_pending(&self) -> bool {
        self.failures.is_none() && self.probing_since.is_some_and(|since| self.is_status_fresh(since))
    }

    /// Returns the record of a host that was chosen on this record and has not responded to the contact that began at
    /// `since`. If it never does, that counts as a failure, as a probe without a result does.
    pub fn contact_pending(self, since: Time) -> Health {
        let since = self.probing_since.map_or(since, |earlier| earlier.min(since));
        Health { probing_since: Some(since), ..self }
    }

    /// Returns the record of a host that has responded after all, or is not contacted any more.
    pub fn contact_ended(self) -> Health {
        if self.failures.is_some() { self } else { Health { probing_since: None, ..self } }
    }

    /// Returns the back-off that follows if the host fails now.
    fn next_back_off(&self) -> Duration {
        back_off(self.failures.as_ref().map_or(0, |failures| failures.count) + 1)
    }

    /// Returns the record of a host whose probe begins at `now`. An earlier probe without a result counts as a failure.
    pub fn probe_started(self, now: Time) -> Health {
        let before = match self.probing_since {
            Some(probing_since) if probing_since <= now => {
                self.after_failure("no response to the last probe", probing_since)
            }
            _ => self,
        };
        Health { probing_since: Some(now), ..before }
    }

    /// Returns the record of a host that was reached at `now` with this status.
    pub fn reached(status: MachineStatus, now: Time) -> Health {
        Health { status: Some(status), measured: Some(now), failures: None, probing_since: None }
    }

    /// Returns the record after the host could not be reached, or a build failed because of it.
    pub fn after_failure(self, error: &str, now: Time) -> Health {
        self.after(error, now, false)
    }

    /// Returns the record after its SSH server temporarily refused logins from this address.
    pub fn after_ban(self, error: &str, now: Time) -> Health {
        self.after(error, now, true)
    }

    /// Returns the record with another message about the last failure, such as that of a probe during a back-off, which
    /// counts as no new failure.
    pub fn with_error(mut self, error: &str) -> Health {
        if let Some(failures) = &mut self.failures {
            failures.error = error.chars().take(MAX_MESSAGE).collect();
        }
        self
    }

    fn after(self, error: &str, now: Time, is_ban: bool) -> Health {
        let error = error.chars().take(MAX_MESSAGE).collect();
        let failures = match self.failures {
            Some(failures) if !failures.is_over(now) => failures,
            Some(failures) => {
                let (since, count) = (failures.since.min(now), failures.count.saturating_add(1));
                Failures { since, last: now, count, error, is_ban, is_announced: failures.is_announced }
            }
            None => Failures { since: now, last: now, count: 1, error, is_ban, is_announced: false },
        };
        Health { failures: Some(failures), probing_since: None, ..self }
    }
}

/// The record of one host.
#[derive(Clone, Debug)]
pub struct HealthRecord {
    record: JsonRecord<Health>,
    machine: String,
    state: StateDirectory,
}

/// The lock for probing a host.
#[derive(Debug)]
pub struct ProbeLock {
    _file: File,
}

impl HealthRecord {
    /// Returns the record of the host that `machine` describes.
    pub fn of(state: &StateDirectory, machine: &Machine) -> Result<HealthRecord, StateError> {
        let machine_label = label(&machine.name, machine.port);
        let record = JsonRecord::of(state, machine, "health")?;
        Ok(HealthRecord { record, machine: machine_label, state: state.clone() })
    }

    /// Reads the record. A missing or invalid record is an empty one.
    pub fn read(&self) -> Health {
        self.record.read().unwrap_or_default()
    }

    /// Replaces the record by the result of `change`. There is an event if the host has gone down or has come up.
    ///
    /// A probe that has begun after one without a result tells nothing yet: most often the earlier process has just ended.
    pub fn change(&self, change: impl FnOnce(Health) -> Health) -> Result<(), StateError> {
        let mut event = None;
        self.record.change(|before| {
            let before = before.unwrap_or_default();
            let was_announced = before.failures.as_ref().is_some_and(|failures| failures.is_announced);
            let mut after = change(before);
            let probing = after.probing_since.is_some();
            let about = |kind| PoolEvent::of_machine(kind, now(), self.machine.clone());
            match &mut after.failures {
                None if was_announced => event = Some(about(PoolEventKind::MachineUp)),
                Some(failures) if !failures.is_announced && !probing => {
                    failures.is_announced = true;
                    event = Some(about(PoolEventKind::MachineDown).because(&failures.error));
                }
                _ => {}
            }
            after
        })?;
        event.iter().for_each(|event| self.state.announce(event));
        Ok(())
    }

    /// Takes the lock for probing the host; `None` while another process holds it.
    pub fn try_probe_lock(&self) -> Result<Option<ProbeLock>, StateError> {
        Ok(try_lock(&self.record.path().with_file_name("probe.lock"))?.map(|file| ProbeLock { _file: file }))
    }
}

#[cfg(test)]
mod tests;
