//! Whether guix-daemon has descriptors for one more hook, and the reply to a request if it has not.
//!
//! The daemon holds descriptors for each hook that it has not waited for ([`crate::hook::daemon_process`]). A daemon
//! that runs out of them dies, with all the builds of its client. So a build is accepted only while a safe part of the
//! daemon's descriptors is free, no matter whether the build would start at once or wait for a slot.
//!
//! A build that is not accepted has to be offered again soon. The daemon offers a *postponed* build again after five
//! seconds; nothing makes it do so earlier. It offers a *declined* build again as soon as any of its children ends, if
//! it has no room for a local build either; by then it has its descriptors back, too. So some builds are declined: as
//! many as can be accepted before the five seconds are over. Declining all of them would not do, because the daemon
//! would offer hundreds of builds whenever one ends. Such a decline does not fail the build: the daemon reports a
//! failure only when it has no children left, and each child that ends makes it ask again.

use std::time::Duration;

use crate::hook::Reply;
use crate::hook::daemon_process::Children;

/// The time after which guix-daemon offers a postponed build again (`build-poll-interval`).
pub const DAEMON_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// With fewer children than this, the daemon's descriptors do not belong to hooks that it is about to wait for.
const FEW_CHILDREN: usize = 8;

/// Returns whether a daemon with `open` descriptors has room for one more hook. `starts_builds` means that it may start
/// local builds without asking a hook; it needs some descriptors for each of them.
pub fn has_room(open: usize, limit: usize, starts_builds: bool) -> bool {
    let reserve = if starts_builds { limit / 4 } else { limit / 8 };
    open <= limit - reserve
}

/// Returns whether a daemon whose descriptors cannot be counted may get one more build. It has `accepted` builds since
/// it started, and may not have waited for any of them yet.
pub fn accepts_uncounted(accepted: usize, limit: usize) -> bool {
    accepted < limit / 10
}

/// Chooses replies to requests that arrive while the daemon has no room for another hook.
#[derive(Clone, Copy, Debug)]
pub struct Refusals {
    /// The number of builds to decline, so that the daemon offers them again as soon as a child ends.
    wakeful: usize,
    made: usize,
    is_exhausted: bool,
}

impl Refusals {
    /// Chooses by the daemon's children, if they can be counted.
    pub fn new(children: Option<Children>) -> Refusals {
        let Some(Children { count, median_age }) = children else {
            return Refusals { wakeful: 0, made: 0, is_exhausted: false };
        };
        // Half of them started within the median age, so at a steady rate as many end in that time.
        let pace = (count / 2) as f64 / median_age.as_secs_f64().max(0.1);
        let needed = (pace * DAEMON_POLL_INTERVAL.as_secs_f64()) as usize;
        let wakeful = needed.saturating_sub(count);
        Refusals { wakeful, made: 0, is_exhausted: count < FEW_CHILDREN }
    }

    /// Chooses for a daemon that will have no room until its client's request ends.
    pub fn for_good() -> Refusals {
        Refusals { wakeful: 0, made: 0, is_exhausted: true }
    }

    /// Returns whether waiting is useless: the daemon has few children and still no room. It holds a descriptor for
    /// each finished build of the client's request.
    pub fn is_exhausted(&self) -> bool {
        self.is_exhausted
    }

    /// Returns whether the daemon offers some of the builds again only after [`DAEMON_POLL_INTERVAL`].
    pub fn are_slow(&self) -> bool {
        self.made > self.wakeful + 1
    }

    /// Returns the reply to the next request. `starts_builds` is that of [`has_room`].
    pub fn next(&mut self, starts_builds: bool) -> Reply {
        self.made += 1;
        if self.is_exhausted {
            // The daemon builds it, waits for its running children, or reports that it cannot build anything.
            return Reply::Decline;
        }
        // The daemon offers the first one again in any case, whatever its children do.
        if starts_builds || self.made == 1 || self.made > self.wakeful + 1 { Reply::Postpone } else { Reply::Decline }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLDS: usize = 5;

    fn hooks(count: usize, median_age: f64) -> Option<Children> {
        Some(Children { count, median_age: Duration::from_secs_f64(median_age) })
    }

    fn replies(mut refusals: Refusals, count: usize, starts_builds: bool) -> [usize; 2] {
        let replies: Vec<Reply> = (0..count).map(|_| refusals.next(starts_builds)).collect();
        [Reply::Postpone, Reply::Decline].map(|kind| replies.iter().filter(|reply| **reply == kind).count())
    }

    #[test]
    fn an_eighth_or_a_quarter_of_the_descriptors_stays_free() {
        let most =
            |limit, starts_builds| (0..1000).find(|hooks| !has_room(12 + hooks * HOLDS, limit, starts_builds)).unwrap();
        assert_eq!([most(1024, false), most(1024, true)], [177, 152]);
        assert_eq!([most(512, false), most(512, true)], [88, 75]);
        for limit in [0, 1, 7, 64, 256, 1024] {
            for starts_builds in [false, true] {
                assert!(most(limit, starts_builds) * HOLDS <= limit);
            }
        }
    }

    #[test]
    fn uncounted_builds_are_taken_to_hold_descriptors() {
        for limit in [64, 512, 1024] {
            let most = (0..1000).find(|accepted| !accepts_uncounted(*accepted, limit)).unwrap();
            assert!(most > 0 && has_room(12 + most * HOLDS, limit, true), "{most} with {limit}");
        }
    }

    #[test]
    fn short_builds_are_offered_again_as_soon_as_one_ends() {
        // 85 builds end in a second: 425 until the daemon offers postponed builds again; 170 of these are accepted
        // already.
        let refusals = Refusals::new(hooks(170, 1.0));
        assert_eq!(replies(refusals, 200, false), [1, 199]);
        assert_eq!(replies(refusals, 1000, false), [1000 - 255, 255]);
    }

    #[test]
    fn long_builds_do_not_keep_the_daemon_asking() {
        for median_age in [600.0, 60.0, 2.5] {
            assert_eq!(replies(Refusals::new(hooks(170, median_age)), 1000, false), [1000, 0]);
        }
    }

    #[test]
    fn a_daemon_that_may_build_gets_no_decline() {
        assert_eq!(replies(Refusals::new(hooks(170, 1.0)), 300, true), [300, 0]);
    }

    #[test]
    fn without_a_count_of_the_children_all_wait_for_five_seconds() {
        let mut refusals = Refusals::new(None);
        assert!(!refusals.is_exhausted());
        assert_eq!(replies(refusals, 300, false), [300, 0]);
        refusals.next(false);
        assert!(!refusals.are_slow());
        refusals.next(false);
        assert!(refusals.are_slow());
    }

    #[test]
    fn a_full_daemon_with_few_children_is_exhausted() {
        for refusals in [Refusals::new(hooks(7, 1.0)), Refusals::for_good()] {
            assert!(refusals.is_exhausted());
            assert_eq!(replies(refusals, 10, false), [0, 10]);
            assert_eq!(replies(refusals, 10, true), [0, 10]);
        }
        assert!(!Refusals::new(hooks(8, 1.0)).is_exhausted());
    }
}
