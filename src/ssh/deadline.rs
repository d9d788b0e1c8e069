//! A point in time at which a call is given up, and what is said then.

use std::time::{Duration, Instant};

use super::error::Cause;

#[derive(Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    /// For the message: how long it was, where that was configured.
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

    /// What to say when it has passed.
    pub(super) fn cause(self) -> Cause {
        self.after.map_or(Cause::Deadline, Cause::TimedOut)
    }
}
