//! Whether a machine on demand runs.
//!
//! The record is `power.json` in the host's state directory. The process that starts or stops the machine holds the lock
//! of `power-change.lock` meanwhile. A machine without a record is off. If the record says that a machine is starting or
//! stopping and no process holds the lock, that process was killed: whether the machine runs is unknown, and it must be
//! stopped before it is started again.

use std::borrow::Cow;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::health::Time;
use super::json_record::JsonRecord;
use super::lock::{contents, is_locked, lock_briefly, try_lock};
use super::{StateDirectory, StateError};
use crate::machine::{Machine, PoolLimits, StartedAs};
use crate::permissions::files;

/// The number of boots whose durations are remembered.
const MAX_BOOTS: usize = 10;

/// The number of times of running that are remembered.
const MAX_TIMES: usize = 500;

/// The span that `max_hours` is counted in, in milliseconds.
pub const HOURS_SPAN: Time = 24 * 3_600_000;

/// The shortest time after a failed start before the next one, in milliseconds. It doubles with each failure.
const BACK_OFF_MIN: Time = 30_000;
/// The longest such time, in milliseconds.
const BACK_OFF_MAX: Time = 1_800_000;

/// The last known step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    #[default]
    Off,
    Starting,
    Running,
    Stopping,
}

/// The record of a machine on demand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Power {
    pub phase: Phase,
    /// When this phase began.
    pub since: Time,
    /// When the machine was started, if it is not off.
    pub started: Time,
    /// When a build on it was last seen.
    pub used: Time,
    /// The fields that `start` has returned, until the machine is off.
    pub started_as: StartedAs,
    /// Why the last start or stop has failed.
    pub error: Option<String>,
    /// How many starts in a row have failed.
    pub failures: u32,
    /// When the last of them has failed.
    pub failed: Time,
    /// How long the last boots have taken, in milliseconds, the latest last.
    pub boots: Vec<Time>,
    /// The times from start to stop within [`HOURS_SPAN`], the latest last.
    pub ran: Vec<(Time, Time)>,
}

impl Power {
    /// Begins `phase` at `now`.
    pub fn enter(&mut self, phase: Phase, now: Time) {
        (self.phase, self.since) = (phase, now);
    }

    /// Records that a start begins.
    pub fn starting(&mut self, now: Time) {
        self.enter(Phase::Starting, now);
        (self.started, self.used) = (now, now);
    }

    /// Records that the machine has responded.
    pub fn running(&mut self, now: Time) {
        if self.phase == Phase::Starting {
            self.boots.push(now.saturating_sub(self.started));
            let surplus = self.boots.len().saturating_sub(MAX_BOOTS);
            self.boots.drain(..surplus);
        }
        self.enter(Phase::Running, now);
        (self.used, self.failures, self.error) = (now, 0, None);
    }

    /// Records that the machine is off.
    pub fn off(&mut self, now: Time) {
        if self.phase != Phase::Off {
            self.ran.push((self.started.min(now), now));
        }
        self.ran.retain(|(_, until)| now.saturating_sub(*until) < HOURS_SPAN);
        // The first of very many count as one, with the time between them.
        let surplus = self.ran.len().saturating_sub(MAX_TIMES);
        if let (Some(first), Some(kept)) = (self.ran.first().copied(), self.ran.get_mut(surplus)) {
            kept.0 = kept.0.min(first.0);
            self.ran.drain(..surplus);
        }
        self.enter(Phase::Off, now);
        self.started_as = StartedAs::default();
    }

    /// Records a failed start.
    pub fn failed(&mut self, now: Time, error: String) {
        (self.failures, self.failed, self.error) = (self.failures.saturating_add(1), now, Some(error));
    }

    /// Returns the end of the back-off after failed starts, if it has not passed at `now`. A clock that was set back
    /// ends it.
    pub fn backs_off_until(&self, now: Time) -> Option<Time> {
        if self.failures == 0 || now < self.failed {
            return None;
        }
        let time = BACK_OFF_MIN.saturating_mul(1 << (self.failures - 1).min(16)).min(BACK_OFF_MAX);
        Some(self.failed.saturating_add(time)).filter(|until| now < *until)
    }

    /// Returns the milliseconds that it has run within the last [`HOURS_SPAN`].
    pub fn ran_within_span(&self, now: Time) -> Time {
        let begin = now.saturating_sub(HOURS_SPAN);
        let part = |(from, until): (Time, Time)| until.min(now).saturating_sub(from.max(begin));
        let current = if self.phase == Phase::Off { 0 } else { part((self.started, now)) };
        self.ran.iter().copied().map(part).fold(current, Time::saturating_add)
    }

    /// Returns the median of the last boots; `None` without one.
    pub fn boot_time(&self) -> Option<Duration> {
        let mut boots = self.boots.clone();
        boots.sort_unstable();
        boots.get(boots.len() / 2).map(|milliseconds| Duration::from_millis(*milliseconds))
    }

    /// Returns whether a machine that runs may be stopped at `now`, given `idle` and `min_up`. It may not if these times
    /// begin later: the clock was set back.
    pub fn is_idle(&self, now: Time, idle: Duration, min_up: Duration) -> bool {
        let passed =
            |since: Time, time: Duration| now.checked_sub(since).is_some_and(|ago| ago >= time.as_millis() as Time);
        passed(self.used, idle) && passed(self.started, min_up)
    }
}

/// The files of the record of one host.
#[derive(Clone, Debug)]
pub struct PowerRecord {
    record: JsonRecord<Power>,
    lock: PathBuf,
}

/// The right to start or stop a machine, which one process has at a time.
#[derive(Debug)]
pub struct PowerLock(#[expect(dead_code, reason = "holds the lock")] File);

impl PowerRecord {
    /// Returns the record of the host that `machine` describes.
    pub fn of(state: &StateDirectory, machine: &Machine) -> Result<PowerRecord, StateError> {
        let lock = state.of(machine)?.join("power-change.lock");
        Ok(PowerRecord { record: JsonRecord::of(state, machine, "power")?, lock })
    }

    /// Reads the record. A record that cannot be read means that the machine may run.
    pub fn read(&self) -> Power {
        self.record.read().unwrap_or_else(|| match files::exists(self.record.path()) {
            true => Power { phase: Phase::Stopping, ..Power::default() },
            false => Power::default(),
        })
    }

    /// Changes the record, and returns the new one.
    pub fn change(&self, change: impl FnOnce(&mut Power)) -> Result<Power, StateError> {
        let mut changed = Power::default();
        self.record.change(|power| {
            let mut power = power.unwrap_or_else(|| self.read());
            change(&mut power);
            changed = power.clone();
            power
        })?;
        Ok(changed)
    }

    /// Records that a start begins, if `check` allows it at this time. No other start begins meanwhile on this head.
    pub fn reserve<E>(
        &self,
        state: &StateDirectory,
        check: impl FnOnce(Time) -> Result<(), E>,
    ) -> Result<Result<(), E>, StateError> {
        let _lock = lock_briefly(&state.shared()?.join("power.lock"))?;
        let now = super::health::now();
        if let Err(error) = check(now) {
            return Ok(Err(error));
        }
        self.change(|power| power.starting(now))?;
        Ok(Ok(()))
    }

    /// Takes the lock for starting or stopping; `None`: another process has it.
    pub fn try_lock(&self) -> Result<Option<PowerLock>, StateError> {
        Ok(try_lock(&self.lock)?.map(PowerLock))
    }

    /// Returns whether a process starts or stops the machine.
    pub fn is_changing(&self) -> Result<bool, StateError> {
        is_locked(&self.lock)
    }
}

/// Returns an error if the limits forbid a start at `now`, given the records of all machines on demand. The error says
/// which limit, and what is left of it.
pub fn check_limits(limits: &PoolLimits, records: &[Power], now: Time) -> Result<(), String> {
    let count = |phases: &[Phase]| records.iter().filter(|power| phases.contains(&power.phase)).count();
    let starting = count(&[Phase::Starting]);
    let running = starting + count(&[Phase::Running, Phase::Stopping]);
    let time = records.iter().map(|power| power.ran_within_span(now)).fold(0, Time::saturating_add);
    let hours = time as f64 / 3_600_000.0;
    if let Some(most) = limits.max_running.filter(|most| running >= *most as usize) {
        return Err(match running {
            1 => format!("1 machine on demand runs; max_running is {most}"),
            _ => format!("{running} machines on demand run; max_running is {most}"),
        });
    }
    if let Some(most) = limits.max_starting.filter(|most| starting >= *most as usize) {
        return Err(match starting {
            1 => format!("1 machine on demand starts; max_starting is {most}"),
            _ => format!("{starting} machines on demand start; max_starting is {most}"),
        });
    }
    match limits.max_hours.filter(|most| hours >= *most) {
        Some(most) => Err(format!("the machines on demand ran {hours:.1} h within 24 h; max_hours is {most}")),
        None => Ok(()),
    }
}

/// Returns the addresses of all machines whose record says that they are not off.
pub fn machines_that_run(state: &StateDirectory) -> Vec<String> {
    let directories = files::list(state.path()).unwrap_or_default();
    let mut running = Vec::new();
    for directory in directories {
        let Some(address) = directory.file_name().and_then(|name| name.to_str()).filter(|name| name.contains(':'))
        else {
            continue;
        };
        let power =
            contents(&directory.join("power.json")).and_then(|text| serde_json::from_slice::<Power>(&text).ok());
        if power.is_some_and(|power| power.phase != Phase::Off) {
            running.push(address.to_owned());
        }
    }
    running.sort();
    running
}

/// Returns the machine as it is contacted now: a machine on demand may have been started under another name.
pub fn as_started<'a>(state: &StateDirectory, machine: &'a Machine) -> Cow<'a, Machine> {
    if machine.on_demand.is_none() {
        return Cow::Borrowed(machine);
    }
    let started_as = PowerRecord::of(state, machine).map(|record| record.read().started_as).unwrap_or_default();
    match started_as == StartedAs::default() || !started_as.is_valid() {
        true => Cow::Borrowed(machine),
        false => Cow::Owned(started_as.apply(machine)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(directory: &tempfile::TempDir) -> PowerRecord {
        let machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        PowerRecord::of(&StateDirectory::new(directory.path()), &machine).unwrap()
    }

    #[test]
    fn one_process_changes_the_power_of_a_machine() {
        let directory = tempfile::tempdir().unwrap();
        let record = record(&directory);
        assert_eq!((record.read().phase, record.is_changing().unwrap()), (Phase::Off, false));
        let lock = record.try_lock().unwrap().expect("nobody has it");
        assert!(record.try_lock().unwrap().is_none() && record.is_changing().unwrap());
        drop(lock);
        assert!(!record.is_changing().unwrap() && record.try_lock().unwrap().is_some());
    }

    #[test]
    fn a_boot_and_the_running_time_are_counted() {
        let mut power = Power::default();
        power.starting(1_000);
        power.running(9_000);
        assert_eq!(
            (power.phase, power.boots.as_slice(), power.ran_within_span(11_000)),
            (Phase::Running, &[8_000][..], 10_000)
        );
        power.off(21_000);
        assert_eq!((power.ran.as_slice(), power.ran_within_span(50_000)), (&[(1_000, 21_000)][..], 20_000));
        // Off twice is one time of running.
        power.off(22_000);
        assert_eq!(power.ran.len(), 1);
        // Time before the span does not count.
        assert_eq!(power.ran_within_span(HOURS_SPAN + 11_000), 10_000);
        power.off(HOURS_SPAN + 21_000);
        assert_eq!((power.ran.len(), power.ran_within_span(HOURS_SPAN + 21_000)), (0, 0));
        for boot in [5_000, 1_000, 3_000] {
            power.starting(0);
            power.running(boot);
            power.off(boot);
        }
        assert_eq!(power.boot_time(), Some(Duration::from_millis(5_000)));
    }

    #[test]
    fn failed_starts_back_off_ever_longer() {
        let mut power = Power::default();
        assert_eq!(power.backs_off_until(0), None);
        let mut pause = |count: u32| {
            power.failures = count - 1;
            power.failed(1_000_000, "no".to_owned());
            power.backs_off_until(1_000_001).unwrap() - 1_000_000
        };
        assert_eq!([pause(1), pause(2), pause(3), pause(40)], [30_000, 60_000, 120_000, 1_800_000]);
        assert_eq!(power.backs_off_until(1_000_000 + 1_800_000), None);
        assert_eq!(power.backs_off_until(999_999), None, "the clock was set back");
        power.running(5);
        assert_eq!((power.failures, power.error), (0, None));
    }

    #[test]
    fn each_limit_forbids_a_start_that_would_exceed_it() {
        let power = |phase| Power { phase, started: 0, ..Power::default() };
        let records = [power(Phase::Off), power(Phase::Starting), power(Phase::Running), power(Phase::Stopping)];
        let hour = 3_600_000;
        let check = |limits| check_limits(&limits, &records, hour);
        assert_eq!(check(PoolLimits::default()), Ok(()));
        assert_eq!(check(PoolLimits { max_running: Some(4), max_starting: Some(2), max_hours: Some(3.1) }), Ok(()));
        for (limits, word) in [
            (
                PoolLimits { max_running: Some(3), ..PoolLimits::default() },
                "3 machines on demand run; max_running is 3",
            ),
            (
                PoolLimits { max_starting: Some(1), ..PoolLimits::default() },
                "1 machine on demand starts; max_starting is 1",
            ),
            (PoolLimits { max_hours: Some(3.0), ..PoolLimits::default() }, "ran 3.0 h within 24 h; max_hours is 3"),
        ] {
            assert!(check(limits).is_err_and(|error| error.ends_with(word)), "{word}");
        }
    }

    #[test]
    fn a_machine_is_idle_after_both_times() {
        let power = Power { started: 1_000, used: 5_000, ..Power::default() };
        let idle = |now, idle, min_up| power.is_idle(now, Duration::from_secs(idle), Duration::from_secs(min_up));
        assert!(idle(15_000, 10, 0) && !idle(14_999, 10, 0));
        assert!(!idle(15_000, 10, 15) && idle(16_000, 10, 15));
        assert!(!idle(0, 0, 0), "the clock was set back");
    }
}
