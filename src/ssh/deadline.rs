//! The time at which a call is given up, with the cause to report then.

use std::time::{Duration, Instant};

use super::error::Cause;

/// The time at which a call is given up.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    /// The length of the time limit, for the message; `None` if the caller has set a point in time.
    after: Option<Duration>,
}

impl Deadline {
    pub(super) fn after(time: Duration) -> Deadline {
        Deadline { at: Instant::now() + time, after: Some(time) }
    }

    pub(super) fn at(at: Instant) -> Deadline {
        Deadline { at, after: None }
    }

    pub(super) fn instant(self) -> Instant {
        self.at
    }

    /// Returns the cause for a call that has passed the deadline.
    pub(super) fn cause(self) -> Cause {
        self.after.map_or(Cause::Deadline, Cause::TimedOut)
    }
}
