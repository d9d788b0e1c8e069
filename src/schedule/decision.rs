//! What the daemon is told about a request.
//!
//! A decline is a failed build where the daemon may not build itself (`--max-jobs=0`, or another system type). So while
//! any machine matches, the reply is `# decline` only if the daemon offers to build it now and its system can. A build
//! that must wait is accepted if there is room to wait, since a postponed one is asked about again only after five
//! seconds.

use super::choice::{Choice, Outcome, PassedOver};
use crate::hook::Reply;

/// What to do when no machine can take a build now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// Wait for one.
    Wait,
    /// Let the head build it, if it can.
    Local,
}

/// A request answered.
#[derive(Debug)]
pub enum Decision<S, L> {
    /// Build it on this machine.
    Accept(Choice<S, L>),
    /// Accept it, and wait for a machine.
    AcceptAndWait(Vec<PassedOver>),
    Decline(Vec<PassedOver>),
    Postpone(Vec<PassedOver>),
}

impl<S, L> Decision<S, L> {
    /// The reply that says so.
    pub fn reply(&self) -> Reply {
        match self {
            Decision::Accept(_) | Decision::AcceptAndWait(_) => Reply::Accept,
            Decision::Decline(_) => Reply::Decline,
            Decision::Postpone(_) => Reply::Postpone,
        }
    }
}

/// What a decision depends on besides the outcome of the choosing.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// The daemon would build it at once, and its system can.
    pub may_build_locally: bool,
    pub when_busy: Otherwise,
    pub when_unreachable: Otherwise,
    /// Whether one more hook process may wait for a slot.
    pub room_to_wait: bool,
}

/// Decides.
pub fn decide<S, L>(outcome: Outcome<S, L>, circumstances: &Circumstances) -> Decision<S, L> {
    let locally = |otherwise| otherwise == Otherwise::Local && circumstances.may_build_locally;
    match outcome {
        Outcome::Chosen(choice) => Decision::Accept(choice),
        Outcome::NoMatch(reasons) => Decision::Decline(reasons),
        Outcome::Busy(reasons) if locally(circumstances.when_busy) => Decision::Decline(reasons),
        Outcome::Busy(reasons) if circumstances.room_to_wait => Decision::AcceptAndWait(reasons),
        Outcome::Unreachable(reasons) if locally(circumstances.when_unreachable) => Decision::Decline(reasons),
        Outcome::Busy(reasons) | Outcome::Unreachable(reasons) => Decision::Postpone(reasons),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(outcome: Outcome<(), ()>, circumstances: &Circumstances) -> Reply {
        decide(outcome, circumstances).reply()
    }

    #[test]
    fn a_decline_only_where_the_head_can_build() {
        let mut circumstances = Circumstances {
            may_build_locally: false,
            when_busy: Otherwise::Local,
            when_unreachable: Otherwise::Local,
            room_to_wait: false,
        };
        assert_eq!(reply(Outcome::NoMatch(Vec::new()), &circumstances), Reply::Decline);
        assert_eq!(reply(Outcome::Busy(Vec::new()), &circumstances), Reply::Postpone);
        assert_eq!(reply(Outcome::Unreachable(Vec::new()), &circumstances), Reply::Postpone);
        circumstances.may_build_locally = true;
        assert_eq!(reply(Outcome::Busy(Vec::new()), &circumstances), Reply::Decline);
        assert_eq!(reply(Outcome::Unreachable(Vec::new()), &circumstances), Reply::Decline);
        circumstances.when_busy = Otherwise::Wait;
        assert_eq!(reply(Outcome::Busy(Vec::new()), &circumstances), Reply::Postpone);
        circumstances.room_to_wait = true;
        assert_eq!(reply(Outcome::Busy(Vec::new()), &circumstances), Reply::Accept);
    }
}
