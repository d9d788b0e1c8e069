//! Upload of items that need no signature, since their paths follow from their contents.
//!
//! A signature is expensive: the first one on a connection makes the machine's daemon start `guix authenticate`, which
//! verifies each in Guile. And ImportPaths requests each 32 KiB in a round trip, whereas adding an item takes one round
//! trip in all. Over a link with high latency, however, many small items are faster in a bundle.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::time::Duration;

use super::error::UploadError;
use super::progress::Progress;
use crate::daemon::{self, Client};
use crate::local::{ContentAddress, Item, Store, content_address, read_nar, read_text};

/// The size limit of a tree that is added, in bytes: the machine's daemon reads it into memory as a whole.
const MAX_ADDED_TREE: u64 = 64 << 20;
/// The bytes that the daemon requests at a time when it imports.
pub(super) const IMPORT_CHUNK: u64 = 32 << 10;
/// The approximate time for signing an item and verifying the signature.
const SIGNATURE_COST: Duration = Duration::from_millis(2);

/// The plan of an upload: first some items are added one by one, then the others are sent as a bundle. Each part has
/// references first.
pub(super) struct Plan {
    pub added: Vec<(Item, ContentAddress)>,
    pub bundled: Vec<Item>,
}

/// Plans the upload of `items`, which are sorted with their references first, over a link with this round-trip time.
pub(super) fn plan(store: &Store, items: Vec<Item>, round_trip: Duration) -> Plan {
    let is_small = |item: &Item| item.nar_size < IMPORT_CHUNK;
    let mut addresses: Vec<Option<ContentAddress>> =
        items.iter().map(|item| content_address(store, item).filter(|_| item.nar_size <= MAX_ADDED_TREE)).collect();
    let small = items.iter().zip(&addresses).filter(|(item, address)| is_small(item) && address.is_some());
    let (count, bytes) = small.fold((0, 0), |(count, bytes), (item, _)| (count + 1, bytes + item.nar_size));
    if !is_faster_added(count, bytes, round_trip) {
        for (_, address) in items.iter().zip(&mut addresses).filter(|(item, _)| is_small(item)) {
            *address = None;
        }
    }
    let mut plan = Plan { added: Vec::new(), bundled: Vec::new() };
    let mut later = BTreeSet::new();
    for (item, address) in items.into_iter().zip(addresses) {
        match address {
            Some(address) if item.references.iter().all(|reference| !later.contains(reference)) => {
                plan.added.push((item, address));
            }
            _ => {
                later.insert(item.path.clone());
                plan.bundled.push(item);
            }
        }
    }
    plan
}

/// Returns whether so many small items take less time one by one than in a bundle.
fn is_faster_added(count: u64, bytes: u64, round_trip: Duration) -> bool {
    let round_trips = |number: u64| round_trip.as_secs_f64() * number as f64;
    round_trips(count) <= round_trips(2 + bytes / IMPORT_CHUNK) + SIGNATURE_COST.as_secs_f64() * count as f64
}

/// Adds an item.
pub(super) fn add<S: Read + Write>(
    client: &mut Client<S>,
    store: &Store,
    item: &Item,
    address: ContentAddress,
    progress: &mut Progress<'_>,
) -> Result<(), UploadError> {
    let (path, unreadable) = (&item.path, |cause| UploadError::Source(source_error(item, cause)));
    let added = match address {
        ContentAddress::Text => {
            let text = read_text(store, path).map_err(unreadable)?;
            progress.count(&text);
            client.add_text_to_store(path.name(), &text, &item.references.iter().cloned().collect())
        }
        ContentAddress::Tree => {
            let mut nar = progress.reader(read_nar(store, path).map_err(unreadable)?);
            client.add_to_store(path.name(), true, "sha256", &mut nar)
        }
    };
    match added {
        Ok(added) if added == *path => Ok(()),
        Ok(_) => Err(UploadError::Source(source_error(item, io::Error::other("its contents are not what they were")))),
        Err(daemon::Error::Source { cause, .. }) => Err(UploadError::Source(source_error(item, cause))),
        Err(error) => Err(UploadError::Machine(error)),
    }
}

fn source_error(item: &Item, cause: io::Error) -> io::Error {
    io::Error::other(format!("cannot send '{}': {cause}; try `guix gc --verify=contents,repair`", item.path))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use sha2::{Digest, Sha256};

    use super::*;
    use crate::store::path::{StoreDir, StorePath, source_path, text_path};

    const NEAR: Duration = Duration::ZERO;

    fn item(path: &StorePath, references: &[&StorePath], nar_size: u64) -> Item {
        let references = references.iter().map(|&path| path.clone()).collect();
        Item { path: path.clone(), references, deriver: None, nar_hash: [7; 32], nar_size }
    }

    /// A text, whose file it writes.
    fn text(top: &Path, name: &str, references: &[&StorePath], nar_size: u64) -> Item {
        let owned: Vec<StorePath> = references.iter().map(|&path| path.clone()).collect();
        let path = text_path(&StoreDir::default(), name, &Sha256::digest(name).into(), &owned).unwrap();
        fs::write(top.join(path.base_name()), name).unwrap();
        item(&path, references, nar_size)
    }

    /// A tree whose path follows from its hash.
    fn tree(name: &str, nar_size: u64) -> Item {
        item(&source_path(&StoreDir::default(), name, &[7; 32]).unwrap(), &[], nar_size)
    }

    fn names(plan: &Plan) -> (Vec<&str>, Vec<&str>) {
        let added = plan.added.iter().map(|(item, _)| item.path.name());
        (added.collect(), plan.bundled.iter().map(|item| item.path.name()).collect())
    }

    #[test]
    fn what_refers_to_a_bundled_item_is_bundled_after_it() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open_at(&StoreDir::default(), top.path()).unwrap();
        // An output: its path follows from something else.
        let output = StorePath::parse(&StoreDir::default(), format!("/gnu/store/{}-out", "z".repeat(32)).as_bytes());
        let output = item(&output.unwrap(), &[], 1000);
        let source = tree("source", 1000);
        let first = text(top.path(), "first", &[&source.path], 1000);
        // The last of its references is bundled, or the first.
        let mixed = text(top.path(), "mixed", &[&source.path, &output.path], 1000);
        let turned = text(top.path(), "turned", &[&output.path, &source.path], 1000);
        let chained = text(top.path(), "chained", &[&first.path, &mixed.path], 1000);
        let last = text(top.path(), "last", &[&first.path, &source.path], 1000);
        let items = [&source, &output, &first, &mixed, &turned, &chained, &last].map(Clone::clone);
        let plan = plan(&store, items.into(), NEAR);
        assert_eq!(names(&plan), (vec!["source", "first", "last"], vec!["out", "mixed", "turned", "chained"]));
        let addresses: Vec<ContentAddress> = plan.added.iter().map(|(_, address)| *address).collect();
        assert_eq!(addresses, [ContentAddress::Tree, ContentAddress::Text, ContentAddress::Text]);
    }

    #[test]
    fn the_largest_trees_are_bundled() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open_at(&StoreDir::default(), top.path()).unwrap();
        let items = vec![tree("fits", MAX_ADDED_TREE), tree("larger", MAX_ADDED_TREE + 1)];
        assert_eq!(names(&plan(&store, items, NEAR)), (vec!["fits"], vec!["larger"]));
    }

    /// On a long line each small item costs a round trip; the larger ones cost as much either way.
    #[test]
    fn many_small_items_are_bundled_on_a_long_line() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open_at(&StoreDir::default(), top.path()).unwrap();
        let items = |count: usize| -> Vec<Item> {
            let small = (0..count).map(|number| tree(&format!("small-{number}"), IMPORT_CHUNK - 1));
            small.chain([tree("large", IMPORT_CHUNK)]).collect()
        };
        let long = Duration::from_millis(100);
        let numbers = |count: usize, round_trip: Duration| {
            let plan = plan(&store, items(count), round_trip);
            (plan.added.len(), plan.bundled.len())
        };
        assert_eq!(numbers(100, NEAR), (101, 0));
        assert_eq!(numbers(2, long), (3, 0));
        let tiny = |count: usize| -> Vec<Item> {
            (0..count).map(|number| tree(&format!("tiny-{number}"), 100)).chain([tree("large", IMPORT_CHUNK)]).collect()
        };
        let plan = plan(&store, tiny(100), long);
        assert_eq!((plan.added.len(), plan.bundled.len()), (1, 100));
        assert_eq!(plan.added[0].0.path.name(), "large");
    }
}
