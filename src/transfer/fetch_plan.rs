//! Which missing inputs the machine's daemon fetches from substitute servers, and whether that pays.
//!
//! The servers are asked about *candidates*: items of [`MIN_CANDIDATE`] bytes or more that are neither derivations nor
//! local sources, which no server has, and the missing items that these refer to, of any size. Of those that the servers
//! have, an item is fetched if all missing items that it refers to are fetched, too: then no fetch waits for an upload.
//! A server's record of an item must agree with the head's own.
//!
//! Fetching pays if sending the candidates would take longer than [`MIN_UPLOAD_TIME`], and longer than fetching them. Both
//! rates are the measured ones. The rate of a link that was not measured is guessed from its latency, and that of a server
//! from which nothing was fetched is [`ASSUMED_FETCH_RATE`]: in a fast local network, sending wins.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::daemon::SubstitutablePathInfo;
use crate::local::Item;
use crate::machine::{Compressed, Substitutes};
use crate::state::Throughput;
use crate::state::health::Time;
use crate::store::path::StorePath;

/// A query costs as much as sending an item of this size, in bytes.
const MIN_CANDIDATE: u64 = 64 << 10;
/// The time of an upload from which on it pays to ask the servers.
pub const MIN_UPLOAD_TIME: Duration = Duration::from_secs(3);

/// The round-trip time, the daemon's work included, below which a link is one of a local network.
const LOCAL_ROUND_TRIP: Duration = Duration::from_millis(5);
/// The assumed rate of a link in a local network that was not measured, in bytes per second.
const LOCAL_RATE: f64 = 100e6;
/// The assumed rate of any other link that was not measured: that of a home's or office's line.
const REMOTE_RATE: f64 = 2.5e6;

/// The assumed rate of a fetch that was not measured, in bytes of nars per second: that of a public server.
const ASSUMED_FETCH_RATE: f64 = 20e6;
/// The time of a query: the start of `guix substitute` on the machine, which is written in Scheme, and the requests.
const QUERY_TIME: Duration = Duration::from_secs(1);

/// With `"auto"`, a fetch continues if it is at least this part as fast as an upload.
const MIN_SHARE: f64 = 0.25;
/// With `"always"`, a fetch continues if it is at least as fast as this, in bytes per second.
const MIN_RATE: f64 = 16e3;

/// Items and their bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ItemSet {
    pub paths: BTreeSet<StorePath>,
    pub bytes: u64,
}

impl ItemSet {
    fn insert(&mut self, item: &Item) {
        if self.paths.insert(item.path.clone()) {
            self.bytes += item.nar_size;
        }
    }
}

/// Returns the items about which the servers are asked. `missing` are sorted with their references first. `is_source`
/// is called for items without a deriver.
pub fn candidates(missing: &[Item], is_source: impl Fn(&Item) -> bool) -> ItemSet {
    let mut wanted = BTreeSet::new();
    let mut candidates = ItemSet::default();
    // An item comes before those that it refers to.
    for item in missing.iter().rev().filter(|item| !item.path.is_derivation()) {
        let is_large = item.nar_size >= MIN_CANDIDATE && (item.deriver.is_some() || !is_source(item));
        if is_large || wanted.contains(&item.path) {
            wanted.extend(item.references.iter().cloned());
            candidates.insert(item);
        }
    }
    candidates
}

/// Returns the bytes of nars per second that an upload is expected to send.
pub fn upload_rate(throughput: &Throughput, compressed: Compressed, round_trip: Duration, now: Time) -> f64 {
    match throughput.sending.filter(|sending| sending.counts(now)) {
        Some(sending) => {
            let ratio = sending.data.filter(|_| compressed.sending).map_or(1.0, |data| data.ratio);
            sending.rate / ratio.max(0.01)
        }
        None if round_trip < LOCAL_ROUND_TRIP => LOCAL_RATE,
        None => REMOTE_RATE,
    }
}

/// Returns the slowest rate at which a fetch continues, in bytes per second. Downloads are compressed, and uploads may not
/// be.
pub fn min_fetch_rate(substitutes: Substitutes, upload_rate: f64) -> f64 {
    match substitutes {
        Substitutes::Auto => upload_rate * MIN_SHARE,
        Substitutes::Always | Substitutes::Never => MIN_RATE,
    }
}

/// Returns whether fetching so many bytes pays. Rates are in bytes per second; `fetch_rate` is that of the last fetch.
pub fn pays(bytes: u64, upload_rate: f64, fetch_rate: Option<f64>) -> bool {
    let upload_time = bytes as f64 / upload_rate;
    let fetch_time = QUERY_TIME.as_secs_f64() + bytes as f64 / fetch_rate.unwrap_or(ASSUMED_FETCH_RATE);
    upload_time > MIN_UPLOAD_TIME.as_secs_f64() && upload_time > fetch_time
}

/// Returns the items to fetch, of those that the servers have. `missing` are sorted with their references first.
pub fn to_fetch(missing: &[Item], known: &BTreeMap<StorePath, SubstitutablePathInfo>) -> ItemSet {
    let all: BTreeSet<&StorePath> = missing.iter().map(|item| &item.path).collect();
    let mut fetched = ItemSet::default();
    for item in missing {
        let Some(info) = known.get(&item.path) else { continue };
        let is_here = |path: &StorePath| *path == item.path || !all.contains(path) || fetched.paths.contains(path);
        if agrees(item, info) && item.references.iter().all(is_here) {
            fetched.insert(item);
        }
    }
    fetched
}

/// Returns whether a server's record of an item is that of the head.
fn agrees(item: &Item, info: &SubstitutablePathInfo) -> bool {
    let is_same_size = info.nar_size == 0 || item.nar_size == 0 || info.nar_size == item.nar_size;
    is_same_size && info.references.iter().eq(item.references.iter())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::throughput::{Data, LinkSpeed};
    use crate::store::path::StoreDir;

    fn path(letter: char, name: &str) -> StorePath {
        let path = format!("/gnu/store/{}-{name}", letter.to_string().repeat(32));
        StorePath::parse(&StoreDir::default(), path.as_bytes()).unwrap()
    }

    /// An output of this size that refers to others.
    fn item(letter: char, nar_size: u64, references: &str) -> Item {
        let references = references.chars().map(|letter| path(letter, "x")).collect();
        let deriver = Some(path('z', "x.drv"));
        Item { path: path(letter, "x"), references, deriver, nar_hash: [0; 32], nar_size }
    }

    fn letters(items: &ItemSet) -> String {
        items.paths.iter().map(|path| path.hash_part().chars().next().unwrap()).collect()
    }

    const LARGE: u64 = 64 << 10;

    #[test]
    fn large_outputs_and_what_they_refer_to_are_candidates() {
        let source = |letter| Item { deriver: None, ..item(letter, LARGE, "") };
        let derivation = Item { path: path('d', "x.drv"), ..item('d', LARGE, "") };
        // Small ones: one that nothing refers to, one that a small one refers to, one that a large one refers to
        // through another.
        let items = [
            derivation,
            item('a', 1, ""),
            item('b', 1, ""),
            item('c', 1, "bd"),
            item('f', LARGE - 1, ""),
            item('g', LARGE, "cg"),
            source('h'),
            source('i'),
        ];
        let found = candidates(&items, |item| item.path.hash_part().starts_with('h'));
        assert_eq!((letters(&found).as_str(), found.bytes), ("bcgi", 2 + 2 * LARGE));
        // A source that a candidate refers to may be there.
        let found = candidates(&[source('h'), item('i', LARGE, "h")], |item| item.path.hash_part().starts_with('h'));
        assert_eq!(letters(&found), "hi");
        assert_eq!(candidates(&items[..5], |_| false), ItemSet::default());
    }

    #[test]
    fn an_item_is_fetched_with_all_that_it_lacks() {
        // `y` is on the machine. `c` lacks `b`, and `d` lacks it through `c`.
        let items = [item('a', 5, "ay"), item('b', 6, ""), item('c', 7, "ab"), item('d', 8, "c"), item('f', 9, "a")];
        let info = |item: &Item| SubstitutablePathInfo {
            deriver: None,
            references: item.references.iter().cloned().collect(),
            download_size: 1,
            nar_size: item.nar_size,
        };
        let known = |letters: &str| -> BTreeMap<StorePath, SubstitutablePathInfo> {
            let is_known = |item: &&Item| letters.contains(item.path.hash_part().chars().next().unwrap());
            items.iter().filter(is_known).map(|item| (item.path.clone(), info(item))).collect()
        };
        for (servers, expected, bytes) in
            [("abcdf", "abcdf", 35), ("acdf", "af", 14), ("bcdf", "b", 6), ("", "", 0), ("abdf", "abf", 20)]
        {
            let found = to_fetch(&items, &known(servers));
            assert_eq!((letters(&found).as_str(), found.bytes), (expected, bytes), "{servers}");
        }
        // Another size, or other references, than the head has; a size that is not known.
        let changed = |change: &dyn Fn(&mut SubstitutablePathInfo)| {
            let mut known = known("abf");
            change(known.get_mut(&path('f', "x")).unwrap());
            letters(&to_fetch(&items, &known))
        };
        assert_eq!(changed(&|info| info.nar_size = 10), "ab");
        assert_eq!(changed(&|info| info.nar_size = 0), "abf");
        assert_eq!(changed(&|info| info.references.extend([path('b', "x")])), "ab");
        assert_eq!(changed(&|info| info.references.clear()), "ab");
    }

    #[test]
    fn fetching_pays_where_sending_takes_long() {
        assert!(pays(7_500_001, 2.5e6, None) && !pays(7_500_000, 2.5e6, None));
        assert_eq!(min_fetch_rate(Substitutes::Auto, 2e6), 5e5);
        assert_eq!(min_fetch_rate(Substitutes::Always, 2e6), MIN_RATE);
        assert!(pays(100_000_000, 2.5e6, Some(2.6e6)) && !pays(100_000_000, 2.5e6, Some(2.5e6)));
        // The time of a query counts.
        assert!(!pays(10_000_000, 2.5e6, Some(3.3e6)) && pays(10_000_000, 2.5e6, Some(3.4e6)));
        // A fast link, and a server that was not measured, or is faster.
        assert!(!pays(1 << 30, 80e6, None) && pays(1 << 30, 80e6, Some(100e6)) && pays(1 << 30, 12e6, None));
    }

    #[test]
    fn the_measured_rate_of_sending_counts() {
        let near = Duration::from_millis(1);
        let compressed = Compressed { sending: true, receiving: false };
        let data = Some(Data { ratio: 0.25, speed: 1e9 });
        let link = LinkSpeed { rate: 1e6, measured: 10_000, data };
        let sending = Throughput { sending: Some(link), receiving: Some(LinkSpeed { rate: 7.0, ..link }) };
        assert_eq!(upload_rate(&sending, Compressed::default(), near, 10_000), 1e6);
        assert_eq!(upload_rate(&sending, compressed, near, 10_000), 4e6);
        // None, one that is too old, one without data.
        let none = Throughput::default();
        assert_eq!(upload_rate(&none, compressed, near, 10_000), LOCAL_RATE);
        assert_eq!(upload_rate(&none, compressed, LOCAL_ROUND_TRIP, 10_000), REMOTE_RATE);
        assert_eq!(upload_rate(&sending, compressed, near, 10_000_000), LOCAL_RATE);
        let sending = Throughput { sending: Some(LinkSpeed { data: None, ..link }), receiving: None };
        assert_eq!(upload_rate(&sending, compressed, near, 10_000), 1e6);
    }
}
