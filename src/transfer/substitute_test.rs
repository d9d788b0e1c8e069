//! Checks whether a machine's substitute servers answer, and whether it would accept what they have.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};

use sha2::{Digest, Sha256};

use super::substitute_query::{Unavailable, query};
use crate::machine::Machine;
use crate::remote::Connection;
use crate::store::path::{StoreDir, StorePath, text_path};

/// The name of an item that no server has.
const ITEM_NAME: &str = "offload-test";

/// The result of the check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubstituteServers {
    /// The machine's daemon has substitutes off, or no servers.
    Off,
    /// There is no second stream to the daemon, so it fetches nothing.
    NoStream(String),
    /// No server answers.
    Silent(String),
    /// They have so many of the samples, signed by keys that the machine has authorized. There may be a warning about one of
    /// them.
    Answer { accepted: usize, warning: Option<String> },
}

/// Asks the servers of `machine` about `samples`, and about an item that does not exist: the machine does not remember an
/// answer about that one.
pub fn check(
    connection: &Connection,
    machine: &Machine,
    store: &StoreDir,
    samples: &BTreeSet<StorePath>,
) -> SubstituteServers {
    let chance = RandomState::new().build_hasher().finish().to_le_bytes();
    let mut paths = samples.clone();
    paths.extend(text_path(store, ITEM_NAME, &Sha256::digest(chance).into(), &[]));
    match query(connection, machine, store, &paths) {
        Err(Unavailable::NoStream(error)) => SubstituteServers::NoStream(error),
        Err(Unavailable::NoReply(cause)) => SubstituteServers::Silent(cause),
        Ok(answer) => match (answer.known.len(), answer.complaint) {
            (0, Some(cause)) => SubstituteServers::Silent(cause),
            (0, None) if !answer.has_printed => SubstituteServers::Off,
            (accepted, warning) => SubstituteServers::Answer { accepted, warning },
        },
    }
}
