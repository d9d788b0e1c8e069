//! Who waits for a slot, in the order in which they came.
//!
//! A hook process that waits holds a place: the lock of one of the files `waiting/0`, `waiting/1`, … of the state
//! directory, which the kernel gives back when it ends. Beside `3` stands its ticket, `3.json`: since when it waits,
//! and which hosts may take its build. A free slot belongs to those who waited for that host longest
//! ([`Places::ahead`]).
//!
//! A ticket is renewed every second or so. One that has not been for a while belongs to a process that was stopped, and
//! nobody waits for that. Places are taken under the lock `waiting/lock`, so that their number is bounded: a client
//! that asks for a thousand builds does not get a thousand waiting processes.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::health::Time;
use super::lock::{contents, is_locked, lock_for_a_moment, replace};
use super::{StateDirectory, StateError, create_directory};

/// How long a ticket counts without being renewed.
pub const VALID: Duration = Duration::from_secs(5);

/// The most places there are, whatever the limit that is asked for.
const MOST: usize = 10_000;

/// What one that waits says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// When it came.
    pub since: Time,
    /// When this was written.
    pub renewed: Time,
    /// The hosts that may take its build, `NAME:PORT`.
    pub hosts: Vec<String>,
}

impl Ticket {
    fn counts(&self, now: Time) -> bool {
        now.abs_diff(self.renewed) < VALID.as_millis() as Time
    }
}

/// The places to wait.
#[derive(Clone, Debug)]
pub struct Places {
    directory: PathBuf,
}

/// A place among those that wait; dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    number: usize,
    since: Time,
    ticket: PathBuf,
    /// Holds the lock.
    _file: File,
}

impl Drop for Place {
    fn drop(&mut self) {
        // Before the lock goes with the file: afterwards the ticket may be another's.
        let _ = fs::remove_file(&self.ticket);
    }
}

impl Places {
    /// The places of this state directory.
    pub fn of(state: &StateDirectory) -> Result<Places, StateError> {
        let directory = state.path().join("waiting");
        create_directory(&directory)?;
        Ok(Places { directory })
    }

    /// Takes a place, to wait for one of `hosts`. `None` when `limit` or more wait for any of them already.
    pub fn try_take(&self, hosts: &[String], limit: usize, now: Time) -> Result<Option<Place>, StateError> {
        let _lock = lock_for_a_moment(&self.directory.join("lock"))?;
        let mut rivals = 0;
        let mut free = None;
        for number in 0..MOST {
            let path = self.directory.join(number.to_string());
            if is_locked(&path)? {
                // A ticket that cannot be read may be for anything.
                let is_rival = |ticket: Ticket| ticket.hosts.iter().any(|host| hosts.contains(host));
                rivals += usize::from(self.ticket(number).is_none_or(is_rival));
            } else {
                free = free.or(Some(number));
                if !path.exists() {
                    break;
                }
            }
        }
        let Some(number) = free.filter(|_| rivals < limit) else { return Ok(None) };
        // Free, but for those who are looking just now.
        let file = lock_for_a_moment(&self.directory.join(number.to_string()))?;
        let place = Place { number, since: now, ticket: self.ticket_path(number), _file: file };
        self.renew(&place, hosts, now)?;
        Ok(Some(place))
    }

    /// Says that the process still waits, and for which hosts.
    pub fn renew(&self, place: &Place, hosts: &[String], now: Time) -> Result<(), StateError> {
        let ticket = Ticket { since: place.since, renewed: now, hosts: hosts.to_vec() };
        let text = serde_json::to_vec(&ticket)
            .map_err(|error| StateError { path: place.ticket.clone(), cause: error.into() })?;
        replace(&place.ticket, &text)
    }

    /// For each of `hosts`, how many wait for it and came before the holder of `place`; all of them, for one who has no
    /// place.
    pub fn ahead(&self, hosts: &[String], place: Option<&Place>, now: Time) -> Result<Vec<usize>, StateError> {
        let mut ahead = vec![0; hosts.len()];
        for (number, ticket) in self.tickets(now)? {
            let is_before = place.is_none_or(|place| (ticket.since, number) < (place.since, place.number));
            if is_before {
                for (count, host) in ahead.iter_mut().zip(hosts) {
                    *count += usize::from(ticket.hosts.contains(host));
                }
            }
        }
        Ok(ahead)
    }

    /// The tickets of all that wait, with the numbers of their places.
    pub fn tickets(&self, now: Time) -> Result<Vec<(usize, Ticket)>, StateError> {
        let mut tickets = Vec::new();
        for number in 0..MOST {
            let path = self.directory.join(number.to_string());
            if is_locked(&path)? {
                tickets.extend(self.ticket(number).filter(|ticket| ticket.counts(now)).map(|ticket| (number, ticket)));
            } else if !path.exists() {
                break;
            }
        }
        Ok(tickets)
    }

    fn ticket(&self, number: usize) -> Option<Ticket> {
        serde_json::from_slice(&contents(&self.ticket_path(number))?).ok()
    }

    fn ticket_path(&self, number: usize) -> PathBuf {
        self.directory.join(format!("{number}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(directory: &tempfile::TempDir) -> Places {
        Places::of(&StateDirectory::new(directory.path())).unwrap()
    }

    fn hosts(names: &str) -> Vec<String> {
        names.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn places_are_bounded_and_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let places = places(&directory);
        let first = places.try_take(&hosts("a"), 2, 1).unwrap().unwrap();
        let _second = places.try_take(&hosts("a b"), 2, 1).unwrap().unwrap();
        assert!(places.try_take(&hosts("a"), 2, 1).unwrap().is_none());
        // Another queue.
        let _third = places.try_take(&hosts("c"), 2, 1).unwrap().unwrap();
        let _fourth = places.try_take(&hosts("b"), 2, 1).unwrap().unwrap();
        assert!(places.try_take(&hosts("c b"), 3, 1).unwrap().is_none());
        drop(first);
        assert!(places.try_take(&hosts("a"), 2, 1).unwrap().is_some());
        assert!(places.try_take(&hosts("a"), 0, 1).unwrap().is_none());
    }

    #[test]
    fn those_who_came_first_are_ahead() {
        let directory = tempfile::tempdir().unwrap();
        let places = places(&directory);
        let late = places.try_take(&hosts("a b"), 9, 20).unwrap().unwrap();
        let early = places.try_take(&hosts("a"), 9, 10).unwrap().unwrap();
        let both = hosts("a b");
        assert_eq!(places.ahead(&both, None, 20).unwrap(), [2, 1]);
        assert_eq!(places.ahead(&both, Some(&late), 20).unwrap(), [1, 0]);
        assert_eq!(places.ahead(&both, Some(&early), 20).unwrap(), [0, 0]);
        places.renew(&early, &hosts("b"), 20).unwrap();
        assert_eq!(places.ahead(&both, Some(&late), 20).unwrap(), [0, 1]);
        drop(early);
        assert_eq!(places.ahead(&both, Some(&late), 20).unwrap(), [0, 0]);
    }

    #[test]
    fn one_that_was_stopped_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let places = places(&directory);
        let stopped = places.try_take(&hosts("a"), 9, 1_000).unwrap().unwrap();
        assert_eq!(places.ahead(&hosts("a"), None, 5_999).unwrap(), [1]);
        assert_eq!(places.ahead(&hosts("a"), None, 6_000).unwrap(), [0]);
        places.renew(&stopped, &hosts("a"), 6_000).unwrap();
        assert_eq!(places.ahead(&hosts("a"), None, 6_000).unwrap(), [1]);
    }
}
