//! Measures how long a daemon's stream makes no progress.
//!
//! *Progress* is a [step](Progress::step), which is a new request or a piece of a build log, or [`PROGRESS_BYTES`]
//! bytes. A single byte is not progress: otherwise a machine that sends one byte a second would never be silent.
//! *Silence* is the time since the last progress. A *trickle* is a series of bytes without a long pause that makes no
//! progress.
//!
//! Only the time in reads and writes counts. The time that this machine needs between two reads, for example to write
//! to a slow disk, is not silence of the other side.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::timeouts::SilencePolicy;

/// The number of bytes that counts as progress.
pub(super) const PROGRESS_BYTES: u64 = 16 << 10;

/// A handle with which the reader of a stream reports progress. Clones share their state.
#[derive(Clone, Default)]
pub struct Progress(Arc<ProgressState>);

#[derive(Default)]
struct ProgressState {
    steps: AtomicU64,
    is_building: AtomicBool,
    is_stopped: AtomicBool,
}

impl Progress {
    /// Reports progress: a request begins, or a builder has printed text.
    pub fn step(&self) {
        self.0.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets whether the machine works on the build. Before that it waits, for example for a lock. Default: false.
    pub fn set_building(&self, is_building: bool) {
        self.0.is_building.store(is_building, Ordering::Relaxed);
    }

    /// Ends the stream: its next read or write fails.
    pub fn stop(&self) {
        self.0.is_stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.0.is_stopped.load(Ordering::Relaxed)
    }

    fn is_building(&self) -> bool {
        self.0.is_building.load(Ordering::Relaxed)
    }
}

/// An action that a [`SilencePolicy`] requires.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Give up the daemon, because it is silent or trickles for too long.
    GiveUp,
    /// Give up the build, because it has not begun.
    NotStarted,
    /// Check whether the daemon responds.
    Recheck,
    /// Print a line.
    Report,
}

/// The times of one stream.
#[derive(Default)]
pub(super) struct StallDetector {
    progress: Progress,
    /// The number of steps that were counted.
    steps: u64,
    /// The time waited since the last progress.
    silence: Duration,
    /// The bytes since the last progress.
    bytes: u64,
    /// The time waited since the last byte.
    pause: Duration,
    /// The time waited since the trickle began.
    trickle: Duration,
    /// The time waited for the build to begin.
    build_wait: Duration,
    /// The value of `silence` at the last line.
    last_report: Duration,
    /// The value of `pause` at the last check.
    last_recheck: Duration,
}

impl StallDetector {
    /// Returns the handle with which a reader reports progress.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Returns the time waited since the last progress.
    pub fn silence(&self) -> Duration {
        self.silence
    }

    /// Returns the number of bytes since the last progress.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns whether no byte has moved since the last progress, except in the first second.
    pub fn is_silent(&self) -> bool {
        self.silence - self.pause.min(self.silence) < Duration::from_secs(1)
    }

    /// Returns how long the build has waited to begin.
    pub fn build_wait(&self) -> Duration {
        self.build_wait
    }

    /// Begins a new phase: resets all times.
    pub fn begin_phase(&mut self) {
        self.progress.0.is_building.store(false, Ordering::Relaxed);
        *self = StallDetector { progress: self.progress.clone(), steps: self.steps, ..StallDetector::default() };
    }

    /// Applies the progress that the reader has reported.
    pub fn apply_progress(&mut self) {
        let steps = self.progress.0.steps.load(Ordering::Relaxed);
        if steps != self.steps {
            self.steps = steps;
            self.reset_after_progress();
        }
        if self.progress.is_building() {
            self.build_wait = Duration::ZERO;
        }
    }

    /// Resets all times except the one that the build has waited.
    fn reset_after_progress(&mut self) {
        let StallDetector { progress, steps, build_wait, .. } = std::mem::take(self);
        *self = StallDetector { progress, steps, build_wait, ..StallDetector::default() };
    }

    /// Adds time that was spent in a read or a write.
    pub fn add_wait(&mut self, time: Duration) {
        for account in [&mut self.silence, &mut self.pause, &mut self.trickle] {
            *account += time;
        }
        if !self.progress.is_building() {
            self.build_wait += time;
        }
    }

    /// Adds bytes that were read or written.
    pub fn add_bytes(&mut self, bytes: u64, silence_policy: &SilencePolicy) {
        if bytes == 0 {
            return;
        }
        self.bytes += bytes;
        if self.bytes >= PROGRESS_BYTES {
            return self.reset_after_progress();
        }
        if silence_policy.recheck.is_some_and(|time| self.pause >= time) {
            self.trickle = Duration::ZERO;
        }
        (self.pause, self.last_recheck) = (Duration::ZERO, Duration::ZERO);
    }

    /// Returns the action that is due now, and notes that it is performed.
    pub fn due(&mut self, silence_policy: &SilencePolicy) -> Option<Due> {
        let is_over = |time: Duration, limit: Option<Duration>| limit.is_some_and(|limit| time >= limit);
        let is_trickle = self.bytes > 0 && self.pause.is_zero() && is_over(self.trickle, silence_policy.trickle);
        if is_over(self.build_wait, silence_policy.build_start) {
            return Some(Due::NotStarted);
        }
        if is_trickle || is_over(self.silence, silence_policy.give_up) {
            return Some(Due::GiveUp);
        }
        if is_over(self.pause.saturating_sub(self.last_recheck), silence_policy.recheck) {
            self.last_recheck = self.pause;
            return Some(Due::Recheck);
        }
        if is_over(self.silence.saturating_sub(self.last_report), silence_policy.report) {
            self.last_report = self.silence;
            return Some(Due::Report);
        }
        None
    }

    /// Returns the time to wait until the next action is due if no byte arrives; `None` if no action is due then.
    pub fn time_until_due(&self, silence_policy: &SilencePolicy) -> Option<Duration> {
        let left = |limit: Option<Duration>, time: Duration| limit.map(|limit| limit.saturating_sub(time));
        let building = self.progress.is_building();
        [
            left(silence_policy.give_up, self.silence),
            left(silence_policy.build_start, self.build_wait).filter(|_| !building),
            left(silence_policy.recheck, self.pause.saturating_sub(self.last_recheck)),
            left(silence_policy.report, self.silence.saturating_sub(self.last_report)),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn silence_policy() -> SilencePolicy {
        let seconds = |count| Some(SECOND * count);
        SilencePolicy {
            give_up: seconds(1000),
            recheck: seconds(60),
            report: seconds(100),
            trickle: seconds(300),
            build_start: None,
        }
    }

    /// Simulates one read per second that returns `bytes(second)` bytes. Returns the actions that were due, and when.
    fn play(
        stall_detector: &mut StallDetector,
        silence_policy: &SilencePolicy,
        seconds: u32,
        bytes: impl Fn(u32) -> u64,
    ) -> Vec<(u32, Due)> {
        let mut due = Vec::new();
        for second in 1..=seconds {
            stall_detector.add_wait(SECOND);
            stall_detector.add_bytes(bytes(second), silence_policy);
            stall_detector.apply_progress();
            due.extend(stall_detector.due(silence_policy).map(|what| (second, what)));
            if matches!(due.last(), Some((_, Due::GiveUp | Due::NotStarted))) {
                break;
            }
        }
        due
    }

    #[test]
    fn a_byte_a_second_is_reported_and_given_up() {
        let due = play(&mut StallDetector::default(), &silence_policy(), 10_000, |_| 1);
        assert_eq!(due, [(100, Due::Report), (200, Due::Report), (300, Due::GiveUp)]);
    }

    #[test]
    fn a_slow_link_is_not_a_trickle() {
        assert_eq!(play(&mut StallDetector::default(), &silence_policy(), 10_000, |_| 170), []);
    }

    #[test]
    fn silence_is_checked_reported_and_given_up() {
        let due = play(&mut StallDetector::default(), &silence_policy(), 10_000, |_| 0);
        assert_eq!(due.iter().filter(|(_, what)| *what == Due::Recheck).count(), 16);
        assert_eq!(due.iter().filter(|(_, what)| *what == Due::Report).count(), 9);
        assert_eq!(due.last(), Some(&(1000, Due::GiveUp)));
    }

    /// A garbage collection on the machine makes such a pause.
    #[test]
    fn a_pause_is_not_a_trickle() {
        let due = play(&mut StallDetector::default(), &silence_policy(), 950, |second| {
            u64::from(!(10..900).contains(&second))
        });
        assert!(due.iter().all(|(_, what)| *what != Due::GiveUp), "{due:?}");
        // An occasional byte does not extend the limit of silence.
        let due = play(&mut StallDetector::default(), &silence_policy(), 10_000, |second| u64::from(second % 61 == 0));
        assert_eq!(due.last(), Some(&(1000, Due::GiveUp)));
    }

    #[test]
    fn progress_resets_the_trickle() {
        let mut stall_detector = StallDetector::default();
        let silence_policy = silence_policy();
        for round in 0..20 {
            assert_eq!(play(&mut stall_detector, &silence_policy, 90, |_| 1), [], "{round}");
            stall_detector.progress().step();
        }
        assert_eq!(play(&mut stall_detector, &silence_policy, 99, |_| 1), []);
        assert_eq!(play(&mut stall_detector, &silence_policy, 1, |_| PROGRESS_BYTES), []);
        assert_eq!(play(&mut stall_detector, &silence_policy, 99, |_| 1), []);
    }

    #[test]
    fn a_build_must_begin() {
        let mut stall_detector = StallDetector::default();
        let silence_policy = SilencePolicy {
            build_start: Some(500 * SECOND),
            give_up: None,
            recheck: None,
            report: None,
            trickle: None,
        };
        stall_detector.begin_phase();
        assert_eq!(stall_detector.time_until_due(&silence_policy), Some(500 * SECOND));
        // Messages of the daemon about its waiting do not extend the limit.
        let due =
            play(
                &mut stall_detector,
                &silence_policy,
                10_000,
                |second| if second % 100 == 0 { PROGRESS_BYTES } else { 0 },
            );
        assert_eq!(due, [(500, Due::NotStarted)]);
        stall_detector.begin_phase();
        assert_eq!(play(&mut stall_detector, &silence_policy, 400, |_| 0), []);
        stall_detector.progress().set_building(true);
        assert_eq!(play(&mut stall_detector, &silence_policy, 10_000, |_| 0), []);
        assert_eq!(stall_detector.time_until_due(&silence_policy), None);
        stall_detector.progress().set_building(false);
        assert_eq!(play(&mut stall_detector, &silence_policy, 10_000, |_| 0), [(500, Due::NotStarted)]);
        // A build that continues when the phase ends is not that of the next one.
        stall_detector.progress().set_building(true);
        stall_detector.begin_phase();
        assert_eq!(stall_detector.time_until_due(&silence_policy), Some(500 * SECOND));
    }

    /// The checks during a pause are counted from its own beginning, not from the checks of the pause before.
    #[test]
    fn each_pause_has_its_own_checks() {
        let due = play(&mut StallDetector::default(), &silence_policy(), 230, |second| u64::from(second == 100));
        let checks = due.iter().filter(|(_, what)| *what == Due::Recheck).map(|(second, _)| *second);
        assert_eq!(checks.collect::<Vec<_>>(), [60, 160, 220]);
    }
}
