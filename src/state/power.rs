//! Whether a machine on demand runs.
//!
//! [`Power`] is the state, [`PowerRecord`] its file, and [`check_limits`] the limits of the pool.

mod limits;
mod record;

pub use limits::{check_limits, machines_that_run};
pub use record::{PowerLock, PowerRecord, as_started};

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::health::Time;
use crate::machine::StartedAs;

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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_machine_is_idle_after_both_times() {
        let power = Power { started: 1_000, used: 5_000, ..Power::default() };
        let idle = |now, idle, min_up| power.is_idle(now, Duration::from_secs(idle), Duration::from_secs(min_up));
        assert!(idle(15_000, 10, 0) && !idle(14_999, 10, 0));
        assert!(!idle(15_000, 10, 15) && idle(16_000, 10, 15));
        assert!(!idle(0, 0, 0), "the clock was set back");
    }
}
