//! Which build machine a derivation goes to.
//!
//! [`matching`] says which machines can take a build at all, [`ranking`] in which order they are tried, [`select`](mod@select)
//! tries them, and [`probe`] asks those whose state is not known. [`admission`] says whether the daemon can bear one more
//! hook. [`decision`] is what the daemon is told, [`wait_for_slot`] what an accepted build does while all slots are taken, and
//! [`explain`](mod@explain) explains it all. Everything that touches the world goes through the trait [`Environment`], so
//! that the same code runs in the hook and in simulations.

pub mod admission;
mod assess;
pub mod choice;
pub mod decision;
pub mod environment;
pub mod explain;
pub mod matching;
pub mod probe;
pub mod ranking;
pub mod rules;
pub mod select;
pub mod wait_for_slot;

pub use assess::BETTER_MACHINE_WAIT;
pub use choice::{Choice, Outcome, Query, Reason, Rejection};
pub use decision::{Decision, decide};
pub use environment::Environment;
pub use explain::{Explanation, Readiness, explain, predict};
pub use matching::Mismatch;
pub use probe::connect;
pub use rules::{DefaultRules, FileRules, RuleInput, Rules};
pub use select::select;
pub use wait_for_slot::{WaitError, wait};
