//! The deletion of outputs from a machine that has to build them again.
//!
//! A daemon builds no valid outputs, and exports none that are not valid. Outputs that nothing on the machine needs are
//! garbage there, so they can be deleted. guix-daemon's mode `check` is not used: what it builds cannot be exported, and
//! with `--disable-chroot` it writes over the valid output (seen with Guix 1.5.0).
//!
//! guix-daemon deletes an item together with all items that refer to it, if no root keeps one of them. So the referrers
//! are checked first, and outputs with others than each other stay. The items that protected inputs of earlier builds
//! are deleted with them. A referrer that appears between the check and the deletion is deleted, too, unless a root keeps
//! it.
//!
//! The daemon's process for a stream keeps the outputs of the builds over this stream. So sessions that are open for other
//! builds are retired, and idle streams end. The outputs are deleted before the inputs are sent: these protect the
//! derivation, and a daemon with `--gc-keep-outputs` would keep its outputs.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::cancel;
use crate::daemon::{Client, Error, Garbage};
use crate::machine::Machine;
use crate::remote::owner;
use crate::state::StateDirectory;
use crate::store::path::StorePath;
use crate::transfer::is_input_root;

/// How long a machine may need to end the streams of other builds.
const STREAM_END_TIMEOUT: Duration = Duration::from_secs(10);

/// The time between two attempts to delete outputs.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Deletes those of `outputs` that are valid on the machine, unless something there needs one of them. Returns why they
/// stay, if they do.
pub(super) fn delete_outputs<S: Read + Write>(
    client: &mut Client<S>,
    outputs: &BTreeSet<StorePath>,
    machine: &Machine,
    state: &StateDirectory,
) -> Result<Option<String>, Error> {
    let start = Instant::now();
    let mut obstacle = delete(client, outputs)?;
    if let Some(Obstacle::Live { .. }) = obstacle {
        for session in owner::sessions(&state.persist_directory(), Some(machine)).unwrap_or_default() {
            session.retire();
        }
    }
    while matches!(obstacle, Some(Obstacle::Live { .. }))
        && start.elapsed() < STREAM_END_TIMEOUT
        && !cancel::is_cancelled()
    {
        cancel::sleep(RETRY_INTERVAL);
        obstacle = delete(client, outputs)?;
    }
    Ok(obstacle.map(|obstacle| match obstacle {
        Obstacle::Referrer { output, referrer } => {
            format!("it has '{output}' and keeps it, because '{referrer}' needs it, so it does not build it again")
        }
        Obstacle::Live { output, message } => {
            format!("it has '{output}' and needs it ({message}), so it does not build it again")
        }
    }))
}

/// The reason why outputs stay on a machine.
enum Obstacle {
    /// Another item refers to an output.
    Referrer { output: StorePath, referrer: StorePath },
    /// The daemon keeps an output, and this is its message.
    Live { output: StorePath, message: String },
}

fn delete<S: Read + Write>(client: &mut Client<S>, outputs: &BTreeSet<StorePath>) -> Result<Option<Obstacle>, Error> {
    let valid = client.query_valid_paths(outputs)?;
    for output in &valid {
        let referrers = client.query_referrers(output)?;
        if let Some(referrer) = referrers.into_iter().find(|one| !outputs.contains(one) && !is_input_root(one)) {
            return Ok(Some(Obstacle::Referrer { output: output.clone(), referrer }));
        }
    }
    for output in &valid {
        match client.collect_garbage(Garbage::DeleteThese, &BTreeSet::from([output.clone()]), None) {
            // It may have been deleted with an output that it refers to.
            Ok(_) => {}
            Err(Error::Daemon { message, .. }) if client.is_valid_path(output)? => {
                return Ok(Some(Obstacle::Live { output: output.clone(), message }));
            }
            Err(Error::Daemon { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
