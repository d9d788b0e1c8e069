//! Which build machine a derivation goes to.
//!
//! [`matching`] says which machines can take a build at all, [`ranking`] in which order they are tried, [`search`]
//! tries them, and [`ask`] asks those whose state is not known. [`decision`] is what the daemon is told, [`waiting`]
//! what an accepted build does while all slots are taken, and [`survey`](mod@survey) explains it all. Everything that
//! touches the world goes through the trait [`Surroundings`], so that the same code runs in the hook and in
//! simulations.

pub mod ask;
pub mod choice;
pub mod decision;
mod look;
pub mod matching;
pub mod question;
pub mod ranking;
pub mod rules;
pub mod search;
pub mod surroundings;
pub mod survey;
pub mod waiting;

pub use ask::connect;
pub use choice::{Choice, Outcome, PassedOver, Reason};
pub use decision::{Decision, Otherwise, decide};
pub use look::PATIENCE;
pub use matching::Mismatch;
pub use question::Question;
pub use rules::{BuiltIn, FileRules, Known, Rules};
pub use search::choose;
pub use surroundings::Surroundings;
pub use survey::{Surveyed, Verdict, foresee, survey};
pub use waiting::{Waited, wait};
