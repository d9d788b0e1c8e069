//! The result of a build.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::local::LocalDaemon;
use crate::store::path::StorePath;

/// The result of a build that succeeded: valid outputs.
///
/// The outputs are temporary roots: the garbage collector keeps them until this value and its clones are dropped. So a
/// program drops it when it has made a root of its own, or needs them no more.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Built {
    /// The derivation.
    pub derivation: StorePath,
    /// The outputs by their ids, such as `out`.
    pub outputs: BTreeMap<String, StorePath>,
    /// Where it was built.
    pub machine: BuiltOn,
    /// The attempts, in their order. The last one succeeded. None if the outputs were valid already.
    pub attempts: Vec<Attempt>,
    /// Bytes of inputs that this machine sent to machines.
    pub sent: u64,
    /// Bytes of inputs that machines fetched from substitute servers.
    pub substituted: u64,
    /// Bytes of outputs that were fetched from the machine.
    pub fetched: u64,
    /// The time until a machine was chosen, over all attempts: preparing inputs, waiting for others and for a slot.
    pub waiting: Duration,
    /// The time for connecting and sending inputs.
    pub sending: Duration,
    /// The time for the build itself.
    pub building: Duration,
    /// The time for fetching the outputs.
    pub fetching: Duration,
    /// The time for registering the outputs.
    pub registering: Duration,
    pub(super) roots: Roots,
}

impl Built {
    /// Lets go of the outputs: the garbage collector may delete them, unless a clone of this value is left.
    pub fn release(self) {
        let Roots(daemon) = self.roots;
        drop(daemon);
    }
}

/// Where a derivation was built.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuiltOn {
    /// On the machine of this name.
    Machine(String),
    /// Nowhere: the outputs were valid already, or another program has built them meanwhile.
    AlreadyValid,
}

impl fmt::Display for BuiltOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuiltOn::Machine(name) => f.write_str(name),
            BuiltOn::AlreadyValid => f.write_str("no machine (already valid)"),
        }
    }
}

/// An attempt to build on a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// The name of the machine.
    pub machine: String,
    /// The reason why it failed, if it did.
    pub failure: Option<String>,
}

/// The connection to this machine's daemon that protects the outputs.
#[derive(Clone)]
pub(super) struct Roots(pub Arc<Mutex<LocalDaemon>>);

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Roots")
    }
}
