//! Upload of the inputs that the build machine lacks.
//!
//! One query finds the missing inputs. They are sent (`send_items`), except those that the machine fetches from
//! substitute servers meanwhile (`fetch`), and those that another process is sending to the same machine:
//! the upload waits for both (`limiter`). Another query then finds what is still missing.
//!
//! The machine's garbage collector may run between the query and the build. Items that were just sent are temporary
//! roots of the daemon that imported them (`LocalStore::importPath` and its like add one for each). To protect the
//! inputs that were already present, a small text item that refers to all inputs is added. Adding it makes it a
//! temporary root too, a root protects its references, and it can only be added while all of these are valid. So one
//! round trip both protects the inputs and detects whether some were lost before; in that case the upload starts again
//! from the query. The item is garbage as soon as the connection ends, and the same inputs give the same item.

use std::collections::BTreeSet;

use super::bundle::send_items;
use super::error::{MAX_UPLOAD_ATTEMPTS, UploadError};
use super::fetch::Fetch;
use super::limiter::{self, SlotRequest, TransferLimiter};
use super::progress::Progress;
use super::signing_connection::SigningConnection;
use crate::daemon::{self, Client};
use crate::events::Observer;
use crate::failpoints::{Failpoint, failpoint};
use crate::local::Database;
use crate::local::LocalStore;
use crate::remote::DaemonStream;
use crate::store::path::StorePath;
use crate::timing::Stopwatch;

/// The name of the item that protects the inputs.
const ROOT_NAME: &str = "offload-inputs";

/// Returns whether an item is one that has protected inputs on a machine. Without a connection that holds it, it is
/// garbage.
pub fn is_input_root(item: &StorePath) -> bool {
    item.base_name().split_once('-').is_some_and(|(_, name)| name == ROOT_NAME)
}

/// Sends those of `inputs` (a closure) that the machine of `client` lacks. On return all of them are valid there, and
/// protected until the connection ends. `signing_connection` is started as soon as it is clear that no import is
/// needed.
pub fn upload(
    client: &mut Client<DaemonStream>,
    local_store: &LocalStore<'_>,
    inputs: &BTreeSet<StorePath>,
    signing_connection: &mut SigningConnection<'_>,
    limiter: &TransferLimiter<'_>,
    observer: &mut dyn Observer,
) -> Result<(), UploadError> {
    let tops = tops(&local_store.database, inputs)?;
    let connection = signing_connection.connection.clone();
    let mut fetch = Fetch::new(&connection, limiter);
    for _ in 0..MAX_UPLOAD_ATTEMPTS {
        if supply(client, local_store, inputs, signing_connection, &mut fetch, observer)? == SupplyResult::Lost {
            continue;
        }
        let mut stopwatch = Stopwatch::start();
        let protected = client.add_text_to_store(ROOT_NAME, b"", &tops);
        stopwatch.lap("protect");
        match protected {
            Ok(_) => return Ok(()),
            Err(daemon::Error::Daemon { .. }) if lost(client, inputs, &BTreeSet::new())? => {}
            Err(error) => return Err(UploadError::Machine(error)),
        }
    }
    Err(UploadError::Lost)
}

#[derive(PartialEq)]
enum SupplyResult {
    /// All inputs were present, or were sent.
    Complete,
    /// Some were lost meanwhile.
    Lost,
}

/// Sends the missing inputs, or has the machine fetch them, in coordination with other processes that do so.
fn supply(
    client: &mut Client<DaemonStream>,
    local_store: &LocalStore<'_>,
    inputs: &BTreeSet<StorePath>,
    signing_connection: &mut SigningConnection<'_>,
    fetch: &mut Fetch<'_>,
    observer: &mut dyn Observer,
) -> Result<SupplyResult, UploadError> {
    let limiter = fetch.limiter;
    let mut wait = limiter.wait();
    loop {
        let in_flight = limiter.in_flight();
        signing_connection.is_busy = !in_flight.is_empty();
        let mut stopwatch = Stopwatch::start();
        let present = client.query_valid_paths(inputs).map_err(UploadError::Machine)?;
        stopwatch.lap("query");
        let missing: BTreeSet<StorePath> = inputs.difference(&present).cloned().collect();
        fetch.settle(&missing, observer);
        if missing.is_empty() {
            signing_connection.start(client);
            return Ok(SupplyResult::Complete);
        }
        let items = local_store.database.items(&missing)?;
        fetch.start(client, &items, &in_flight, &local_store.store, observer);
        let fetched = fetch.in_flight();
        if limiter::free(&items, &fetched).is_empty() {
            fetch.wait(observer);
            continue;
        }
        let in_flight = in_flight.union(&fetched).cloned().collect();
        let (slot, items) = match limiter.upload(items, &in_flight, &mut wait, observer) {
            SlotRequest::Granted(slot, items) => (slot, items),
            SlotRequest::Requery => continue,
        };
        failpoint(Failpoint::UploadSlot);
        let is_all = items.len() == missing.len();
        let mut progress = Progress::start(&items, &limiter.machine.name, observer);
        let count = items.len();
        let sent = send_items(client, local_store, items, signing_connection, &mut progress);
        failpoint(Failpoint::Uploaded);
        if sent.is_ok() {
            progress.end(count, limiter, signing_connection.connection.compressed());
        }
        drop(slot);
        match sent {
            Ok(()) if is_all => return Ok(SupplyResult::Complete),
            Ok(()) => wait = limiter.wait(),
            // The references of the items were present a moment ago.
            Err(UploadError::Machine(daemon::Error::Daemon { .. })) if lost(client, inputs, &missing)? => {
                return Ok(SupplyResult::Lost);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Returns those of `inputs` that no other of them refers to: a root that refers to them protects all.
fn tops(database: &Database, inputs: &BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>, UploadError> {
    let mut tops = inputs.clone();
    for item in database.items(inputs)? {
        for reference in item.references.iter().filter(|reference| **reference != item.path) {
            tops.remove(reference);
        }
    }
    Ok(tops)
}

/// Returns whether any of `inputs`, except `missing`, is gone.
fn lost(
    client: &mut Client<DaemonStream>,
    inputs: &BTreeSet<StorePath>,
    missing: &BTreeSet<StorePath>,
) -> Result<bool, UploadError> {
    if !client.is_usable() {
        return Ok(false);
    }
    let expected: BTreeSet<StorePath> = inputs.difference(missing).cloned().collect();
    let present = client.query_valid_paths(&expected).map_err(UploadError::Machine)?;
    Ok(present.len() < expected.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::path::StoreDir;

    #[test]
    fn what_is_protected_protects_all_inputs() {
        // An item that refers to itself; one that others refer to, which refers to itself too; one of two that a top
        // refers to; one that stands alone.
        let references = [("a", "ab"), ("b", "b"), ("c", "bd"), ("d", ""), ("e", "")];
        let path = |name: &str| format!("/gnu/store/{}-{name}", "0".repeat(32));
        let directory = tempfile::tempdir().unwrap();
        let connection = rusqlite::Connection::open(directory.path().join("db.sqlite")).unwrap();
        let schema = "create table ValidPaths (id integer primary key, path text unique not null, hash text not null, \
                      registrationTime integer not null, deriver text, narSize integer); \
                      create table Refs (referrer integer not null, reference integer not null);";
        connection.execute_batch(schema).unwrap();
        for (name, _) in references {
            let hash = format!("sha256:{}", "0".repeat(64));
            let row = "insert into ValidPaths (path, hash, registrationTime, narSize) values (?, ?, 1, 120)";
            connection.execute(row, [path(name), hash]).unwrap();
        }
        let pairs = references.iter().flat_map(|(name, to)| to.chars().map(|to| [path(name), path(&to.to_string())]));
        for pair in pairs {
            let row =
                "insert into Refs select a.id, b.id from ValidPaths a, ValidPaths b where a.path = ? and b.path = ?";
            connection.execute(row, pair).unwrap();
        }
        let store = StoreDir::default();
        let database = Database::open(directory.path(), &store).unwrap();
        let set = |names: &str| -> BTreeSet<StorePath> {
            names.chars().map(|name| StorePath::parse(&store, path(&name.to_string()).as_bytes()).unwrap()).collect()
        };
        for (inputs, expected) in [("abcde", "ace"), ("b", "b"), ("bd", "bd"), ("ab", "a"), ("", "")] {
            assert_eq!(tops(&database, &set(inputs)).unwrap(), set(expected), "{inputs}");
        }
    }
}
