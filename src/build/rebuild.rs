//! The deletion of outputs from a machine that has to build them again.
//!
//! A daemon builds no valid outputs, and exports none that are not valid. Outputs that nothing on the machine needs are
//! garbage there, so they can be deleted. guix-daemon's mode `check` is not used: what it builds cannot be exported, and
//! with `--disable-chroot` it writes over the valid output (seen with Guix 1.5.0).
//!
//! The daemon's process for a stream keeps the outputs of the builds over this stream. So sessions that are open for other
//! builds are retired, and idle streams end.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use log::debug;

use crate::cancel;
use crate::daemon::{Client, Error, Garbage};
use crate::machine::Machine;
use crate::remote::owner;
use crate::state::StateDirectory;
use crate::store::path::StorePath;

/// How long a machine may need to end the streams of other builds.
const STREAM_END_TIMEOUT: Duration = Duration::from_secs(10);

/// The time between two attempts to delete outputs.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Deletes those of `outputs` that nothing on the machine needs. Returns those that it still has.
pub(super) fn delete_outputs<S: Read + Write>(
    client: &mut Client<S>,
    outputs: &BTreeSet<StorePath>,
    machine: &Machine,
    state: &StateDirectory,
) -> Result<BTreeSet<StorePath>, Error> {
    let start = Instant::now();
    let mut left = delete(client, outputs)?;
    if !left.is_empty() {
        for session in owner::sessions(&state.persist_directory(), Some(machine)).unwrap_or_default() {
            session.retire();
        }
    }
    while !left.is_empty() && start.elapsed() < STREAM_END_TIMEOUT && !cancel::is_cancelled() {
        cancel::sleep(RETRY_INTERVAL);
        left = delete(client, &left)?;
    }
    Ok(left)
}

fn delete<S: Read + Write>(
    client: &mut Client<S>,
    outputs: &BTreeSet<StorePath>,
) -> Result<BTreeSet<StorePath>, Error> {
    let valid = client.query_valid_paths(outputs)?;
    // One at a time: the daemon stops at the first that is alive.
    for output in &valid {
        match client.collect_garbage(Garbage::DeleteThese, &BTreeSet::from([output.clone()]), None) {
            Ok(_) => {}
            Err(Error::Daemon { message, .. }) => debug!("'{output}' stays on the machine: {message}"),
            Err(error) => return Err(error),
        }
    }
    if valid.is_empty() { Ok(valid) } else { client.query_valid_paths(&valid) }
}
