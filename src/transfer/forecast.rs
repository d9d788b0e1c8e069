//! A forecast of the transfer of inputs, for `offload explain`: what a build would send, and what the machine would fetch.

use std::collections::BTreeSet;

use serde::Serialize;

use super::error::UploadError;
use super::fetch::Fetch;
use super::fetch_plan::ItemSet;
use super::limiter::TransferLimiter;
use crate::daemon::Client;
use crate::local::LocalStore;
use crate::remote::{Connection, DaemonStream, SilencePolicy};
use crate::store::path::StorePath;

/// What would be transferred now.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// The items that the machine's daemon would fetch from substitute servers.
    pub fetched: Amount,
    /// The items that this machine would send.
    pub sent: Amount,
}

/// A number of items, and the bytes of their nars.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Amount {
    pub items: usize,
    pub bytes: u64,
}

/// Returns what would be transferred for a build with these inputs (a closure). Asks the substitute servers as a build
/// does, and records their failures.
pub fn forecast(
    client: &mut Client<DaemonStream>,
    connection: &Connection,
    local_store: &LocalStore<'_>,
    inputs: &BTreeSet<StorePath>,
    limiter: &TransferLimiter<'_>,
) -> Result<Forecast, UploadError> {
    // Until now the stream has the limit of a greeting.
    client.stream_mut().set_silence_policy(SilencePolicy::answer(limiter.machine, None));
    let present = client.query_valid_paths(inputs).map_err(UploadError::Machine)?;
    let missing = local_store.database.items(&inputs.difference(&present).cloned().collect())?;
    let choice = Fetch::new(connection, limiter).choose(client, &missing, &limiter.in_flight(), &local_store.store);
    let ItemSet { paths, bytes } = choice.map(|choice| choice.items).unwrap_or_default();
    let all: u64 = missing.iter().map(|item| item.nar_size).sum();
    let fetched = Amount { items: paths.len(), bytes };
    Ok(Forecast { fetched, sent: Amount { items: missing.len() - paths.len(), bytes: all.saturating_sub(bytes) } })
}
