//! The choice of the build machine for a derivation.
//!
//! [`soonest`] estimates when a build would be done on each machine, for machine files that choose by it.
//!
//! [`matching`] decides which machines can take a build at all, and [`ranking`] orders them. [`select`](mod@select)
//! tries them in this order, and [`probe`] probes those whose state is not known; [`contact`] makes sure that the
//! chosen one is alive. [`admission`] decides whether the
//! daemon has room for one more hook, [`decision`] replies to the daemon, [`wait_for_slot`] waits while all slots are
//! taken, and [`explain`](mod@explain) explains the choice. All effects go through the trait [`Environment`], so that
//! the same code runs in the hook and in simulations.

pub mod admission;
mod assess;
mod candidates;
pub mod choice;
pub mod contact;
pub mod decision;
pub mod environment;
pub mod explain;
pub mod file_rules;
pub mod matching;
mod on_demand;
mod only_named;
mod outlook;
mod power_state;
pub mod probe;
pub mod ranking;
pub mod rules;
pub mod select;
pub mod soonest;
pub mod wait_for_slot;

pub use assess::BETTER_MACHINE_WAIT;
pub use choice::{Choice, Outcome, Query, Reason, Rejection};
pub use decision::{Decision, decide};
pub use environment::Environment;
pub use explain::{Explanation, Readiness, explain, predict};
pub use file_rules::{FileRules, WarningSink};
pub use matching::Mismatch;
pub use only_named::OnlyNamed;
pub use power_state::PowerState;
pub use rules::{DefaultRules, LearnedSource, RuleInput, Rules, Wants};
pub use select::select;
pub use soonest::Estimate;
pub use wait_for_slot::{WaitError, WaitReason, wait};
