//! Build slots: how many builds run on a machine, counted by locks.
//!
//! A machine with `parallel_builds = N` has the files `0` to `N-1` in its state directory. The process that holds the
//! lock of a file has that slot. The kernel releases the lock when the process ends, however it ends. The record of `3`
//! is `3.json`: the holder of the slot. It is valid only while the lock is held, and shortly after a slot is taken it
//! may still name the previous holder. It is overwritten and never removed, because creating and removing a file for
//! each build is expensive.
//!
//! `guix offload` locks files of the same names with fcntl, which flock does not see: run one hook or the other.

use std::fs::File;
use std::path::PathBuf;
use std::process;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::{debug, warn};
use serde::{Deserialize, Serialize};

use super::health::Time;
use super::lock::{contents, is_locked, overwrite, try_lock, unlock};
use super::{StateDirectory, StateError};
use crate::failpoints::{Failpoint, failpoint};
use crate::machine::Machine;
use crate::permissions::files;

/// The holder of a slot, and since when it has the slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotHolder {
    /// The hook process.
    pub pid: u32,
    /// The derivation that it builds.
    pub derivation: String,
    /// When it took the slot, in seconds since 1970.
    pub since: u64,
    /// How many seconds it was expected to hold the slot, if that was estimated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_seconds: Option<u64>,
}

/// A build that holds a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunningBuild {
    /// When it took the slot.
    pub since: Time,
    /// How long it was expected to hold the slot.
    pub expected: Option<Duration>,
}

impl SlotHolder {
    /// Returns a record of this process, now, for `derivation`.
    pub fn this_process(derivation: &str) -> SlotHolder {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        SlotHolder { pid: process::id(), derivation: derivation.to_owned(), since, expected_seconds: None }
    }
}

/// The slots of one host.
#[derive(Debug)]
pub struct Slots {
    directory: PathBuf,
    count: u32,
}

/// The state of a slot, from its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    Taken,
    Free,
    /// Neither it nor any later slot has a file: a process takes the first free slot, and its file stays.
    NeverUsed,
}

/// A slot that is held; dropping it frees it.
#[derive(Debug)]
pub struct Slot {
    number: u32,
    /// Holds the lock.
    file: File,
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Closing the file releases the lock only when every copy of the descriptor is closed, and a process that was
        // forked a moment ago has one.
        if let Err(error) = unlock(&self.file) {
            debug!("a slot is not free until this process ends: {error}");
        }
    }
}

impl Slot {
    /// Returns the number of the slot on its machine, from 0.
    pub fn number(&self) -> u32 {
        self.number
    }
}

impl RunningBuild {
    /// Returns the build of a holder, if that is known.
    pub fn of(holder: Option<&SlotHolder>, now: Time) -> RunningBuild {
        let expected = holder.and_then(|holder| holder.expected_seconds).map(Duration::from_secs);
        RunningBuild { since: holder.map_or(now, |holder| holder.since.saturating_mul(1000)), expected }
    }
}

impl Slots {
    /// Returns the slots of the host that `machine` describes.
    pub fn of(state: &StateDirectory, machine: &Machine) -> Result<Slots, StateError> {
        Ok(Slots { directory: state.of(machine)?, count: machine.parallel_builds })
    }

    /// Takes the first free slot for `holder`; `None` if all are taken. Never waits.
    pub fn try_take(&self, holder: &SlotHolder) -> Result<Option<Slot>, StateError> {
        for number in 0..self.count {
            let Some(file) = try_lock(&self.slot(number))? else { continue };
            failpoint(Failpoint::SlotLocked);
            let record = self.record(number);
            // The lock decides; on a full disk the slot works without a record.
            let written = serde_json::to_vec(holder)
                .map_err(|error| StateError { path: record.clone(), cause: error.into() })
                .and_then(|text| overwrite(&record, &text));
            if let Err(error) = written {
                warn!("cannot record the holder of a slot: {error}");
            }
            failpoint(Failpoint::SlotTaken);
            return Ok(Some(Slot { number, file }));
        }
        Ok(None)
    }

    /// Takes all slots, so that no build runs or begins on the machine. The inner error is the number of slots that are
    /// taken. Never waits. The records of holders stay as they are.
    pub fn try_take_all(&self) -> Result<Result<Vec<Slot>, usize>, StateError> {
        let mut slots = Vec::new();
        for number in 0..self.count {
            match try_lock(&self.slot(number))? {
                Some(file) => slots.push(Slot { number, file }),
                None => {
                    drop(slots);
                    return Ok(Err(self.taken()?.len().max(1)));
                }
            }
        }
        // Those of builds that began when the machine file had more slots.
        let mut more = 0;
        for file in files::list(&self.directory).unwrap_or_default() {
            let number = file.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
            if number.is_some_and(|number| number >= self.count) && is_locked(&file)? {
                more += 1;
            }
        }
        Ok(if more == 0 { Ok(slots) } else { Err(more) })
    }

    /// Counts the free slots, up to `enough`. This costs three system calls for each slot file that it reads.
    pub fn free(&self, enough: usize) -> Result<usize, StateError> {
        let mut free = 0;
        for number in 0..self.count {
            if free >= enough {
                break;
            }
            match self.state_of(number)? {
                SlotState::Taken => {}
                SlotState::Free => free += 1,
                // The later slots are free, too.
                SlotState::NeverUsed => {
                    free += (self.count - number) as usize;
                    break;
                }
            }
        }
        Ok(free.min(enough))
    }

    /// Returns the taken slots, with their holders if they are known.
    pub fn taken(&self) -> Result<Vec<(u32, Option<SlotHolder>)>, StateError> {
        let mut taken = Vec::new();
        for number in 0..self.count {
            let state = self.state_of(number)?;
            if state == SlotState::NeverUsed {
                break;
            }
            if state == SlotState::Taken {
                // An unreadable record means that the holder is unknown, which is not an error: the record only
                // informs.
                let holder = contents(&self.record(number)).and_then(|text| serde_json::from_slice(&text).ok());
                taken.push((number, holder));
            }
        }
        Ok(taken)
    }

    /// Returns the known holders of slots of all hosts with state, without those that cannot be read.
    pub fn holders(state: &StateDirectory) -> Vec<SlotHolder> {
        let directories = files::list(state.path()).unwrap_or_default();
        let is_host = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().contains(&b':'));
        let taken = directories.into_iter().filter(is_host).filter_map(|directory| {
            // No host has more slots than files.
            let count = files::list(&directory).map_or(0, |files| u32::try_from(files.len()).unwrap_or(u32::MAX));
            Slots { directory, count }.taken().ok()
        });
        taken.flatten().filter_map(|(_, holder)| holder).collect()
    }

    fn state_of(&self, number: u32) -> Result<SlotState, StateError> {
        let path = self.slot(number);
        Ok(match is_locked(&path)? {
            true => SlotState::Taken,
            false if path.exists() => SlotState::Free,
            false => SlotState::NeverUsed,
        })
    }

    fn slot(&self, number: u32) -> PathBuf {
        self.directory.join(number.to_string())
    }

    fn record(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{number}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    fn machine(slots: u32) -> Machine {
        let mut machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        machine.parallel_builds = slots;
        machine
    }

    #[test]
    fn a_slot_is_taken_once_and_freed_by_a_drop() {
        let directory = tempfile::tempdir().unwrap();
        let slots = Slots::of(&StateDirectory::new(directory.path()), &machine(2)).unwrap();
        let holder = SlotHolder::this_process("/gnu/store/x.drv");
        let first = slots.try_take(&holder).unwrap().unwrap();
        let second = slots.try_take(&holder).unwrap().unwrap();
        assert_eq!((first.number(), second.number()), (0, 1));
        assert!(slots.try_take(&holder).unwrap().is_none());
        assert_eq!(slots.taken().unwrap(), [(0, Some(holder.clone())), (1, Some(holder.clone()))]);
        drop(first);
        assert_eq!(slots.taken().unwrap().len(), 1);
        assert_eq!(slots.try_take(&holder).unwrap().unwrap().number(), 0);
    }

    #[test]
    fn free_and_taken_slots_are_counted_from_the_first_to_the_last() {
        for count in [1, 2, 3] {
            let directory = tempfile::tempdir().unwrap();
            let slots = Slots::of(&StateDirectory::new(directory.path()), &machine(count)).unwrap();
            let holder = SlotHolder::this_process("x");
            let mut held = Vec::new();
            for taken in 0..=count {
                assert_eq!(slots.free(usize::MAX).unwrap(), (count - taken) as usize, "{taken} of {count} are taken");
                assert_eq!(slots.taken().unwrap().len(), taken as usize, "{taken} of {count} are taken");
                held.extend(slots.try_take(&holder).unwrap());
            }
            // Whichever is given back: the first, one between, the last.
            for index in 0..count as usize {
                drop(held.remove(index));
                assert_eq!(slots.free(usize::MAX).unwrap(), 1, "slot {index} of {count} is free");
                assert!(slots.taken().unwrap().iter().all(|(number, _)| *number != index as u32));
                held.insert(index, slots.try_take(&holder).unwrap().unwrap());
                assert_eq!(held[index].number(), index as u32);
            }
        }
    }

    /// Puts a link in place of a slot file. Reading it is an error.
    fn put_a_link(slots: &Slots, number: u32) {
        std::os::unix::fs::symlink("nowhere", slots.slot(number)).unwrap();
    }

    #[test]
    fn spellings_of_one_name_share_slots() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        for names in [["good.lan", "Good.lan", "good.lan."], ["192.0.2.7", "::ffff:192.0.2.7", "192.0.519"]] {
            let slots = names.map(|name| Slots::of(&state, &Machine { name: name.to_owned(), ..machine(2) }).unwrap());
            let holder = SlotHolder::this_process("a");
            let taken = [slots[0].try_take(&holder).unwrap(), slots[1].try_take(&holder).unwrap()];
            assert!(taken.iter().all(Option::is_some) && slots[2].try_take(&holder).unwrap().is_none(), "{names:?}");
        }
    }

    #[test]
    fn slots_after_one_that_was_never_used_are_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let slots = Slots::of(&StateDirectory::new(directory.path()), &machine(u32::MAX)).unwrap();
        let holder = SlotHolder::this_process("x");
        let held = [(); 2].map(|()| slots.try_take(&holder).unwrap().unwrap());
        put_a_link(&slots, 3);
        assert_eq!(slots.free(usize::MAX).unwrap(), u32::MAX as usize - 2);
        assert_eq!(slots.taken().unwrap().len(), 2);
        let [first, _second] = held;
        drop(first);
        assert_eq!(slots.free(usize::MAX).unwrap(), u32::MAX as usize - 1);
        assert_eq!(slots.taken().unwrap(), [(1, Some(holder))]);
    }

    #[test]
    fn counting_ends_when_enough_are_free() {
        let directory = tempfile::tempdir().unwrap();
        let slots = Slots::of(&StateDirectory::new(directory.path()), &machine(4)).unwrap();
        let holder = SlotHolder::this_process("x");
        let _held = [(); 2].map(|()| slots.try_take(&holder).unwrap().unwrap());
        drop(slots.try_take(&holder).unwrap());
        put_a_link(&slots, 3);
        assert_eq!((slots.free(0).unwrap(), slots.free(1).unwrap()), (0, 1));
        assert!(slots.free(2).is_err());
    }

    #[test]
    fn an_invalid_record_is_unknown() {
        let directory = tempfile::tempdir().unwrap();
        let slots = Slots::of(&StateDirectory::new(directory.path()), &machine(1)).unwrap();
        let slot = slots.try_take(&SlotHolder::this_process("x")).unwrap().unwrap();
        std::fs::write(slots.record(0), b"{").unwrap();
        assert_eq!(slots.taken().unwrap(), [(0, None)]);
        std::fs::write(slots.record(0), vec![b' '; 100_000]).unwrap();
        assert_eq!(slots.taken().unwrap(), [(0, None)]);
        // The next holder overwrites it.
        drop(slot);
        let (holder, _slot) = (SlotHolder::this_process("y"), slots.try_take(&SlotHolder::this_process("y")).unwrap());
        assert_eq!(slots.taken().unwrap(), [(0, Some(holder))]);
    }

    #[test]
    fn holders_of_all_hosts_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        assert!(Slots::holders(&state).is_empty());
        let other = Machine { port: 2222, ..machine(3) };
        std::fs::create_dir(directory.path().join("cache")).unwrap();
        let [one, two] = ["/one.drv", "/two.drv"].map(SlotHolder::this_process);
        let first = Slots::of(&state, &machine(1)).unwrap().try_take(&one).unwrap();
        let second = Slots::of(&state, &other).unwrap().try_take(&two).unwrap();
        let mut found = Slots::holders(&state);
        found.sort_by(|a, b| a.derivation.cmp(&b.derivation));
        assert_eq!(found, [one.clone(), two]);
        drop(second);
        assert_eq!(Slots::holders(&state), [one]);
        drop(first);
        assert!(Slots::holders(&state).is_empty());
    }

    #[test]
    fn racing_threads_never_exceed_the_slots() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        let running = AtomicUsize::new(0);
        let taken = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let slots = Slots::of(&state, &machine(3)).unwrap();
                    for _ in 0..200 {
                        if let Some(slot) = slots.try_take(&SlotHolder::this_process("x")).unwrap() {
                            assert!(running.fetch_add(1, Ordering::SeqCst) < 3);
                            taken.fetch_add(1, Ordering::SeqCst);
                            thread::yield_now();
                            running.fetch_sub(1, Ordering::SeqCst);
                            drop(slot);
                        }
                    }
                });
            }
        });
        assert!(taken.load(Ordering::SeqCst) > 200);
        let slots = Slots::of(&state, &machine(3)).unwrap();
        assert!(slots.taken().unwrap().is_empty());
    }
}
