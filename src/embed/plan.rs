//! The plan of a build: what would be done for it.

use std::collections::{BTreeMap, BTreeSet};

use super::explanation::Explanation;
use crate::store::path::StorePath;

/// What a [`Build`](super::Build) would do if it ran now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// The derivation.
    pub derivation: StorePath,
    /// The outputs by their ids, such as `out`.
    pub outputs: BTreeMap<String, StorePath>,
    /// The outputs that are not valid. If there are none, nothing is built.
    pub missing_outputs: BTreeSet<StorePath>,
    /// The inputs that are not valid, and would be requested from this machine's daemon first: sources, and the derivations
    /// of other inputs.
    pub missing_inputs: BTreeSet<StorePath>,
    /// Which machine would take the build, and why others would not.
    pub explanation: Explanation,
}
