//! The library as other programs see it: an [`Engine`], its [`Pool`]s of machines, and builds in them.
//!
//! The types here are those at the root of the crate; its documentation describes them. They use the same engine as the
//! hook ([`crate::engine`]), and differ from the hook in three points: no daemon has asked for the build, so a program
//! works out inputs and outputs itself (`preparation`); the outputs are registered through this machine's daemon; and
//! nothing is printed.

mod build;
mod build_error;
mod builder;
mod built;
mod challenge;
mod challenged;
mod explanation;
mod functions;
mod load_error;
mod order;
mod plan;
mod pool;
mod preparation;
mod query;
mod recorder;

pub use build::Build;
pub use build_error::BuildError;
pub use builder::{Engine, EngineBuilder, EngineError};
pub use built::{Attempt, Built, BuiltOn};
pub use challenge::Challenge;
pub use challenged::{
    Challenged, CopyDifference, CopySource, DifferenceKind, FileDifference, OutputComparison, OutputCopy,
};
pub use explanation::{Explanation, MachineExplanation, Obstacle, Readiness, Verdict};
pub use load_error::LoadError;
pub use plan::Plan;
pub use pool::Pool;
pub use query::Query;
