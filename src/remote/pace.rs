//! How fast a daemon's stream goes, in the time that is spent waiting for it.
//!
//! Bytes alone are no progress: a machine that sends one of them a second would never be silent. Progress is a
//! [step](Progress::step), which is a new request or a piece of a build log, or [`PROGRESS_BYTES`] bytes. Silence is the time
//! since. A *trickle* is bytes that come without a longer pause and make no progress.
//!
//! Only waiting counts. What this machine does between two reads, such as writing to a slow disk, is no silence of the
//! other side.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::timeouts::SilencePolicy;

/// So many bytes are progress.
pub(super) const PROGRESS_BYTES: u64 = 16 << 10;

/// Through which those who read a stream say what it has brought. Clones are the same.
#[derive(Clone, Default)]
pub struct Progress(Arc<PaceState>);

#[derive(Default)]
struct PaceState {
    steps: AtomicU64,
    is_building: AtomicBool,
    is_stopped: AtomicBool,
}

impl Progress {
    /// Something was done: a request begins, or a builder has printed something.
    pub fn step(&self) {
        self.0.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the machine works on the build; until then it waits, as for a lock.
    pub fn set_building(&self, is_building: bool) {
        self.0.is_building.store(is_building, Ordering::Relaxed);
    }

    /// Ends the stream: whoever reads it wants no more.
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

/// What is to be done about a stream that is slow.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The daemon says nothing for too long, or so little that it comes to the same.
    GiveUp,
    /// The build has not begun.
    NotStarted,
    /// Ask the daemon whether it answers at all.
    Check,
    /// Print a line.
    Line,
}

/// Keeps the account of one stream.
#[derive(Default)]
pub(super) struct Pace {
    progress: Progress,
    /// How many steps have been accounted for.
    steps: u64,
    /// Time waited since the last progress, and bytes since then.
    silence: Duration,
    bytes: u64,
    /// Time waited since the last byte.
    pause: Duration,
    /// Time waited since the trickle began.
    trickle: Duration,
    /// Time waited for the build to begin.
    wait: Duration,
    /// Silence at the last line, pause at the last check.
    line: Duration,
    check: Duration,
}

impl Pace {
    /// Through which progress is told.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    pub fn silence(&self) -> Duration {
        self.silence
    }

    /// Bytes since the last progress.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether no byte has come or gone in that time, but at its beginning.
    pub fn is_silent(&self) -> bool {
        self.silence - self.pause.min(self.silence) < Duration::from_secs(1)
    }

    /// How long the build has waited to be begun.
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// Another phase begins.
    pub fn begin(&mut self) {
        self.progress.0.is_building.store(false, Ordering::Relaxed);
        *self = Pace { progress: self.progress.clone(), steps: self.steps, ..Pace::default() };
    }

    /// Takes account of progress that was told.
    pub fn follow(&mut self) {
        let steps = self.progress.0.steps.load(Ordering::Relaxed);
        if steps != self.steps {
            self.steps = steps;
            self.go_on();
        }
        if self.progress.is_building() {
            self.wait = Duration::ZERO;
        }
    }

    fn go_on(&mut self) {
        let Pace { progress, steps, wait, .. } = std::mem::take(self);
        *self = Pace { progress, steps, wait, ..Pace::default() };
    }

    /// The stream was waited for so long.
    pub fn waited(&mut self, time: Duration) {
        for account in [&mut self.silence, &mut self.pause, &mut self.trickle] {
            *account += time;
        }
        if !self.progress.is_building() {
            self.wait += time;
        }
    }

    /// So many bytes have come or gone.
    pub fn moved(&mut self, bytes: u64, silence_policy: &SilencePolicy) {
        if bytes == 0 {
            return;
        }
        self.bytes += bytes;
        if self.bytes >= PROGRESS_BYTES {
            return self.go_on();
        }
        if silence_policy.recheck.is_some_and(|time| self.pause >= time) {
            self.trickle = Duration::ZERO;
        }
        (self.pause, self.check) = (Duration::ZERO, Duration::ZERO);
    }

    /// What is due now.
    pub fn due(&mut self, silence_policy: &SilencePolicy) -> Option<Due> {
        let is_over = |time: Duration, limit: Option<Duration>| limit.is_some_and(|limit| time >= limit);
        let is_trickle = self.bytes > 0 && self.pause.is_zero() && is_over(self.trickle, silence_policy.trickle);
        if is_over(self.wait, silence_policy.wait) {
            return Some(Due::NotStarted);
        }
        if is_trickle || is_over(self.silence, silence_policy.give_up) {
            return Some(Due::GiveUp);
        }
        if is_over(self.pause.saturating_sub(self.check), silence_policy.recheck) {
            self.check = self.pause;
            return Some(Due::Check);
        }
        if is_over(self.silence.saturating_sub(self.line), silence_policy.report) {
            self.line = self.silence;
            return Some(Due::Line);
        }
        None
    }

    /// After how much more waiting something is due, if no byte comes until then.
    pub fn next(&self, silence_policy: &SilencePolicy) -> Option<Duration> {
        let left = |limit: Option<Duration>, time: Duration| limit.map(|limit| limit.saturating_sub(time));
        let building = self.progress.is_building();
        [
            left(silence_policy.give_up, self.silence),
            left(silence_policy.wait, self.wait).filter(|_| !building),
            left(silence_policy.recheck, self.pause.saturating_sub(self.check)),
            left(silence_policy.report, self.silence.saturating_sub(self.line)),
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
            wait: None,
        }
    }

    /// One read after the other, each of which takes a second and brings so many bytes; returns what was due when.
    fn play(
        pace: &mut Pace,
        silence_policy: &SilencePolicy,
        seconds: u32,
        bytes: impl Fn(u32) -> u64,
    ) -> Vec<(u32, Due)> {
        let mut due = Vec::new();
        for second in 1..=seconds {
            pace.waited(SECOND);
            pace.moved(bytes(second), silence_policy);
            pace.follow();
            due.extend(pace.due(silence_policy).map(|what| (second, what)));
            if matches!(due.last(), Some((_, Due::GiveUp | Due::NotStarted))) {
                break;
            }
        }
        due
    }

    #[test]
    fn a_byte_a_second_is_said_and_given_up() {
        let due = play(&mut Pace::default(), &silence_policy(), 10_000, |_| 1);
        assert_eq!(due, [(100, Due::Line), (200, Due::Line), (300, Due::GiveUp)]);
    }

    #[test]
    fn a_slow_link_is_no_trickle() {
        assert_eq!(play(&mut Pace::default(), &silence_policy(), 10_000, |_| 170), []);
    }

    #[test]
    fn silence_is_checked_said_and_given_up() {
        let due = play(&mut Pace::default(), &silence_policy(), 10_000, |_| 0);
        assert_eq!(due.iter().filter(|(_, what)| *what == Due::Check).count(), 16);
        assert_eq!(due.iter().filter(|(_, what)| *what == Due::Line).count(), 9);
        assert_eq!(due.last(), Some(&(1000, Due::GiveUp)));
    }

    /// A garbage collection over there, and then the rest.
    #[test]
    fn a_pause_is_no_trickle() {
        let due = play(&mut Pace::default(), &silence_policy(), 950, |second| u64::from(!(10..900).contains(&second)));
        assert!(due.iter().all(|(_, what)| *what != Due::GiveUp), "{due:?}");
        // But a byte now and then does not put off the end.
        let due = play(&mut Pace::default(), &silence_policy(), 10_000, |second| u64::from(second % 61 == 0));
        assert_eq!(due.last(), Some(&(1000, Due::GiveUp)));
    }

    #[test]
    fn progress_begins_anew() {
        let mut pace = Pace::default();
        let silence_policy = silence_policy();
        for round in 0..20 {
            assert_eq!(play(&mut pace, &silence_policy, 90, |_| 1), [], "{round}");
            pace.progress().step();
        }
        assert_eq!(play(&mut pace, &silence_policy, 99, |_| 1), []);
        assert_eq!(play(&mut pace, &silence_policy, 1, |_| PROGRESS_BYTES), []);
        assert_eq!(play(&mut pace, &silence_policy, 99, |_| 1), []);
    }

    #[test]
    fn a_build_must_begin() {
        let mut pace = Pace::default();
        let silence_policy =
            SilencePolicy { wait: Some(500 * SECOND), give_up: None, recheck: None, report: None, trickle: None };
        pace.begin();
        assert_eq!(pace.next(&silence_policy), Some(500 * SECOND));
        // What the daemon says of its waiting does not put off the end.
        let due = play(&mut pace, &silence_policy, 10_000, |second| if second % 100 == 0 { PROGRESS_BYTES } else { 0 });
        assert_eq!(due, [(500, Due::NotStarted)]);
        pace.begin();
        assert_eq!(play(&mut pace, &silence_policy, 400, |_| 0), []);
        pace.progress().set_building(true);
        assert_eq!(play(&mut pace, &silence_policy, 10_000, |_| 0), []);
        assert_eq!(pace.next(&silence_policy), None);
        pace.progress().set_building(false);
        assert_eq!(play(&mut pace, &silence_policy, 10_000, |_| 0), [(500, Due::NotStarted)]);
    }
}
