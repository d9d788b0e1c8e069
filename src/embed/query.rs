//! The question which machine would build something.

/// Asks which machine would build something: a derivation of a system type that requires features.
///
/// ```
/// let query = offload::Query::system("x86_64-linux").feature("kvm").feature("big-parallel");
/// # let _ = query;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Query {
    pub(super) system: String,
    pub(super) features: Vec<String>,
    /// The file name of the derivation, if it is about a certain one.
    pub(super) derivation: Option<String>,
}

impl Query {
    /// Asks about any derivation of this system type.
    pub fn system(system: impl Into<String>) -> Query {
        Query { system: system.into(), features: Vec::new(), derivation: None }
    }

    /// Adds a feature that the machine must offer.
    pub fn feature(mut self, feature: impl Into<String>) -> Query {
        self.features.push(feature.into());
        self
    }
}
