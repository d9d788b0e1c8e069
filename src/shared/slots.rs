//! The slots of a shared pool, for one process: whether the database is used, and what follows if it cannot be.

use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use log::{debug, info, warn};

use super::Error;
use super::keys::{Place, place};
use super::messages::{Build, Outcome};
use super::session::Session;
use crate::machine::{Machine, SharedPool, WhenDown};
use crate::state::shared_pool::{HeadName, Known, SharedDrain, SharedRecord};
use crate::state::{Drained, StateDirectory, StateError, health};

/// The slots of a shared pool. A clone is the same, with the same connection.
#[derive(Clone)]
pub struct SharedSlots(Arc<Inner>);

struct Inner {
    shared: SharedPool,
    record: SharedRecord,
    session: Mutex<Option<Session>>,
    next: AtomicU64,
}

/// A slot of the pool that this process holds; dropping it frees it.
pub struct SharedSlot {
    id: u64,
    session: Session,
}

impl Drop for SharedSlot {
    fn drop(&mut self) {
        self.session.release(self.id);
    }
}

/// The result of an attempt to take a slot of the pool.
pub enum Taken {
    Slot(SharedSlot),
    /// No slot is free, or the free ones are for other heads, or the machine is drained.
    No,
    /// The database cannot be used, so this many slots of the machine are for this head. The build may begin if it has one of
    /// them. The slot is registered as soon as the database can be used.
    Alone(u32, Option<SharedSlot>),
}

impl SharedSlots {
    /// Returns the slots of a pool. It does not connect.
    pub fn new(state: &StateDirectory, shared: &SharedPool) -> Result<SharedSlots, StateError> {
        let record = SharedRecord::of(state, shared)?;
        let next = AtomicU64::new(0);
        Ok(SharedSlots(Arc::new(Inner { shared: shared.clone(), record, session: Mutex::default(), next })))
    }

    /// Returns the number of slots of `machine` that this head may use now, if the database is known to be down.
    pub fn limit(&self, machine: &Machine) -> Option<u32> {
        let known = self.0.record.read();
        known.outage.as_ref()?;
        if self.is_connected() {
            return None;
        }
        known.is_down(health::now()).then(|| self.usable(machine, &known))
    }

    /// Returns why builds go to the head itself, if they do: the database is down, and `when_down` is `"local"`.
    pub fn prefers_local(&self) -> Option<String> {
        if self.0.shared.when_down != WhenDown::Local || self.is_connected() {
            return None;
        }
        let known = self.0.record.read();
        known.is_down(health::now()).then(|| known.outage.map(|outage| outage.error)).flatten()
    }

    /// Returns whether this process has a connection that works, as far as known. Then an outage that another process has
    /// recorded is not its own.
    fn is_connected(&self) -> bool {
        self.session().as_ref().is_some_and(Session::is_connected)
    }

    /// Returns whether the machine may have a free slot: it had none a moment ago otherwise.
    pub fn may_be_free(&self, machine: &Machine) -> bool {
        self.session().as_ref().is_none_or(|session| session.may_be_free(&machine.address()))
    }

    /// Returns whether a head has drained the machine for all.
    pub fn drained(&self, machine: &Machine) -> Option<Drained> {
        self.0.record.read().drained(&machine.address(), health::now())
    }

    /// Takes a slot of `machine` for a build, without waiting for one. It waits for the database, a second at most. With
    /// `ignores_drains`, it takes one of a drained machine, too.
    pub fn try_take(&self, machine: &Machine, derivation: &str, user: Option<&str>, ignores_drains: bool) -> Taken {
        let build = Build { derivation: derivation.to_owned(), user: user.map(str::to_owned), ignores_drains };
        let place = place(&self.0.shared.name, &machine.address(), machine.parallel_builds);
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let session = match self.connected() {
            Ok(Some(session)) => session,
            Ok(None) => return self.alone(machine, id, place, build),
            Err(error) => {
                self.record_outage(&error);
                return self.alone(machine, id, place, build);
            }
        };
        match session.take(id, place.clone(), build.clone()) {
            Ok(Outcome::Slot(slot)) => {
                debug!("slot {slot} of '{}' in the shared pool", machine.name);
                Taken::Slot(SharedSlot { id, session })
            }
            Ok(Outcome::Full | Outcome::Drained) => Taken::No,
            Err(error) => {
                self.record_outage(&error);
                self.alone(machine, id, place, build)
            }
        }
    }

    /// Announces that a build waits for `machines`, as the first of its head. Without machines it waits behind others, and
    /// needs no connection.
    pub fn wait(&self, machines: &[&Machine], derivation: &str, user: Option<&str>) {
        if machines.is_empty() {
            if let Some(session) = self.session().as_ref() {
                session.leave();
            }
            return;
        }
        if self.0.record.read().outage.is_some() && !self.is_connected() {
            return;
        }
        let session = match self.started() {
            Ok(session) => session,
            Err(error) => return debug!("a build waits without the shared pool: {error}"),
        };
        let hosts = machines.iter().map(|machine| machine.address()).collect();
        let (derivation, user) = (derivation.to_owned(), user.map(str::to_owned));
        session.wait(hosts, Build { derivation, user, ignores_drains: false });
        if let Some(drains) = session.take_drains() {
            self.record_drains(&drains);
        }
    }

    /// Lets a build run on a slot of this head alone, which is registered later.
    fn alone(&self, machine: &Machine, id: u64, place: Place, build: Build) -> Taken {
        let known = self.0.record.read();
        // The list of drained machines is the last one, however old: this process has been let through to try again.
        if !build.ignores_drains && known.drained_before_outage(&machine.address(), health::now()) {
            return Taken::No;
        }
        let usable = self.usable(machine, &known);
        let registered = self.started().ok().map(|session| {
            session.adopt(id, place, build);
            SharedSlot { id, session }
        });
        Taken::Alone(usable, registered)
    }

    fn usable(&self, machine: &Machine, known: &Known) -> u32 {
        self.0.shared.when_down.usable_slots(machine.parallel_builds, known.heads)
    }

    /// Returns the session, connected; `None` during an outage, unless this process is to try again.
    fn connected(&self) -> Result<Option<Session>, Error> {
        let known = self.0.record.read();
        if let Some(session) = self.session().as_ref().filter(|session| session.is_connected()) {
            return Ok(Some(session.clone()));
        }
        let _retry = match &known.outage {
            None => None,
            Some(_) if known.is_down(health::now()) => return Ok(None),
            Some(_) => match self.0.record.try_retry_lock() {
                Ok(Some(lock)) => Some(lock),
                Ok(None) | Err(_) => return Ok(None),
            },
        };
        let was_started = self.session().is_some();
        let session = self.started()?;
        if was_started && known.outage.is_none() {
            return Ok(Some(session));
        }
        let entered = session.enter()?;
        if known.heads != entered.heads {
            self.record("the heads", self.0.record.change(|known| known.heads = entered.heads));
        }
        self.record_drains(&entered.drains);
        if known.outage.is_some() {
            match self.0.record.end_outage() {
                Ok(true) => info!("the database of the shared pool '{}' can be used again", self.0.shared.name),
                Ok(false) => {}
                Err(error) => debug!("cannot record the end of the outage: {error}"),
            }
        }
        Ok(Some(session))
    }

    /// Returns the session, which may not be connected.
    fn started(&self) -> Result<Session, Error> {
        let mut session = self.session();
        if let Some(session) = session.as_ref() {
            return Ok(session.clone());
        }
        let started = Session::start(&self.0.shared, &self.head())?;
        *session = Some(started.clone());
        Ok(started)
    }

    fn head(&self) -> HeadName {
        self.0.record.head().unwrap_or_else(|error| {
            debug!("cannot record the name of this head: {error}");
            HeadName { id: format!("process {}", process::id()), name: String::new() }
        })
    }

    fn record_outage(&self, error: &Error) {
        match self.0.record.record_outage(&error.to_string(), health::now()) {
            Ok(false) => {}
            Ok(true) | Err(_) => warn!("{}", self.report(error)),
        }
    }

    /// Returns the report of an outage: the error, the consequence and what to do.
    fn report(&self, error: &Error) -> String {
        let heads = self.0.record.read().heads.max(1);
        let consequence = match self.0.shared.when_down {
            WhenDown::Share => format!("this head uses 1/{heads} of the slots of each machine until then"),
            WhenDown::All => "this head uses all slots of each machine until then".to_owned(),
            WhenDown::Local => "this head builds locally what it can until then".to_owned(),
        };
        let hint = error.hint().map_or(String::new(), |hint| format!("\n  hint: {hint}"));
        format!("{error}; {consequence}{hint}")
    }

    fn record_drains(&self, drains: &str) {
        match serde_json::from_str::<Vec<SharedDrain>>(drains) {
            Ok(drains) => self.record("the drains", self.0.record.record_drains(drains, health::now())),
            Err(error) => debug!("the list of drained machines is invalid: {error}"),
        }
    }

    fn record(&self, what: &str, result: Result<(), StateError>) {
        if let Err(error) = result {
            debug!("cannot record {what} of the shared pool: {error}");
        }
    }

    fn session(&self) -> std::sync::MutexGuard<'_, Option<Session>> {
        self.0.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
