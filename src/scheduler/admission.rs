//! Whether guix-daemon can bear one more hook, and what a request is told where it cannot.
//!
//! The daemon holds descriptors for each hook that it has not waited for ([`crate::hook::daemon_process`]), and one that
//! has too many is gone, with all the builds of its client. So a build is accepted only while a safe part of the
//! daemon's descriptors is free, whether it would be built at once or would wait for a slot.
//!
//! What is not accepted has to come again soon. The daemon asks again about a postponed build after five seconds, and
//! nothing wakes it before. A *declined* build, where the daemon has no room for a local one either, is asked about
//! again as soon as any of its children ends: then the daemon has got its descriptors back, too. So that is the reply
//! for some builds, where those that were accepted are done before the five seconds are over. For all of them it would
//! not do: the daemon would ask about hundreds of builds whenever one ends. Such a decline is no failed build: the
//! daemon reports one only when it has no children left, and each of them that ends makes it ask again.

use std::time::Duration;

use crate::hook::Reply;
use crate::hook::daemon_process::Children;

/// How long guix-daemon waits before it asks again about a postponed build (`build-poll-interval`).
pub const DAEMON_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// With fewer children than this, what the daemon holds is not for hooks that it is about to wait for.
const FEW_CHILDREN: usize = 8;

/// Whether a daemon with so many open descriptors can bear one more hook. `starts_builds`: it may start builds of its
/// own, without asking a hook, and needs some descriptors for each of them.
pub fn has_room(open: usize, limit: usize, starts_builds: bool) -> bool {
    let reserve = if starts_builds { limit / 4 } else { limit / 8 };
    open <= limit - reserve
}

/// Whether one more build may be accepted for a daemon whose descriptors cannot be counted: `accepted` were since it
/// started, none of which need have been waited for.
pub fn accepts_uncounted(accepted: usize, limit: usize) -> bool {
    accepted < limit / 10
}

/// Replies to requests that come while the daemon has no room for another hook, until it has waited for some.
#[derive(Clone, Copy, Debug)]
pub struct Refusals {
    /// How many builds are to be asked about again as soon as a child ends.
    wakeful: usize,
    made: usize,
    is_exhausted: bool,
}

impl Refusals {
    /// `children`: those of the daemon, as far as they can be seen.
    pub fn new(children: Option<Children>) -> Refusals {
        let Some(Children { count, median_age }) = children else {
            return Refusals { wakeful: 0, made: 0, is_exhausted: false };
        };
        // Half of them came within the median age, so as many end in that time where builds come and go.
        let pace = (count / 2) as f64 / median_age.as_secs_f64().max(0.1);
        let needed = (pace * DAEMON_POLL_INTERVAL.as_secs_f64()) as usize;
        let wakeful = needed.saturating_sub(count);
        Refusals { wakeful, made: 0, is_exhausted: count < FEW_CHILDREN }
    }

    /// Refusals by a daemon that will have no room as long as its client's request goes on.
    pub fn for_good() -> Refusals {
        Refusals { wakeful: 0, made: 0, is_exhausted: true }
    }

    /// Whether waiting is in vain: the daemon has few children, and no room all the same. It keeps a descriptor for each
    /// build of the request that is done.
    pub fn is_exhausted(&self) -> bool {
        self.is_exhausted
    }

    /// Whether all builds so far come again soon, or some only after [`DAEMON_POLL_INTERVAL`].
    pub fn are_slow(&self) -> bool {
        self.made > self.wakeful + 1
    }

    /// The reply to the next request. `starts_builds` as in [`has_room`].
    pub fn next(&mut self, starts_builds: bool) -> Reply {
        self.made += 1;
        if self.is_exhausted {
            // The daemon builds it, or waits for what still runs, or says that it cannot build anything.
            return Reply::Decline;
        }
        // The first one comes again whatever happens to the daemon's children.
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
    fn as_many_hooks_as_leave_an_eighth_or_a_quarter_free() {
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
    fn what_cannot_be_counted_is_taken_to_be_held() {
        for limit in [64, 512, 1024] {
            let most = (0..1000).find(|accepted| !accepts_uncounted(*accepted, limit)).unwrap();
            assert!(most > 0 && has_room(12 + most * HOLDS, limit, true), "{most} with {limit}");
        }
    }

    #[test]
    fn short_builds_come_again_as_soon_as_one_ends() {
        // 85 in each second, so 425 until those that are postponed come; 170 of these have been accepted.
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
    fn a_daemon_that_may_build_is_never_told_to() {
        assert_eq!(replies(Refusals::new(hooks(170, 1.0)), 300, true), [300, 0]);
    }

    #[test]
    fn without_a_view_of_the_children_all_wait_for_five_seconds() {
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
