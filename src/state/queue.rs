//! The queue of builds that wait for a slot, in the order in which they joined it.
//!
//! A waiting hook process holds the lock of one of the files `queue/0`, `queue/1`, … of the state directory. The kernel
//! releases it when the process ends. The ticket of `3` is `3.json`: since when the process waits, and which hosts may
//! take its build. A free slot belongs to the build that has waited for that host longest ([`Queue::ahead`]).
//!
//! A process renews its ticket every second or so. A ticket that is not renewed belongs to a stopped process, and other
//! builds skip it. Tickets are taken under the lock `queue/lock`, so that their number is bounded: a client that
//! requests a thousand builds does not get a thousand waiting processes.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::health::Time;
use super::lock::{contents, is_locked, lock_briefly, replace};
use super::{StateDirectory, StateError, create_directory};
use crate::permissions::files;

/// How long a ticket is valid unless it is renewed.
pub const TICKET_TTL: Duration = Duration::from_secs(5);

/// The most places in a queue, whatever the machine file says.
const MAX_QUEUE_LENGTH: usize = 10_000;

/// The contents of a ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketRecord {
    /// When the process joined the queue.
    pub since: Time,
    /// When this was written.
    pub renewed: Time,
    /// The hosts that may take its build, `NAME:PORT`.
    pub hosts: Vec<String>,
}

impl TicketRecord {
    fn counts(&self, now: Time) -> bool {
        now.abs_diff(self.renewed) < TICKET_TTL.as_millis() as Time
    }
}

/// The queue.
#[derive(Clone, Debug)]
pub struct Queue {
    directory: PathBuf,
}

/// A place in the queue; dropping it leaves the queue.
#[derive(Debug)]
pub struct QueueTicket {
    number: usize,
    since: Time,
    record: PathBuf,
    /// Holds the lock.
    _file: File,
}

impl Drop for QueueTicket {
    fn drop(&mut self) {
        // It is removed before the lock is released with the file: afterwards the name may belong to another ticket.
        let _ = files::remove(&self.record);
    }
}

impl Queue {
    /// Returns the queue of this state directory.
    pub fn of(state: &StateDirectory) -> Result<Queue, StateError> {
        let directory = state.path().join("queue");
        create_directory(&directory)?;
        Ok(Queue { directory })
    }

    /// Joins the queue for `hosts`. `None` if `limit` or more builds wait for any of them already.
    pub fn try_join(&self, hosts: &[String], limit: usize, now: Time) -> Result<Option<QueueTicket>, StateError> {
        let _lock = lock_briefly(&self.directory.join("lock"))?;
        let (rivals, free) = self.count(hosts)?;
        let Some(number) = free.filter(|_| rivals < limit) else { return Ok(None) };
        // It is free, except that a reader may hold it just now.
        let file = lock_briefly(&self.directory.join(number.to_string()))?;
        let ticket = QueueTicket { number, since: now, record: self.record_path(number), _file: file };
        self.renew(&ticket, hosts, now)?;
        Ok(Some(ticket))
    }

    /// Counts the builds that wait for any of `hosts`, as the limit of [`Queue::try_join`] does.
    pub fn waiting(&self, hosts: &[String]) -> Result<usize, StateError> {
        Ok(self.count(hosts)?.0)
    }

    /// Counts all builds that wait. Nothing is created.
    pub fn length(state: &StateDirectory) -> Result<usize, StateError> {
        let directory = state.path().join("queue");
        let mut length = 0;
        for number in 0..MAX_QUEUE_LENGTH {
            let path = directory.join(number.to_string());
            match is_locked(&path)? {
                true => length += 1,
                false if !files::exists(&path) => break,
                false => {}
            }
        }
        Ok(length)
    }

    /// How many wait for any of `hosts`, and the number of the first free place.
    fn count(&self, hosts: &[String]) -> Result<(usize, Option<usize>), StateError> {
        let wanted: HashSet<&str> = hosts.iter().map(String::as_str).collect();
        let mut rivals = 0;
        let mut free = None;
        for number in 0..MAX_QUEUE_LENGTH {
            let path = self.directory.join(number.to_string());
            if is_locked(&path)? {
                // An unreadable ticket may be for any host.
                let is_rival = |record: TicketRecord| record.hosts.iter().any(|host| wanted.contains(host.as_str()));
                rivals += usize::from(self.record(number).is_none_or(is_rival));
            } else {
                free = free.or(Some(number));
                if !files::exists(&path) {
                    break;
                }
            }
        }
        Ok((rivals, free))
    }

    /// Records that the process still waits, and for which hosts.
    pub fn renew(&self, ticket: &QueueTicket, hosts: &[String], now: Time) -> Result<(), StateError> {
        let record = TicketRecord { since: ticket.since, renewed: now, hosts: hosts.to_vec() };
        let text = serde_json::to_vec(&record)
            .map_err(|error| StateError { path: ticket.record.clone(), cause: error.into() })?;
        replace(&ticket.record, &text)
    }

    /// Counts, for each of `hosts`, the builds that wait for it and joined before `ticket`; without a ticket, all of
    /// them.
    pub fn ahead(&self, hosts: &[String], ticket: Option<&QueueTicket>, now: Time) -> Result<Vec<usize>, StateError> {
        let mut before: HashMap<String, usize> = HashMap::new();
        for (number, record) in self.records(now)? {
            let is_before = ticket.is_none_or(|ticket| (record.since, number) < (ticket.since, ticket.number));
            if is_before {
                for host in record.hosts.into_iter().collect::<HashSet<_>>() {
                    *before.entry(host).or_default() += 1;
                }
            }
        }
        Ok(hosts.iter().map(|host| before.get(host).copied().unwrap_or(0)).collect())
    }

    /// Returns the tickets of all waiting builds, with their numbers.
    pub fn records(&self, now: Time) -> Result<Vec<(usize, TicketRecord)>, StateError> {
        let mut records = Vec::new();
        for number in 0..MAX_QUEUE_LENGTH {
            let path = self.directory.join(number.to_string());
            if is_locked(&path)? {
                records.extend(self.record(number).filter(|record| record.counts(now)).map(|record| (number, record)));
            } else if !files::exists(&path) {
                break;
            }
        }
        Ok(records)
    }

    fn record(&self, number: usize) -> Option<TicketRecord> {
        serde_json::from_slice(&contents(&self.record_path(number))?).ok()
    }

    fn record_path(&self, number: usize) -> PathBuf {
        self.directory.join(format!("{number}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(directory: &tempfile::TempDir) -> Queue {
        Queue::of(&StateDirectory::new(directory.path())).unwrap()
    }

    fn hosts(names: &str) -> Vec<String> {
        names.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn places_are_bounded_and_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let queue = queue(&directory);
        let first = queue.try_join(&hosts("a"), 2, 1).unwrap().unwrap();
        let _second = queue.try_join(&hosts("a b"), 2, 1).unwrap().unwrap();
        assert!(queue.try_join(&hosts("a"), 2, 1).unwrap().is_none());
        // Another queue.
        let _third = queue.try_join(&hosts("c"), 2, 1).unwrap().unwrap();
        let _fourth = queue.try_join(&hosts("b"), 2, 1).unwrap().unwrap();
        assert!(queue.try_join(&hosts("c b"), 3, 1).unwrap().is_none());
        drop(first);
        assert!(queue.try_join(&hosts("a"), 2, 1).unwrap().is_some());
        assert!(queue.try_join(&hosts("a"), 0, 1).unwrap().is_none());
    }

    #[test]
    fn each_that_waits_counts_once_whatever_it_waits_for() {
        let directory = tempfile::tempdir().unwrap();
        let queue = queue(&directory);
        let _waiting = ["a", "b", "a b", "c"].map(|names| queue.try_join(&hosts(names), 9, 1).unwrap().unwrap());
        for (names, expected) in [("a", 2), ("b", 2), ("a b", 3), ("c", 1), ("a b c", 4), ("d", 0), ("", 0)] {
            assert_eq!(queue.waiting(&hosts(names)).unwrap(), expected, "{names}");
            assert!(queue.try_join(&hosts(names), expected, 1).unwrap().is_none(), "{names}");
            assert!(queue.try_join(&hosts(names), expected + 1, 1).unwrap().is_some(), "{names}");
        }
    }

    #[test]
    fn builds_that_joined_first_are_ahead() {
        let directory = tempfile::tempdir().unwrap();
        let queue = queue(&directory);
        let late = queue.try_join(&hosts("a b"), 9, 20).unwrap().unwrap();
        let early = queue.try_join(&hosts("a"), 9, 10).unwrap().unwrap();
        let both = hosts("a b");
        assert_eq!(queue.ahead(&both, None, 20).unwrap(), [2, 1]);
        assert_eq!(queue.ahead(&both, Some(&late), 20).unwrap(), [1, 0]);
        assert_eq!(queue.ahead(&both, Some(&early), 20).unwrap(), [0, 0]);
        queue.renew(&early, &hosts("b"), 20).unwrap();
        assert_eq!(queue.ahead(&both, Some(&late), 20).unwrap(), [0, 1]);
        drop(early);
        assert_eq!(queue.ahead(&both, Some(&late), 20).unwrap(), [0, 0]);
    }

    #[test]
    fn a_stopped_process_blocks_no_build() {
        let directory = tempfile::tempdir().unwrap();
        let queue = queue(&directory);
        let stopped = queue.try_join(&hosts("a"), 9, 1_000).unwrap().unwrap();
        assert_eq!(queue.ahead(&hosts("a"), None, 5_999).unwrap(), [1]);
        assert_eq!(queue.ahead(&hosts("a"), None, 6_000).unwrap(), [0]);
        queue.renew(&stopped, &hosts("a"), 6_000).unwrap();
        assert_eq!(queue.ahead(&hosts("a"), None, 6_000).unwrap(), [1]);
    }

    /// Two entries of the machine file may be the same machine.
    #[test]
    fn a_build_that_names_a_machine_twice_is_ahead_once() {
        let directory = tempfile::tempdir().unwrap();
        let queue = queue(&directory);
        let _waiting = queue.try_join(&hosts("a a b"), 9, 1).unwrap().unwrap();
        assert_eq!(queue.ahead(&hosts("a b a"), None, 1).unwrap(), [1, 1, 1]);
    }
}
