//! Taking turns: no more than `max_transfers` uploads to a machine at a time and as many downloads, and no item sent to
//! it by two processes at once.
//!
//! An item that another process is sending is waited for, and so is one that refers to it, since the machine's daemon
//! takes no item before what it refers to. Whoever waits holds no turn. A line now and then keeps the daemon here from
//! taking it for silence, and a question now and then keeps the connection alive.
//!
//! The wait is bounded. Whoever has waited for that long goes on without a turn: it is courtesy towards the machine, no
//! fault of it that so many want something, and no reason to throw away what has been built.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use log::warn;

use crate::events::{Event, Observer};
use crate::local::Item;
use crate::machine::Machine;
use crate::state::transfers::{OnTheWay, Transfers, Turn};
use crate::state::{StateDirectory, StateError};

/// How often one that waits looks whether it is its turn.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How often the machine is asked what it has got by now: an item is there before the upload it belongs to ends.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A wait that is shorter is not worth a line.
const SAY_AFTER: Duration = Duration::from_secs(1);

/// The turns of one machine, as one build takes them.
pub struct Turns<'a> {
    pub state: &'a StateDirectory,
    pub machine: &'a Machine,
    /// How long a turn, or an item that somebody else sends, is waited for. Then it goes on without.
    pub limit: Duration,
    /// How often one that waits says so.
    pub say_every: Duration,
}

/// A wait for turns.
pub(super) struct Wait {
    start: Instant,
    say_next: Duration,
}

/// What comes of asking for a turn.
pub(super) enum Asked<T> {
    /// It is granted. Without a turn, if its files cannot be used or it was waited for too long: that costs time, not a
    /// build.
    Granted(Option<Turn>, T),
    /// Something has changed, or some time has passed: the machine is to be asked again.
    LookAgain,
}

impl Turns<'_> {
    pub(super) fn wait(&self) -> Wait {
        Wait { start: Instant::now(), say_next: SAY_AFTER.min(self.say_every) }
    }

    /// What others are sending to the machine.
    pub(super) fn on_the_way(&self) -> OnTheWay {
        let read = || Transfers::uploads(self.state, self.machine)?.table()?.on_the_way();
        read().unwrap_or_else(|error| {
            warn!("cannot tell what is on its way to '{}': {error}", self.machine.name);
            OnTheWay::new()
        })
    }

    /// A turn to send those of `items`, all of which the machine lacked when `before` was on its way, that need not
    /// wait for others. `items` come with their references first.
    pub(super) fn upload(
        &self,
        mut items: Vec<Item>,
        before: &OnTheWay,
        wait: &mut Wait,
        observer: &mut dyn Observer,
    ) -> Asked<Vec<Item>> {
        let look_again = Instant::now() + ASK_AGAIN;
        loop {
            match self.try_upload(&items, before) {
                Ok(Some(Claim::Stale)) => return Asked::LookAgain,
                Ok(Some(Claim::Granted(turn, kept))) => {
                    items.retain(|item| kept.contains(item.path.hash_part()));
                    return Asked::Granted(Some(turn), items);
                }
                Ok(None) => {}
                Err(error) => {
                    self.cannot_wait(&error);
                    return Asked::Granted(None, items);
                }
            }
            match wait.go_on(self, look_again, observer) {
                Waited::AMoment => {}
                Waited::LookAgain => return Asked::LookAgain,
                Waited::TooLong => return Asked::Granted(None, items),
            }
        }
    }

    fn try_upload(&self, items: &[Item], before: &OnTheWay) -> Result<Option<Claim>, StateError> {
        let uploads = Transfers::uploads(self.state, self.machine)?;
        let table = uploads.table()?;
        let on_the_way = table.on_the_way()?;
        let is_wanted = |hash: &&String| items.iter().any(|item| item.path.hash_part() == hash.as_str());
        if before.difference(&on_the_way).any(|hash| is_wanted(&hash)) {
            return Ok(Some(Claim::Stale));
        }
        let free = free(items, &on_the_way);
        if free.is_empty() {
            return Ok(None);
        }
        let turn = table.try_take(free.iter().map(|item| &item.path))?;
        let hashes = free.iter().map(|item| item.path.hash_part().to_owned()).collect();
        Ok(turn.map(|turn| Claim::Granted(turn, hashes)))
    }

    /// A turn to retrieve outputs.
    pub(super) fn download(&self, wait: &mut Wait, observer: &mut dyn Observer) -> Asked<()> {
        let look_again = Instant::now() + self.machine.keep_alive;
        loop {
            match Transfers::downloads(self.state, self.machine).and_then(|downloads| downloads.try_take()) {
                Ok(Some(turn)) => return Asked::Granted(Some(turn), ()),
                Ok(None) => {}
                Err(error) => {
                    self.cannot_wait(&error);
                    return Asked::Granted(None, ());
                }
            }
            match wait.go_on(self, look_again, observer) {
                Waited::AMoment => {}
                Waited::LookAgain => return Asked::LookAgain,
                Waited::TooLong => return Asked::Granted(None, ()),
            }
        }
    }

    fn cannot_wait(&self, error: &StateError) {
        warn!("cannot wait for a turn to transfer to or from '{}': {error}", self.machine.name);
    }
}

enum Claim {
    Granted(Turn, BTreeSet<String>),
    /// An item that is wanted is on its way no more: it may have arrived.
    Stale,
}

/// Those of `items` that are not on their way, and refer to none that is.
fn free<'a>(items: &'a [Item], on_the_way: &OnTheWay) -> Vec<&'a Item> {
    let mut blocked = BTreeSet::new();
    let mut free = Vec::new();
    for item in items {
        let refers = item.references.iter().any(|reference| blocked.contains(reference));
        if refers || on_the_way.contains(item.path.hash_part()) {
            blocked.insert(&item.path);
        } else {
            free.push(item);
        }
    }
    free
}

/// What to do after a moment of waiting.
enum Waited {
    /// Wait for another one.
    AMoment,
    LookAgain,
    TooLong,
}

impl Wait {
    /// Waits for a moment, and says so if it is time to.
    fn go_on(&mut self, turns: &Turns<'_>, look_again: Instant, observer: &mut dyn Observer) -> Waited {
        let waited = self.start.elapsed();
        if waited >= turns.limit {
            let name = &turns.machine.name;
            warn!("no turn to transfer to or from '{name}' came for {} s; going on without", waited.as_secs());
            return Waited::TooLong;
        }
        if waited >= self.say_next {
            observer.observe(&Event::Queueing { machine: &turns.machine.name, seconds: waited.as_secs() });
            self.say_next = waited + turns.say_every;
        }
        thread::sleep(LOOK_AGAIN);
        if Instant::now() >= look_again { Waited::LookAgain } else { Waited::AMoment }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::path::{StoreDir, StorePath};

    fn item(letter: char, references: &str) -> Item {
        let path = |letter: char| {
            let path = format!("/gnu/store/{}-x", letter.to_string().repeat(32));
            StorePath::parse(&StoreDir::default(), path.as_bytes()).unwrap()
        };
        let references = references.chars().map(path).collect();
        Item { path: path(letter), references, deriver: None, nar_hash: [0; 32], nar_size: 0 }
    }

    #[test]
    fn what_refers_to_something_on_its_way_waits_too() {
        let items = [item('a', ""), item('b', "b"), item('c', "ab"), item('d', "c"), item('f', "bg"), item('h', "")];
        let sendable = |on_the_way: &str| -> String {
            let on_the_way = on_the_way.chars().map(|letter| letter.to_string().repeat(32)).collect();
            free(&items, &on_the_way).iter().map(|item| &item.path.hash_part()[..1]).collect()
        };
        assert_eq!(sendable(""), "abcdfh");
        assert_eq!(sendable("a"), "bfh");
        assert_eq!(sendable("b"), "ah");
        assert_eq!(sendable("d"), "abcfh");
        assert_eq!(sendable("abh"), "");
        // What is on its way and not wanted here disturbs nobody.
        assert_eq!(sendable("gz"), "abcdfh");
    }

    #[test]
    fn a_turn_that_never_comes_costs_time_and_no_build() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        let mut machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        machine.max_transfers = 1;
        // Another hook that is stopped in the midst of both.
        let uploads = Transfers::uploads(&state, &machine).unwrap();
        let _upload = uploads.table().unwrap().try_take([item('a', "").path].iter()).unwrap().unwrap();
        let _download = Transfers::downloads(&state, &machine).unwrap().try_take().unwrap().unwrap();

        let (limit, say_every) = (Duration::from_millis(500), Duration::from_millis(40));
        let turns = Turns { state: &state, machine: &machine, limit, say_every };
        let mut said = 0;
        let mut observer = |_: &Event<'_>| said += 1;
        let start = Instant::now();
        assert!(matches!(turns.download(&mut turns.wait(), &mut observer), Asked::Granted(None, ())));
        let (items, before) = (vec![item('a', ""), item('b', "a")], turns.on_the_way());
        let asked = turns.upload(items, &before, &mut turns.wait(), &mut observer);
        assert!(matches!(asked, Asked::Granted(None, items) if items.len() == 2));
        assert!(start.elapsed() >= 2 * limit);
        assert!(said >= 2, "{said}");
    }
}
