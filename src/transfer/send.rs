//! Sending the inputs that the build machine lacks.
//!
//! One query tells which inputs are missing; they go over as one signed bundle, references first, which the machine's
//! daemon pulls piece by piece. Memory does not grow with what is sent.
//!
//! Between the query and the build the machine's garbage collector may run. Items that were just imported are temporary
//! roots of the daemon that imported them (`LocalStore::importPath` adds one for each). For those found present, a
//! small text item that refers to all inputs is added: adding it makes it a temporary root too, a root protects what it
//! refers to, and it can only be added while all of that is valid. So one round trip both protects the inputs and notices
//! if some were lost before; then everything starts again from the query. The item is garbage as soon as the connection
//! ends, and the same inputs give the same item.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use crate::daemon;
use crate::events::{Event, Observer};
use crate::gcrypt::SigningKey;
use crate::local;
use crate::store::path::StorePath;

/// How often inputs may get lost while they are sent before the machine is given up.
const ATTEMPTS: usize = 3;

/// Name of the item that protects the inputs.
const ROOT: &str = "offload-inputs";

/// Why inputs could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// This machine's store or key is at fault; no other build machine would help.
    #[error(transparent)]
    Head(#[from] local::Error),
    /// The build machine, or the way there.
    #[error(transparent)]
    Machine(#[from] daemon::Error),
    /// Inputs keep disappearing from its store.
    #[error("inputs were lost {ATTEMPTS} times while they were sent; is its garbage collector running all the time?")]
    Lost,
}
