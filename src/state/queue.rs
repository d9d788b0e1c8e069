//! The queue of builds that wait for a slot. Users take turns ([`fair_order`]).
//!
//! A waiting hook process holds the lock of one of the files `queue/0`, `queue/1`, … of the state directory. The kernel
//! releases it when the process ends. The ticket of `3` is `3.json`: which process waits, since when, for whose build, and
//! which hosts may take it. A free slot belongs to the build that is first in the order for that host ([`Queue::ahead`]).
//!
//! A process renews its ticket every second or so. A ticket that is not renewed belongs to a stopped process, and other
//! builds skip it. Tickets are taken under the lock `queue/lock`, so that their number is bounded for each user: a
//! client that requests a thousand builds does not get a thousand waiting processes, and leaves places to other users.

pub mod fair_order;
mod turns;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::fair_order::{Place, ahead};
use self::turns::Turns;
use super::health::Time;
use super::lock::{contents, is_locked, lock_briefly, replace};
use super::{StateDirectory, StateError, create_directory};
use crate::permissions::files;

/// How long a ticket is valid unless it is renewed.
pub const TICKET_TTL: Duration = Duration::from_secs(5);

/// The most places in a queue, whatever the machine file says.
const MAX_QUEUE_LENGTH: usize = 10_000;

/// A build that waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingBuild {
    /// The user whose command requests it, if known.
    pub user: Option<String>,
    /// The derivation's file.
    pub derivation: String,
    /// Its system type.
    pub system: String,
    /// The process that waits.
    pub pid: u32,
}

/// The contents of a ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketRecord {
    #[serde(flatten)]
    pub build: WaitingBuild,
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
    state: PathBuf,
    directory: PathBuf,
}

/// A place in the queue; dropping it leaves the queue.
#[derive(Debug)]
pub struct QueueTicket {
    number: usize,
    since: Time,
    build: WaitingBuild,
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
        Ok(Queue { state: state.path().to_owned(), directory })
    }

    /// Joins the queue for `hosts`. `None` if `limit` or more builds of the same user wait for any of them already.
    pub fn try_join(
        &self,
        hosts: &[String],
        build: &WaitingBuild,
        limit: usize,
        now: Time,
    ) -> Result<Option<QueueTicket>, StateError> {
        let _lock = lock_briefly(&self.directory.join("lock"))?;
        let (rivals, free) = self.count(hosts, build.user.as_deref())?;
        let Some(number) = free.filter(|_| rivals < limit) else { return Ok(None) };
        // It is free, except that a reader may hold it just now.
        let file = lock_briefly(&self.directory.join(number.to_string()))?;
        let (record, build) = (self.record_path(number), build.clone());
        let ticket = QueueTicket { number, since: now, build, record, _file: file };
        self.renew(&ticket, hosts, now)?;
        Ok(Some(ticket))
    }

    /// Counts the builds of `user` that wait for any of `hosts`, as the limit of [`Queue::try_join`] does.
    pub fn waiting(&self, hosts: &[String], user: Option<&str>) -> Result<usize, StateError> {
        Ok(self.count(hosts, user)?.0)
    }

    /// Returns the tickets of all waiting builds, with their numbers. Nothing is created.
    pub fn read(state: &StateDirectory, now: Time) -> Result<Vec<(usize, TicketRecord)>, StateError> {
        Queue { state: state.path().to_owned(), directory: state.path().join("queue") }.records(now)
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

    /// How many builds of `user` wait for any of `hosts`, and the number of the first free place.
    fn count(&self, hosts: &[String], user: Option<&str>) -> Result<(usize, Option<usize>), StateError> {
        let wanted: HashSet<&str> = hosts.iter().map(String::as_str).collect();
        let mut rivals = 0;
        let mut free = None;
        for number in 0..MAX_QUEUE_LENGTH {
            let path = self.directory.join(number.to_string());
            if is_locked(&path)? {
                // An unreadable ticket may be of any user and for any host.
                let is_rival = |record: TicketRecord| {
                    record.build.user.as_deref() == user
                        && record.hosts.iter().any(|host| wanted.contains(host.as_str()))
                };
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
        let build = ticket.build.clone();
        let record = TicketRecord { build, since: ticket.since, renewed: now, hosts: hosts.to_vec() };
        let text = serde_json::to_vec(&record)
            .map_err(|error| StateError { path: ticket.record.clone(), cause: error.into() })?;
        replace(&ticket.record, &text)
    }

    /// Leaves the queue, because a slot of `host` is taken. The next free slot is for another user.
    pub fn take_turn(&self, ticket: QueueTicket, host: &str, now: Time) -> Result<(), StateError> {
        let _lock = lock_briefly(&self.directory.join("lock"))?;
        let records = self.records(now)?;
        let waits_here = |(number, record): &&(usize, TicketRecord)| {
            *number != ticket.number && record.hosts.iter().any(|one| one == host)
        };
        let waiting: BTreeSet<Option<&str>> =
            records.iter().filter(waits_here).map(|(_, record)| record.build.user.as_deref()).collect();
        let turns = Turns::read(&self.state, host);
        turns.record(&self.state, host, ticket.build.user.as_deref(), &waiting, now)
    }

    /// Counts, for each of `hosts`, the builds that wait for it and are served before `ticket`; without a ticket, before a
    /// build of `user` that joins now.
    pub fn ahead(
        &self,
        hosts: &[String],
        ticket: Option<&QueueTicket>,
        user: Option<&str>,
        now: Time,
    ) -> Result<Vec<usize>, StateError> {
        let own = match ticket {
            Some(ticket) => Place { since: ticket.since, number: ticket.number, user: ticket.build.user.as_deref() },
            // Later than all others, even if the clock was set back.
            None => Place { since: Time::MAX, number: usize::MAX, user },
        };
        let records = self.records(now)?;
        let mut places: HashMap<&str, Vec<Place<'_>>> = HashMap::new();
        for (number, record) in records.iter().filter(|(number, _)| *number != own.number) {
            let place = Place { since: record.since, number: *number, user: record.build.user.as_deref() };
            for host in record.hosts.iter().collect::<HashSet<_>>() {
                places.entry(host).or_default().push(place);
            }
        }
        Ok(hosts
            .iter()
            .map(|host| {
                let Some(others) = places.get(host.as_str()) else { return 0 };
                let turns = Turns::read(&self.state, host);
                ahead(own, others.iter().copied(), |user| turns.of(user, now))
            })
            .collect())
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
mod tests;
