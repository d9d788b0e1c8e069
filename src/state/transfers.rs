//! Transfers: the limit of concurrent transfers with a host, and the store items that are in flight to it.
//!
//! In the host's state directory, `uploads/0` to `uploads/N-1`, `downloads/0` to `downloads/N-1` and `uploads/fetches/0`
//! to `uploads/fetches/N-1` are locks like those of the slots. A fetch is a transfer from a substitute server to the
//! host. N is `max_transfers`, and the process that holds a lock has a transfer slot. An upload or fetch slot lists in
//! its file the hash parts of the items that are sent, one per line; the list is valid only while the lock is held. A
//! process takes such a slot, and writes and reads the lists, under the lock `uploads/table`, which it holds briefly. So
//! of two processes that want to send the same item to the same host, the second knows that the first does. When a
//! process is killed, its slot is free and its items are no longer in flight. `uploads/turn` and `downloads/turn` are
//! the queues of the processes that wait for a slot ([`Turn`]).
//!
//! No process waits for another one while it holds a slot, so there is no deadlock.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::lock::{is_locked, lock_briefly, try_lock};
use super::{LockWait, StateDirectory, StateError, Turn, create_directory};
use crate::machine::Machine;
use crate::permissions::files;
use crate::store::path::StorePath;

/// The size limit of a list of items, in bytes: 120,000 items.
const MAX_LIST_BYTES: u64 = 4 << 20;

/// The directory of the slots of fetches, beside those of uploads.
const FETCHES: &str = "fetches";

/// The hash parts of items that are in flight to a host.
pub type InFlight = BTreeSet<String>;

/// The uploads to one host, or the downloads from it.
#[derive(Clone, Debug)]
pub struct Transfers {
    directory: PathBuf,
    count: u32,
}

/// A transfer slot; dropping it frees it.
#[derive(Debug)]
pub struct TransferSlot {
    /// Holds the lock.
    _file: File,
}

/// The uploads to a host, locked against other processes.
#[derive(Debug)]
pub struct InFlightTable<'a> {
    transfers: &'a Transfers,
    _lock: File,
}

impl Transfers {
    /// Returns the uploads to the host that `machine` describes.
    pub fn uploads(state: &StateDirectory, machine: &Machine) -> Result<Transfers, StateError> {
        Transfers::of(state, machine, "uploads")
    }

    /// Returns the downloads from it.
    pub fn downloads(state: &StateDirectory, machine: &Machine) -> Result<Transfers, StateError> {
        Transfers::of(state, machine, "downloads")
    }

    fn of(state: &StateDirectory, machine: &Machine, way: &str) -> Result<Transfers, StateError> {
        Ok(Transfers { directory: state.of(machine)?.join(way), count: machine.max_transfers })
    }

    /// Takes a slot without a list of items; `None` if all are taken. Never waits.
    pub fn try_take(&self) -> Result<Option<TransferSlot>, StateError> {
        for number in 0..self.count {
            if let Some(file) = try_lock(&self.slot(number))? {
                return Ok(Some(TransferSlot { _file: file }));
            }
        }
        Ok(None)
    }

    /// Waits until the slot with this lock is released.
    pub fn release_of(&self, slot: &Path) -> Result<LockWait, StateError> {
        LockWait::release(slot)
    }

    /// Returns a place in the queue of processes that wait for a slot. Only the first of them polls.
    pub fn turn(&self) -> Turn {
        Turn::new(self.directory.join("turn"))
    }

    /// Locks the uploads, so that no other process takes a slot with items.
    pub fn in_flight_table(&self) -> Result<InFlightTable<'_>, StateError> {
        let lock = lock_briefly(&self.directory.join("table"))?;
        Ok(InFlightTable { transfers: self, _lock: lock })
    }

    fn slot(&self, number: u32) -> PathBuf {
        self.directory.join(number.to_string())
    }
}

impl InFlightTable<'_> {
    /// Returns the items in flight.
    pub fn in_flight(&self) -> Result<InFlight, StateError> {
        Ok(self.lists()?.into_iter().flat_map(|(_, items)| items).collect())
    }

    /// Returns the held lock of a slot with one of the items that `is_wanted` accepts, to wait for its release. `None` if no
    /// such item is in flight.
    pub fn slot_of(&self, is_wanted: impl Fn(&str) -> bool) -> Result<Option<PathBuf>, StateError> {
        let mut lists = self.lists()?.into_iter();
        Ok(lists.find(|(_, items)| items.iter().any(|item| is_wanted(item))).map(|(path, _)| path))
    }

    /// Returns the items of each slot that is held.
    fn lists(&self) -> Result<Vec<(PathBuf, InFlight)>, StateError> {
        let mut lists = Vec::new();
        let Transfers { directory, count } = self.transfers;
        for (name, number) in ["", FETCHES].into_iter().flat_map(|name| (0..*count).map(move |number| (name, number))) {
            let path = directory.join(name).join(number.to_string());
            if is_locked(&path)? {
                let mut text = String::new();
                let read = files::open(&path).and_then(|file| file.take(MAX_LIST_BYTES).read_to_string(&mut text));
                match read {
                    Ok(_) => lists.push((path, text.lines().map(str::to_owned).collect())),
                    Err(cause) => return Err(StateError { path, cause }),
                }
            }
        }
        Ok(lists)
    }

    /// Takes a slot to send `items`; `None` if all are taken.
    pub fn try_take<'a>(&self, items: impl Iterator<Item = &'a StorePath>) -> Result<Option<TransferSlot>, StateError> {
        self.try_take_in(&self.transfers.directory, items)
    }

    /// Takes a slot for items that the host fetches; `None` if all are taken.
    pub fn try_take_fetch<'a>(
        &self,
        items: impl Iterator<Item = &'a StorePath>,
    ) -> Result<Option<TransferSlot>, StateError> {
        let directory = self.transfers.directory.join(FETCHES);
        create_directory(&directory)?;
        self.try_take_in(&directory, items)
    }

    fn try_take_in<'a>(
        &self,
        directory: &Path,
        items: impl Iterator<Item = &'a StorePath>,
    ) -> Result<Option<TransferSlot>, StateError> {
        let mut list = String::new();
        for item in items {
            list.push_str(item.hash_part());
            list.push('\n');
        }
        for number in 0..self.transfers.count {
            let path = directory.join(number.to_string());
            if let Some(mut file) = try_lock(&path)? {
                let write = |file: &mut File| -> io::Result<()> {
                    file.set_len(0)?;
                    file.rewind()?;
                    file.write_all(list.as_bytes())
                };
                write(&mut file).map_err(|cause| StateError { path, cause })?;
                return Ok(Some(TransferSlot { _file: file }));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::path::StoreDir;

    fn machine(max_transfers: u32) -> Machine {
        let mut machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        machine.max_transfers = max_transfers;
        machine
    }

    fn item(letter: char) -> StorePath {
        let path = format!("/gnu/store/{}-x", letter.to_string().repeat(32));
        StorePath::parse(&StoreDir::default(), path.as_bytes()).unwrap()
    }

    #[test]
    fn slots_are_bounded_in_each_direction_and_freed_by_a_drop() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        let up = Transfers::uploads(&state, &machine(2)).unwrap();
        let down = Transfers::downloads(&state, &machine(2)).unwrap();
        let first = up.in_flight_table().unwrap().try_take([item('a')].iter()).unwrap().unwrap();
        let _second = up.in_flight_table().unwrap().try_take([item('b')].iter()).unwrap().unwrap();
        assert!(up.in_flight_table().unwrap().try_take([].iter()).unwrap().is_none());
        assert!(down.try_take().unwrap().is_some());
        drop(first);
        assert!(up.in_flight_table().unwrap().try_take([].iter()).unwrap().is_some());
    }

    #[test]
    fn items_are_in_flight_while_their_slot_is_held() {
        let directory = tempfile::tempdir().unwrap();
        let up = Transfers::uploads(&StateDirectory::new(directory.path()), &machine(4)).unwrap();
        let in_flight = || up.in_flight_table().unwrap().in_flight().unwrap().into_iter().collect::<String>();
        let names = |letters: &str| letters.chars().map(|letter| letter.to_string().repeat(32)).collect::<String>();
        assert_eq!(in_flight(), "");
        let first = up.in_flight_table().unwrap().try_take([item('b'), item('a')].iter()).unwrap().unwrap();
        let second = up.in_flight_table().unwrap().try_take([item('c')].iter()).unwrap().unwrap();
        assert_eq!(in_flight(), names("abc"));
        drop(first);
        assert_eq!(in_flight(), names("c"));
        // A shorter list replaces a longer one.
        let third = up.in_flight_table().unwrap().try_take([item('d')].iter()).unwrap().unwrap();
        assert_eq!(in_flight(), names("cd"));
        drop(second);
        assert_eq!(in_flight(), names("d"));
        drop(third);
        // A fetch takes no slot of an upload.
        let fetched = up.in_flight_table().unwrap().try_take_fetch([item('a'), item('b')].iter()).unwrap().unwrap();
        let sent = up.in_flight_table().unwrap().try_take([item('c')].iter()).unwrap().unwrap();
        assert_eq!(in_flight(), names("abc"));
        drop((fetched, sent));
        assert_eq!(in_flight(), "");
        // Up to the last turn, and the last one alone.
        let mut all: Vec<_> =
            ['f', 'g', 'h', 'i'].map(|of| up.in_flight_table().unwrap().try_take([item(of)].iter())).into();
        assert!(all.iter().all(|slot| matches!(slot, Ok(Some(_)))));
        assert_eq!(in_flight(), names("fghi"));
        all.drain(..3);
        assert_eq!(in_flight(), names("i"));
    }
}
