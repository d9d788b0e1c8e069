//! Which build machine a derivation goes to.
//!
//! [`matching`] says which machines can take a build at all, [`ranking`] in which order they are tried, [`choice`] tries
//! them: it takes one slot at a time and asks the machine how it is. Everything that touches the world goes through the
//! trait [`Surroundings`], so that the same code runs in the hook and in simulations.

pub mod choice;
pub mod decision;
pub mod matching;
pub mod ranking;
pub mod rules;

pub use choice::{Choice, Outcome, PassedOver, Reason, Surroundings, choose};
pub use decision::{Circumstances, Decision, Otherwise, decide};
pub use matching::Mismatch;
pub use rules::{BuiltIn, FileRules, Known, Rules};
