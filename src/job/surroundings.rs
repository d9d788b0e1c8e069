//! The world as the choosing sees it: slot files, health records, machines on the network.

use log::warn;

use crate::error::with_hint;
use crate::hook::Request;
use crate::machine::Machine;
use crate::remote::{self, Connection, DaemonStream};
use crate::schedule::Surroundings;
use crate::state::health::{self, Time};
use crate::state::{Health, HealthRecord, Holder, Slot, Slots, StateDirectory, StateError};
use crate::status::Status;
use crate::store::path::StoreDir;

/// The real world, for one request.
pub struct Network<'a> {
    state: &'a StateDirectory,
    /// The store directory, which is the same on every machine.
    store: &'a str,
    holder: Holder,
}

impl<'a> Network<'a> {
    /// Slots are taken for the derivation of `request`.
    pub fn new(state: &'a StateDirectory, store: &'a StoreDir, request: &Request) -> Network<'a> {
        Network { state, store: store.as_str(), holder: Holder::this_process(request.derivation.as_str()) }
    }
}

/// A machine that answers, and its daemon with it.
pub struct Link {
    pub connection: Connection,
    pub daemon: DaemonStream,
}

impl Link {
    /// Connects to the machine, and to its daemon's socket.
    pub fn open(machine: &Machine) -> Result<Link, remote::Error> {
        let connection = Connection::open(machine)?;
        let daemon = connection.daemon()?;
        Ok(Link { connection, daemon })
    }
}

/// Remembers that `machine` was reached.
pub fn remember_success(state: &StateDirectory, machine: &Machine, status: Status) {
    remember(state, machine, |_| Health::reached(status, health::now()));
}

/// Remembers that `machine` was not.
pub fn remember_failure(state: &StateDirectory, machine: &Machine, error: &str) {
    remember(state, machine, |health| health.after_failure(error, health::now()));
}

/// A record that cannot be written costs speed, not a build.
fn remember(state: &StateDirectory, machine: &Machine, change: impl FnOnce(Health) -> Health) {
    let written = HealthRecord::of(state, machine).and_then(|record| record.write(&change(record.read())));
    if let Err(error) = written {
        warn!("cannot remember the health of '{}': {error}", machine.name);
    }
}

impl Surroundings for Network<'_> {
    type Slot = Slot;
    type Link = Link;

    fn try_take_slot(&self, machine: &Machine) -> Result<Option<Slot>, String> {
        let take = || -> Result<Option<Slot>, StateError> { Slots::of(self.state, machine)?.try_take(&self.holder) };
        take().map_err(|error| error.to_string())
    }

    fn taken_slots(&self, machine: &Machine) -> usize {
        Slots::of(self.state, machine).and_then(|slots| slots.taken()).map_or(0, |taken| taken.len())
    }

    fn health(&self, machine: &Machine) -> Health {
        HealthRecord::of(self.state, machine).map(|record| record.read()).unwrap_or_default()
    }

    fn now(&self) -> Time {
        health::now()
    }

    fn probe(&self, machine: &Machine) -> Result<(Link, Status), String> {
        let record = HealthRecord::of(self.state, machine).map_err(|error| error.to_string())?;
        // A machine that was down is tried by one process at a time.
        let _trial = match record.read().trouble {
            Some(trouble) => Some(record.try_trial().map_err(|error| error.to_string())?.ok_or(trouble.error)?),
            None => None,
        };
        let opened = Link::open(machine).and_then(|link| {
            let status = link.connection.probe(self.store)?;
            Ok((link, status))
        });
        match opened {
            Ok((link, status)) => {
                remember_success(self.state, machine, status.clone());
                Ok((link, status))
            }
            Err(error) => {
                let error = with_hint(&error, error.hint());
                remember_failure(self.state, machine, &error);
                Err(error)
            }
        }
    }
}
