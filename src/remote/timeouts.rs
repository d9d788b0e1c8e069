//! How long a build machine is waited for: the rule for every phase, in one place.
//!
//! | phase | bound | kept by |
//! |---|---|---|
//! | resolve, connect, SSH handshake, authenticate | `connect_timeout` for all of them together | `ssh` |
//! | open a channel to the daemon, and its greeting | `connect_timeout` each | [`greeting_timeout`], `ssh` |
//! | the same, and opening any other channel, once the daemon has answered | `stall_timeout` each, if that is longer | [`greeting_timeout`], `ssh` |
//! | the first reply over a stream that another hook released, or the greeting over its session | a second and four round trips, `connect_timeout` at the most | [`owner`](super::owner) |
//! | probe | `connect_timeout`; then the status is unknown, which is no failure | [`Connection::probe`] |
//! | start of the relay | `stall_timeout`: Guile takes seconds | `relay` |
//! | each answer, upload, download | silence: see below; at most `max-silent-time` and a `stall_timeout`, or an hour | [`SilencePolicy::answer`] |
//! | the wait for a transfer slot | an hour ([`TRANSFER_WAIT_MAX`]), then the transfer continues without one | `transfer` |
//! | build | silence: see below; at most `max-silent-time` and a `stall_timeout`, without end where there is none | [`SilencePolicy::build`] |
//! | anything sent | while the other side takes nothing, silence: see below | [`SilencePolicy::answer`] |
//! | anything sent or received that trickles | five `stall_timeout` for each 16 KiB | [`SilencePolicy::answer`], [`SilencePolicy::build`] |
//! | a build that has not begun | `max-silent-time`, or an hour | [`SilencePolicy::build`] |
//! | the link under all of these | `stall_timeout` without any byte, answers to keep-alives included | `ssh` |
//!
//! **Silence.** A daemon may have nothing to say for good reasons: a builder works, another client holds a lock, or its
//! garbage collector runs, which keeps it from adding anything to its store until it is through, for minutes. A daemon
//! that is stopped looks the same, and the SSH server beside it answers keep-alives as ever. So after each
//! `stall_timeout` of silence the daemon is greeted once more, over a second channel of the same connection: the
//! machine is given up when that fails, and else waited for. A machine that was reached has shown that it is there, and
//! much may be lost with it; so this greeting may take longer than the first.
//!
//! **Trickle.** Silence ends with progress, and a byte is none: a machine that sends one a second would neither be silent
//! nor be done. Progress is 16 KiB, a new request, or text of a build log. Where bytes come all the time and make none,
//! the machine is given up after five `stall_timeout`, which makes some 50 bytes a second by default; where they come now
//! and then, it is silent.
//!
//! **Waiting for a build to begin.** The daemon over there has one build of a derivation at a time, and the others wait
//! for its lock, without end: whoever has it may wait in turn for what this machine has locked. Such a build is not
//! building, so lines of ours must not hide that from the time limits here. It is given up, and left to another machine.
//!
//! `max-silent-time` is what the daemon of this machine said when it started the hook, and what the build machine's
//! daemon is told to keep; that one is to speak first, hence the `stall_timeout` on top. This machine's daemon applies
//! it to the hook, too, so a hook that waits must print a line now and then: a line each third of `max-silent-time`, two within it.
//!
//! [`Connection::probe`]: super::Connection::probe
//! [`DaemonStream`]: super::DaemonStream

use std::time::Duration;

use crate::machine::Machine;

/// The longest silence of a daemon that is not building, if guix-daemon gave no limit: Guix's default `max-silent-time`.
const SILENCE_MAX: Duration = Duration::from_secs(3600);

/// How long a build waits for a transfer slot of its machine.
pub const TRANSFER_WAIT_MAX: Duration = Duration::from_secs(3600);

/// The longest time between two lines about something that takes long.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);

/// Time allowed for a trivial reply, excluding network latency.
const TRIVIAL_REPLY_MAX: Duration = Duration::from_secs(1);

/// How many `stall_timeout` bytes may arrive without progress.
const TRICKLE_STALL_TIMEOUTS: u32 = 5;

/// The silence check starts this much later than `stall_timeout`, so that a dead link is noticed first.
pub(super) const DEAD_LINK_MARGIN: Duration = Duration::from_millis(500);

/// How long a daemon may be silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SilencePolicy {
    /// After so much silence the daemon is given up. `None`: not for its silence.
    pub give_up: Option<Duration>,
    /// After each so much silence it is asked whether it answers at all. `None`: it is not.
    pub recheck: Option<Duration>,
    /// After each so much silence a line says so. `None`: nobody needs to hear it.
    pub report: Option<Duration>,
    /// After so much time in which bytes come and make no progress the daemon is given up. `None`: it is not.
    pub trickle: Option<Duration>,
    /// After so much time in which a build does not begin it is given up. `None`: nothing is built.
    pub wait: Option<Duration>,
}

impl SilencePolicy {
    /// For a greeting that may take so long.
    pub fn greeting(limit: Duration) -> SilencePolicy {
        SilencePolicy { give_up: Some(limit), recheck: None, report: None, trickle: None, wait: None }
    }

    /// For an answer, and for each piece of what is transferred.
    pub fn answer(machine: &Machine, max_silent_time: Option<Duration>) -> SilencePolicy {
        let limit = Some(silence_max(machine, max_silent_time));
        SilencePolicy { give_up: limit, wait: None, ..SilencePolicy::build(machine, max_silent_time) }
    }

    /// For a build.
    pub fn build(machine: &Machine, max_silent_time: Option<Duration>) -> SilencePolicy {
        SilencePolicy {
            give_up: max_silent_time.is_some().then(|| silence_max(machine, max_silent_time)),
            recheck: Some(machine.stall_timeout.saturating_add(DEAD_LINK_MARGIN)),
            report: silence_report_interval(max_silent_time),
            trickle: Some(machine.stall_timeout.saturating_mul(TRICKLE_STALL_TIMEOUTS)),
            wait: Some(max_silent_time.unwrap_or(SILENCE_MAX)),
        }
    }
}

/// How long the first answer over a connection that another hook has made may take. Without one a new connection is made, which has its
/// own limit; so this is short where the answer is near.
pub(super) fn reused_greeting_timeout(machine: &Machine, round_trip: Duration) -> Duration {
    machine.connect_timeout.min(TRIVIAL_REPLY_MAX + 4 * round_trip.min(machine.connect_timeout))
}

/// How long opening a channel to the daemon may take, and its greeting. `is_up`: the daemon has answered over this
/// connection before.
pub fn greeting_timeout(machine: &Machine, is_up: bool) -> Duration {
    if is_up { machine.stall_timeout.max(machine.connect_timeout) } else { machine.connect_timeout }
}

/// The same for a silent daemon that is greeted once more. Both steps together are to be over before the next line is
/// due (`say`), where that leaves them a `connect_timeout`.
pub(super) fn recheck_timeout(machine: &Machine, say: Option<Duration>) -> Duration {
    let limit = greeting_timeout(machine, true);
    say.map_or(limit, |say| limit.min(say / 2).max(machine.connect_timeout))
}

/// The longest time in which nothing may happen, but for a build.
fn silence_max(machine: &Machine, max_silent_time: Option<Duration>) -> Duration {
    max_silent_time.map_or(SILENCE_MAX, |time| time.saturating_add(machine.stall_timeout))
}

/// How often something that waits prints a line, for the silence timer of this machine's daemon: twice within its limit,
/// the time for printing them included.
fn silence_report_interval(max_silent_time: Option<Duration>) -> Option<Duration> {
    max_silent_time.map(|time| time / 3)
}

/// How often something that waits or takes long prints a line, for people and for that timer.
pub fn report_interval(max_silent_time: Option<Duration>) -> Duration {
    silence_report_interval(max_silent_time).map_or(REPORT_INTERVAL, |time| time.min(REPORT_INTERVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_limit_counts_where_there_is_one() {
        let machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        let seconds = Duration::from_secs;
        let check = Some(seconds(60) + DEAD_LINK_MARGIN);
        let (trickle, wait) = (Some(seconds(300)), Some(seconds(100)));
        let given = SilencePolicy {
            give_up: Some(seconds(160)),
            recheck: check,
            report: Some(seconds(100) / 3),
            trickle,
            wait,
        };
        assert_eq!(SilencePolicy::build(&machine, Some(seconds(100))), given);
        assert_eq!(SilencePolicy::answer(&machine, Some(seconds(100))), SilencePolicy { wait: None, ..given });
        let none = SilencePolicy { give_up: None, recheck: check, report: None, trickle, wait: Some(seconds(3600)) };
        assert_eq!(SilencePolicy::build(&machine, None), none);
        assert_eq!(SilencePolicy::answer(&machine, None).give_up, Some(seconds(3600)));
    }

    #[test]
    fn a_machine_that_is_up_may_take_its_time_to_greet() {
        let seconds = Duration::from_secs;
        let mut machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        assert_eq!([false, true].map(|is_up| greeting_timeout(&machine, is_up)), [seconds(5), seconds(60)]);
        // Never so long that this machine's daemon takes the hook for silent.
        for (say, limit) in [(None, 60), (Some(1800), 60), (Some(30), 15), (Some(3), 5)] {
            assert_eq!(recheck_timeout(&machine, say.map(seconds)), seconds(limit));
        }
        machine.stall_timeout = seconds(3);
        assert_eq!([greeting_timeout(&machine, true), recheck_timeout(&machine, None)], [seconds(5); 2]);
    }

    #[test]
    fn a_borrowed_connection_is_soon_given_up() {
        let machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        for (round_trip, limit) in [(0, 1000), (50, 1200), (2000, 5000), (u64::MAX, 5000)] {
            assert_eq!(
                reused_greeting_timeout(&machine, Duration::from_millis(round_trip)),
                Duration::from_millis(limit)
            );
        }
    }
}
