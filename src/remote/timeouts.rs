//! The time limits for each phase of a connection to a build machine, in one place.
//!
//! | phase | limit | enforced by |
//! |---|---|---|
//! | resolve, connect, SSH handshake, authenticate | `connect_timeout` for all of them together | `ssh` |
//! | open a channel to the daemon, and its greeting | `connect_timeout` each | [`greeting_timeout`], `ssh` |
//! | these two, and opening any other channel, after the daemon has answered once | `stall_timeout` each, if that is longer | [`greeting_timeout`], `ssh` |
//! | the first reply over a stream that another hook released, or the greeting over its session | a second and four round trips, `connect_timeout` at the most | [`owner`](super::owner) |
//! | probe | `connect_timeout`; then the status is unknown, which is not a failure | [`Connection::probe`] |
//! | start of the relay | `stall_timeout`, because Guile needs seconds | `relay` |
//! | each answer, upload, download | silence: see below; at most `max-silent-time` and a `stall_timeout`, or an hour | [`SilencePolicy::answer`] |
//! | the wait for a transfer slot | an hour ([`TRANSFER_WAIT_MAX`]), then the transfer continues without one | `transfer` |
//! | build | silence: see below; at most `max-silent-time` and a `stall_timeout`, unlimited without `max-silent-time` | [`SilencePolicy::build`] |
//! | a write | silence, while the other side reads nothing: see below | [`SilencePolicy::answer`] |
//! | a trickle in either direction | five `stall_timeout` for each 16 KiB | [`SilencePolicy::answer`], [`SilencePolicy::build`] |
//! | a build that has not begun | `max-silent-time`, or an hour | [`SilencePolicy::build`] |
//! | the link under all of these | `stall_timeout` without any byte, answers to keep-alives included | `ssh` |
//!
//! **Silence.** A daemon can be silent for good reasons: a builder works, another client holds a lock, or the garbage
//! collector runs, which blocks additions to the store for minutes. A stopped daemon looks the same, and its SSH server
//! still answers keep-alive requests. So after each `stall_timeout` of silence the hook greets the daemon again, over a
//! second channel of the same connection. If that fails, the hook gives up the machine; otherwise it continues to wait.
//! This greeting may take longer than the first one: the machine has responded before, and a build on it may be lost.
//!
//! **Trickle.** Progress ends a silence. Progress is 16 KiB, a new request, or text of a build log. A single byte is
//! not progress: otherwise a machine that sends one byte a second would neither be silent nor finish. If bytes arrive
//! continuously but make no progress, the hook gives up the machine after five `stall_timeout`; that is about 50 bytes
//! a second by default. If they arrive only occasionally, the machine counts as silent.
//!
//! **Waiting for a build to begin.** A daemon runs one build of a derivation at a time, and other clients wait for its
//! lock without a limit. The client with the lock may itself wait for a lock of this machine. Such a build has not
//! begun, and the lines that the hook prints must not hide that from the time limits here. The hook gives up the build,
//! and retries it on another machine.
//!
//! The daemon of this machine gives the hook `max-silent-time` at its start, and the hook passes it to the build
//! machine's daemon. That daemon should report a silent build first, so the limits here are a `stall_timeout` longer.
//! This machine's daemon applies the limit to the hook, too. So a waiting hook prints a line after each third of
//! `max-silent-time`, which makes two lines within it.
//!
//! [`Connection::probe`]: super::Connection::probe
//! [`DaemonStream`]: super::DaemonStream

use std::time::Duration;

use crate::machine::Machine;

/// The longest silence of a daemon that is not building, if guix-daemon gave no limit: Guix's default
/// `max-silent-time`.
const SILENCE_MAX: Duration = Duration::from_secs(3600);

/// The longest time that a build waits for a transfer slot of its machine.
pub const TRANSFER_WAIT_MAX: Duration = Duration::from_secs(3600);

/// The longest time between two lines about a step that takes long.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);

/// Time allowed for a trivial reply, excluding network latency.
const TRIVIAL_REPLY_MAX: Duration = Duration::from_secs(1);

/// The longest trickle, as a multiple of `stall_timeout`.
const TRICKLE_STALL_TIMEOUTS: u32 = 5;

/// Time after `stall_timeout` at which the silence check starts, so that a dead link is noticed first.
pub(super) const DEAD_LINK_MARGIN: Duration = Duration::from_millis(500);

/// The time limits for the silence of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SilencePolicy {
    /// The silence after which the daemon is given up. `None`: no limit.
    pub give_up: Option<Duration>,
    /// The interval of silence after which the daemon is greeted again. `None`: never.
    pub recheck: Option<Duration>,
    /// The interval of silence after which a line is printed. `None`: never.
    pub report: Option<Duration>,
    /// The time of a trickle after which the daemon is given up. `None`: no limit.
    pub trickle: Option<Duration>,
    /// The time allowed for a build to begin. `None`: no limit.
    pub build_start: Option<Duration>,
}

impl SilencePolicy {
    /// Returns the policy for a greeting within `limit`.
    pub fn greeting(limit: Duration) -> SilencePolicy {
        SilencePolicy { give_up: Some(limit), recheck: None, report: None, trickle: None, build_start: None }
    }

    /// Returns the policy for a reply, and for each part of a transfer.
    pub fn answer(machine: &Machine, max_silent_time: Option<Duration>) -> SilencePolicy {
        let limit = Some(silence_max(machine, max_silent_time));
        SilencePolicy { give_up: limit, build_start: None, ..SilencePolicy::build(machine, max_silent_time) }
    }

    /// Returns the policy for a build.
    pub fn build(machine: &Machine, max_silent_time: Option<Duration>) -> SilencePolicy {
        SilencePolicy {
            give_up: max_silent_time.is_some().then(|| silence_max(machine, max_silent_time)),
            recheck: Some(machine.stall_timeout.saturating_add(DEAD_LINK_MARGIN)),
            report: silence_report_interval(max_silent_time),
            trickle: Some(machine.stall_timeout.saturating_mul(TRICKLE_STALL_TIMEOUTS)),
            build_start: Some(max_silent_time.unwrap_or(SILENCE_MAX)),
        }
    }
}

/// Returns the time allowed for the first reply over a session that another hook has opened. After a failure the hook
/// opens a new connection, which has its own limit, so this time is short if the round trip is short.
pub(super) fn reused_greeting_timeout(machine: &Machine, round_trip: Duration) -> Duration {
    machine.connect_timeout.min(TRIVIAL_REPLY_MAX + 4 * round_trip.min(machine.connect_timeout))
}

/// Returns the time allowed to open a channel to the daemon, and again for its greeting. `has_reached_daemon`: whether
/// the daemon has answered over this connection before.
pub fn greeting_timeout(machine: &Machine, has_reached_daemon: bool) -> Duration {
    if has_reached_daemon { machine.stall_timeout.max(machine.connect_timeout) } else { machine.connect_timeout }
}

/// Returns the time allowed to open a channel to a silent daemon that is greeted again, and again for its greeting.
/// Both steps end before the next line is due (`report`), unless that leaves them less than `connect_timeout`.
pub(super) fn recheck_timeout(machine: &Machine, report: Option<Duration>) -> Duration {
    let limit = greeting_timeout(machine, true);
    report.map_or(limit, |report| limit.min(report / 2).max(machine.connect_timeout))
}

/// Returns the longest silence of a daemon that is not building.
fn silence_max(machine: &Machine, max_silent_time: Option<Duration>) -> Duration {
    max_silent_time.map_or(SILENCE_MAX, |time| time.saturating_add(machine.stall_timeout))
}

/// Returns the interval at which a waiting hook prints a line for the silence timer of this machine's daemon: twice
/// within the limit, including the time to print.
pub fn silence_report_interval(max_silent_time: Option<Duration>) -> Option<Duration> {
    max_silent_time.map(|time| time / 3)
}

/// Returns the interval at which a step that waits or takes long prints a line, for people and for that timer.
pub fn report_interval(max_silent_time: Option<Duration>) -> Duration {
    silence_report_interval(max_silent_time).map_or(REPORT_INTERVAL, |time| time.min(REPORT_INTERVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_silent_time_limits_the_silence() {
        let machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        let seconds = Duration::from_secs;
        let check = Some(seconds(60) + DEAD_LINK_MARGIN);
        let (trickle, build_start) = (Some(seconds(300)), Some(seconds(100)));
        let given = SilencePolicy {
            give_up: Some(seconds(160)),
            recheck: check,
            report: Some(seconds(100) / 3),
            trickle,
            build_start,
        };
        assert_eq!(SilencePolicy::build(&machine, Some(seconds(100))), given);
        assert_eq!(SilencePolicy::answer(&machine, Some(seconds(100))), SilencePolicy { build_start: None, ..given });
        let none =
            SilencePolicy { give_up: None, recheck: check, report: None, trickle, build_start: Some(seconds(3600)) };
        assert_eq!(SilencePolicy::build(&machine, None), none);
        assert_eq!(SilencePolicy::answer(&machine, None).give_up, Some(seconds(3600)));
    }

    #[test]
    fn a_second_greeting_may_take_longer_than_the_first() {
        let seconds = Duration::from_secs;
        let mut machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        assert_eq!(
            [false, true].map(|has_reached_daemon| greeting_timeout(&machine, has_reached_daemon)),
            [seconds(5), seconds(60)]
        );
        // A check ends before this machine's daemon would count the hook as silent.
        for (report, limit) in [(None, 60), (Some(1800), 60), (Some(30), 15), (Some(3), 5)] {
            assert_eq!(recheck_timeout(&machine, report.map(seconds)), seconds(limit));
        }
        machine.stall_timeout = seconds(3);
        assert_eq!([greeting_timeout(&machine, true), recheck_timeout(&machine, None)], [seconds(5); 2]);
    }

    #[test]
    fn a_reused_session_has_a_short_time_limit() {
        let machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        for (round_trip, limit) in [(0, 1000), (50, 1200), (2000, 5000), (u64::MAX, 5000)] {
            assert_eq!(
                reused_greeting_timeout(&machine, Duration::from_millis(round_trip)),
                Duration::from_millis(limit)
            );
        }
    }
}
