//! The limit of transfers: at most `max_transfers` uploads to a machine and as many downloads from it run at the same
//! time, and no two processes send it the same item.
//!
//! An upload waits for an item that another process is sending, and for items that this one refers to, since the
//! machine's daemon imports an item only after its references. A waiting process holds no transfer slot. It prints a
//! line at intervals, so that the daemon here does not consider the build silent, and it sends keep-alive requests over
//! the connection. Of the processes that wait for a slot, the first one polls ([`Turn`]). Those that wait for an item are
//! woken when its slot is released.
//!
//! The wait is bounded; after the limit the transfer continues without a slot. The limit is a courtesy towards the
//! machine. The machine does not cause the wait, and a finished build must not be lost because of it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use log::warn;

use crate::cancel;
use crate::events::{Event, Observer};
use crate::local::Item;
use crate::machine::Machine;
use crate::state::transfers::{InFlight, TransferSlot, Transfers};
use crate::state::{LockWait, StateDirectory, StateError, Turn};
use crate::store::path::StorePath;

/// How often the first of the waiting transfers checks for a free transfer slot.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How often a waiting transfer asks the machine which items have arrived: an item is there before its upload ends.
const REQUERY_INTERVAL: Duration = Duration::from_secs(1);

/// The wait after which it is first reported.
const REPORT_AFTER: Duration = Duration::from_secs(1);

/// The transfer slots of one machine, for one build.
pub struct TransferLimiter<'a> {
    pub state: &'a StateDirectory,
    pub machine: &'a Machine,
    /// How long to wait for a slot, or for an item that another process sends. Then the transfer continues without.
    pub limit: Duration,
    /// The interval at which a wait is reported.
    pub report_interval: Duration,
}

/// A wait for a transfer slot, or for the items of other processes.
pub(super) struct SlotWait {
    start: Instant,
    report_next: Duration,
    turn: Option<Turn>,
    /// The slot of another process with an item that this one waits for.
    sender: Option<(PathBuf, LockWait)>,
}

/// The reason why a transfer cannot start.
enum Obstacle {
    /// All slots are taken.
    Slots,
    /// The process that has this slot sends or fetches an item.
    Sender(PathBuf),
}

/// The result of a request for a slot.
pub(super) enum SlotRequest<T> {
    /// The transfer may start. It has no slot if the slot files cannot be used or the wait reached its limit: that
    /// costs time, not a build.
    Granted(Option<TransferSlot>, T),
    /// Something has changed, or some time has passed: query the machine again.
    Requery,
}

impl TransferLimiter<'_> {
    pub(super) fn wait(&self) -> SlotWait {
        let report_next = REPORT_AFTER.min(self.report_interval);
        SlotWait { start: Instant::now(), report_next, turn: None, sender: None }
    }

    /// Returns the items that other processes are sending to the machine.
    pub(super) fn in_flight(&self) -> InFlight {
        let read = || Transfers::uploads(self.state, self.machine)?.in_flight_table()?.in_flight();
        read().unwrap_or_else(|error| {
            warn!("cannot read the items in flight to '{}': {error}", self.machine.name);
            InFlight::new()
        })
    }

    /// Requests a slot to send those of `items` that need not wait for other processes. The machine lacked all of
    /// `items` when `before` was in flight. `items` are sorted with their references first.
    pub(super) fn upload(
        &self,
        mut items: Vec<Item>,
        before: &InFlight,
        wait: &mut SlotWait,
        observer: &mut dyn Observer,
    ) -> SlotRequest<Vec<Item>> {
        let requery_at = Instant::now() + REQUERY_INTERVAL;
        let mut request = || {
            let uploads = Transfers::uploads(self.state, self.machine)?;
            loop {
                let obstacle = match self.try_upload(&uploads, &items, before)? {
                    Claim::Stale => return Ok(SlotRequest::Requery),
                    Claim::Granted(slot, kept) => return Ok(SlotRequest::Granted(Some(slot), kept)),
                    Claim::Blocked(obstacle) => obstacle,
                };
                match wait.step(self, &uploads, &obstacle, requery_at, observer)? {
                    WaitStep::Continue => {}
                    WaitStep::Requery => return Ok(SlotRequest::Requery),
                    WaitStep::TimedOut => return Ok(SlotRequest::Granted(None, hashes(&items))),
                }
            }
        };
        let request = request().unwrap_or_else(|error| {
            self.cannot_wait(&error);
            SlotRequest::Granted(None, hashes(&items))
        });
        match request {
            // It keeps its place in the queue.
            SlotRequest::Requery => SlotRequest::Requery,
            SlotRequest::Granted(slot, kept) => {
                wait.end();
                items.retain(|item| kept.contains(item.path.hash_part()));
                SlotRequest::Granted(slot, items)
            }
        }
    }

    fn try_upload(&self, uploads: &Transfers, items: &[Item], before: &InFlight) -> Result<Claim, StateError> {
        let in_flight_table = uploads.in_flight_table()?;
        let in_flight = in_flight_table.in_flight()?;
        let is_wanted = |hash: &str| items.iter().any(|item| item.path.hash_part() == hash);
        if before.difference(&in_flight).any(|hash| is_wanted(hash)) {
            return Ok(Claim::Stale);
        }
        let free = free(items, &in_flight);
        if free.is_empty() {
            // Some of the items are in flight, or some that these refer to.
            let sender = in_flight_table.slot_of(is_wanted)?;
            return Ok(sender.map_or(Claim::Stale, |slot| Claim::Blocked(Obstacle::Sender(slot))));
        }
        let slot = in_flight_table.try_take(free.iter().map(|item| &item.path))?;
        Ok(slot.map_or(Claim::Blocked(Obstacle::Slots), |slot| Claim::Granted(slot, hashes(free))))
    }

    /// Requests a slot for items that the machine's daemon fetches. `None` if there is no free slot, or other processes
    /// are sending or fetching one of them; never waits.
    pub(super) fn fetch(&self, items: &BTreeSet<StorePath>) -> Option<TransferSlot> {
        let take = || {
            let uploads = Transfers::uploads(self.state, self.machine)?;
            let table = uploads.in_flight_table()?;
            let in_flight = table.in_flight()?;
            match items.iter().any(|item| in_flight.contains(item.hash_part())) {
                true => Ok(None),
                false => table.try_take_fetch(items.iter()),
            }
        };
        take().unwrap_or_else(|error: StateError| {
            warn!("cannot take a slot to fetch items on '{}': {error}", self.machine.name);
            None
        })
    }

    /// Requests a slot to download outputs.
    pub(super) fn download(&self, wait: &mut SlotWait, observer: &mut dyn Observer) -> SlotRequest<()> {
        let requery_at = Instant::now() + self.machine.keepalive_interval;
        let mut request = || {
            let downloads = Transfers::downloads(self.state, self.machine)?;
            loop {
                if let Some(slot) = downloads.try_take()? {
                    return Ok(SlotRequest::Granted(Some(slot), ()));
                }
                match wait.step(self, &downloads, &Obstacle::Slots, requery_at, observer)? {
                    WaitStep::Continue => {}
                    WaitStep::Requery => return Ok(SlotRequest::Requery),
                    WaitStep::TimedOut => return Ok(SlotRequest::Granted(None, ())),
                }
            }
        };
        let request = request().unwrap_or_else(|error| {
            self.cannot_wait(&error);
            SlotRequest::Granted(None, ())
        });
        if matches!(request, SlotRequest::Granted(..)) {
            wait.end();
        }
        request
    }

    fn cannot_wait(&self, error: &StateError) {
        warn!("cannot wait for a transfer slot of '{}': {error}", self.machine.name);
    }
}

/// The result of an attempt to take a slot for items.
enum Claim {
    /// The slot, and the hash parts of the items that it is for.
    Granted(TransferSlot, BTreeSet<String>),
    /// A wanted item is no longer in flight: it may have arrived.
    Stale,
    Blocked(Obstacle),
}

/// Returns the hash parts of some items.
fn hashes<'a>(items: impl IntoIterator<Item = &'a Item>) -> BTreeSet<String> {
    items.into_iter().map(|item| item.path.hash_part().to_owned()).collect()
}

/// Returns those of `items` that are not in flight and refer to no item in flight.
pub(super) fn free<'a>(items: &'a [Item], in_flight: &InFlight) -> Vec<&'a Item> {
    let mut blocked = BTreeSet::new();
    let mut free = Vec::new();
    for item in items {
        let refers = item.references.iter().any(|reference| blocked.contains(reference));
        if refers || in_flight.contains(item.path.hash_part()) {
            blocked.insert(&item.path);
        } else {
            free.push(item);
        }
    }
    free
}

/// The result of one step of a wait.
enum WaitStep {
    /// Wait for another step.
    Continue,
    Requery,
    TimedOut,
}

impl SlotWait {
    /// Waits for one step, and reports the wait at its interval.
    fn step(
        &mut self,
        limiter: &TransferLimiter<'_>,
        transfers: &Transfers,
        obstacle: &Obstacle,
        requery_at: Instant,
        observer: &mut dyn Observer,
    ) -> Result<WaitStep, StateError> {
        let waited = self.start.elapsed();
        if waited >= limiter.limit {
            let name = &limiter.machine.name;
            warn!("no transfer slot of '{name}' after {} s; continuing without one", waited.as_secs());
            return Ok(WaitStep::TimedOut);
        }
        if waited >= self.report_next {
            observer.observe(&Event::Queueing { machine: &limiter.machine.name, seconds: waited.as_secs() });
            self.report_next = waited + limiter.report_interval;
        }
        let until = requery_at.min(self.start + self.report_next.min(limiter.limit));
        match obstacle {
            Obstacle::Slots => self.turn.get_or_insert_with(|| transfers.turn()).wait(POLL_INTERVAL, until)?,
            Obstacle::Sender(slot) => {
                // While this process waits for an item, others may take free slots.
                self.turn.as_mut().map_or(Ok(()), Turn::pass)?;
                let sender = match self.sender.take().filter(|(path, _)| path == slot) {
                    Some((_, release)) => release,
                    None => transfers.release_of(slot)?,
                };
                if sender.wait(until)?.is_none() {
                    self.sender = Some((slot.clone(), sender));
                }
            }
        }
        if cancel::is_cancelled() {
            // The next operation fails.
            return Ok(WaitStep::TimedOut);
        }
        Ok(if Instant::now() >= requery_at { WaitStep::Requery } else { WaitStep::Continue })
    }

    /// Leaves the queue.
    fn end(&mut self) {
        (self.turn, self.sender) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::turn::tests::waiting;
    use crate::store::path::StoreDir;

    fn item(letter: char, references: &str) -> Item {
        let path = |letter: char| {
            let path = format!("/gnu/store/{}-x", letter.to_string().repeat(32));
            StorePath::parse(&StoreDir::default(), path.as_bytes()).unwrap()
        };
        let references = references.chars().map(path).collect();
        Item { path: path(letter), references, deriver: None, nar_hash: [0; 32], nar_size: 0 }
    }

    #[test]
    fn an_item_waits_for_references_in_flight() {
        let items = [item('a', ""), item('b', "b"), item('c', "ab"), item('d', "c"), item('f', "bg"), item('h', "")];
        let sendable = |in_flight: &str| -> String {
            let in_flight = in_flight.chars().map(|letter| letter.to_string().repeat(32)).collect();
            free(&items, &in_flight).iter().map(|item| &item.path.hash_part()[..1]).collect()
        };
        assert_eq!(sendable(""), "abcdfh");
        assert_eq!(sendable("a"), "bfh");
        assert_eq!(sendable("b"), "ah");
        assert_eq!(sendable("d"), "abcfh");
        assert_eq!(sendable("abh"), "");
        // Other items in flight have no effect.
        assert_eq!(sendable("gz"), "abcdfh");
    }

    /// Returns a machine whose only slots another hook holds, one to send the item `a` and one for a download.
    fn busy_machine(state: &StateDirectory) -> (Machine, [TransferSlot; 2]) {
        let mut machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        machine.max_transfers = 1;
        let uploads = Transfers::uploads(state, &machine).unwrap();
        let upload = uploads.in_flight_table().unwrap().try_take([item('a', "").path].iter()).unwrap().unwrap();
        let download = Transfers::downloads(state, &machine).unwrap().try_take().unwrap().unwrap();
        (machine, [upload, download])
    }

    #[test]
    fn a_slot_that_never_comes_free_costs_time_and_no_build() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        let (machine, _slots) = busy_machine(&state);
        let (limit, report_interval) = (Duration::from_millis(500), Duration::from_millis(40));
        let limiter = TransferLimiter { state: &state, machine: &machine, limit, report_interval };
        let mut reports = 0;
        let mut observer = |_: &Event<'_>| reports += 1;
        let start = Instant::now();
        assert!(matches!(limiter.download(&mut limiter.wait(), &mut observer), SlotRequest::Granted(None, ())));
        let (items, before) = (vec![item('a', ""), item('b', "a")], limiter.in_flight());
        let requested = limiter.upload(items, &before, &mut limiter.wait(), &mut observer);
        assert!(matches!(requested, SlotRequest::Granted(None, items) if items.len() == 2));
        assert!(start.elapsed() >= 2 * limit);
        assert!(reports >= 2, "{reports}");
    }

    #[test]
    fn a_cancellation_ends_the_waits_for_a_slot_and_for_an_item() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        let (machine, _slots) = busy_machine(&state);
        let (limit, report_interval) = (Duration::from_secs(60), Duration::from_millis(10));
        let limiter = TransferLimiter { state: &state, machine: &machine, limit, report_interval };
        let before = limiter.in_flight();
        let ends = |wait: &dyn Fn(&mut dyn Observer) -> bool| {
            let (start, cancel) = (Instant::now(), cancel::Cancel::default());
            // It is cancelled while it waits.
            let is_granted = cancel.scope(|| wait(&mut |_: &Event<'_>| cancel.cancel()));
            assert!(is_granted && start.elapsed() < limit);
        };
        ends(&|observer| matches!(limiter.download(&mut limiter.wait(), observer), SlotRequest::Granted(None, ())));
        for letter in ['a', 'b'] {
            let upload = |observer: &mut dyn Observer| {
                limiter.upload(vec![item(letter, "")], &before, &mut limiter.wait(), observer)
            };
            ends(&|observer| matches!(upload(observer), SlotRequest::Granted(None, items) if items.len() == 1));
        }
    }

    #[test]
    fn a_process_that_queries_the_machine_again_keeps_its_one_place_in_the_queue() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        let mut machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        (machine.max_transfers, machine.keepalive_interval) = (1, Duration::from_millis(50));
        let uploads = Transfers::uploads(&state, &machine).unwrap();
        let downloads = Transfers::downloads(&state, &machine).unwrap();
        let upload = uploads.in_flight_table().unwrap().try_take([item('c', "").path].iter()).unwrap().unwrap();
        let _download = downloads.try_take().unwrap().unwrap();
        // Other processes are first in the queues.
        let turns = ["uploads", "downloads"].map(|way| state.of(&machine).unwrap().join(way).join("turn"));
        let mut first = [uploads.turn(), downloads.turn()];
        for turn in &mut first {
            turn.wait(Duration::ZERO, Instant::now() + Duration::from_secs(60)).unwrap();
        }

        let hour = Duration::from_secs(3600);
        let limiter = TransferLimiter { state: &state, machine: &machine, limit: hour, report_interval: hour };
        let (mut sending, mut retrieving) = (limiter.wait(), limiter.wait());
        let before = limiter.in_flight();
        for _ in 0..3 {
            let requested = limiter.upload(vec![item('a', "")], &before, &mut sending, &mut |_: &Event<'_>| {});
            assert!(matches!(requested, SlotRequest::Requery));
            let requested = limiter.download(&mut retrieving, &mut |_: &Event<'_>| {});
            assert!(matches!(requested, SlotRequest::Requery));
            assert_eq!(turns.each_ref().map(|turn| waiting(turn)), [1, 1]);
        }
        // A wait for an item gives up no place, and the next wait for a slot takes no other one.
        drop(upload);
        let mut slot = None;
        for letter in ['a', 'c', 'a', 'c'] {
            drop(slot.take());
            slot = uploads.in_flight_table().unwrap().try_take([item(letter, "").path].iter()).unwrap();
            assert!(slot.is_some());
            let before = limiter.in_flight();
            let requested = limiter.upload(vec![item('a', "")], &before, &mut sending, &mut |_: &Event<'_>| {});
            assert!(matches!(requested, SlotRequest::Requery));
            assert_eq!(waiting(&turns[0]), 1);
        }
    }
}
