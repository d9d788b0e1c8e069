//! The world as the choosing sees it: slot files, health records, machines on the network.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, warn};

use super::connect::unreachable;
use super::reach::{Reached, reach};
use super::remember::remember;
use crate::hook::Request;
use crate::local::read_derivation;
use crate::machine::Machine;
use crate::schedule::Surroundings;
use crate::state::health::{self, Asking, Time};
use crate::state::{
    Drain, Drained, Health, HealthRecord, Holder, Place, Places, Slot, Slots, StateDirectory, StateError, Stock,
};
use crate::status::Status;
use crate::store::path::{StoreDir, StorePath};

/// The real world, for one request.
#[derive(Clone)]
pub struct Network(Arc<World>);

struct World {
    state: StateDirectory,
    store: StoreDir,
    derivation: StorePath,
    /// The derivations whose outputs it needs; read when somebody asks.
    needs: OnceLock<BTreeSet<StorePath>>,
    start: Instant,
}

impl Network {
    /// Slots are taken for the derivation of `request`. The store directory is the same on every machine.
    pub fn new(state: &StateDirectory, store: &StoreDir, request: &Request) -> Network {
        Network(Arc::new(World {
            state: state.clone(),
            store: store.clone(),
            derivation: request.derivation.clone(),
            needs: OnceLock::new(),
            start: Instant::now(),
        }))
    }

    /// The derivations whose outputs the build needs, as far as they can be told.
    fn needs(&self) -> &BTreeSet<StorePath> {
        self.0.needs.get_or_init(|| match read_derivation(&self.0.store, &self.0.derivation) {
            Ok(derivation) => derivation.input_derivations.into_keys().collect(),
            Err(error) => {
                debug!("{error}");
                BTreeSet::new()
            }
        })
    }

    /// Remembers that `machine` has built it, and so has what it needs.
    pub fn remember_stock(&self, machine: &Machine) {
        let mut derivations = self.needs().clone();
        derivations.insert(self.0.derivation.clone());
        if let Err(error) = Stock::of(&self.0.state, machine).and_then(|stock| stock.add(&derivations)) {
            debug!("cannot remember what '{}' has: {error}", machine.name);
        }
    }

    fn slots(&self, machine: &Machine) -> Result<Slots, StateError> {
        Slots::of(&self.0.state, machine)
    }
}

/// How many threads of this process are asking machines.
static ASKING: AtomicUsize = AtomicUsize::new(0);

/// Whether any thread of this process is asking a machine.
pub fn is_asking() -> bool {
    ASKING.load(Ordering::SeqCst) > 0
}

/// Counts a thread that asks, until it is dropped.
struct Asker;

impl Asker {
    fn start() -> Asker {
        ASKING.fetch_add(1, Ordering::SeqCst);
        Asker
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        ASKING.fetch_sub(1, Ordering::SeqCst);
    }
}

fn hosts(machines: &[&Machine]) -> Vec<String> {
    machines.iter().map(|machine| machine.address()).collect()
}

fn message(error: StateError) -> String {
    error.to_string()
}

impl Surroundings for Network {
    type Slot = Slot;
    type Link = Reached;
    type Asking = Asking;
    type Place = Place;

    fn now(&self) -> Time {
        health::now()
    }

    fn elapsed(&self) -> Duration {
        self.0.start.elapsed()
    }

    fn pause(&self, time: Duration) {
        thread::sleep(time);
    }

    fn spawn(&self, task: Box<dyn FnOnce() + Send>) {
        let asking = Asker::start();
        let task = move || {
            let _asking = asking;
            task();
        };
        if let Err(error) = thread::Builder::new().name("ask".to_owned()).spawn(task) {
            warn!("cannot start a thread: {error}");
        }
    }

    fn health(&self, machine: &Machine) -> Health {
        HealthRecord::of(&self.0.state, machine).map(|record| record.read()).unwrap_or_default()
    }

    fn change_health(&self, machine: &Machine, change: &mut dyn FnMut(Health) -> Health) {
        remember(&self.0.state, machine, change);
    }

    fn drained(&self, machine: &Machine) -> Option<Drained> {
        Drain::of(&self.0.state, machine).ok()?.read(health::now())
    }

    fn try_ask(&self, machine: &Machine) -> Result<Option<Asking>, String> {
        HealthRecord::of(&self.0.state, machine).and_then(|record| record.try_ask()).map_err(message)
    }

    fn connect(&self, machine: &Machine) -> Result<Reached, String> {
        reach(&self.0.state, machine, &self.0.store)
    }

    fn status(&self, reached: &Reached) -> Result<Status, String> {
        reached.connection.probe(self.0.store.as_str()).map_err(|error| unreachable(&error))
    }

    fn running(&self, machine: &Machine) -> Vec<Time> {
        let taken = self.slots(machine).and_then(|slots| slots.taken()).unwrap_or_default();
        taken.iter().map(|(_, holder)| holder.as_ref().map_or_else(health::now, |holder| holder.since * 1000)).collect()
    }

    fn free_slots(&self, machine: &Machine) -> Result<usize, String> {
        self.slots(machine).and_then(|slots| slots.free()).map_err(message)
    }

    fn lacks(&self, machine: &Machine) -> usize {
        let needs = self.needs();
        if needs.is_empty() {
            return 0;
        }
        Stock::of(&self.0.state, machine).map_or(needs.len(), |stock| stock.lacks(needs))
    }

    fn try_take_slot(&self, machine: &Machine) -> Result<Option<Slot>, String> {
        let holder = Holder::this_process(self.0.derivation.as_str());
        self.slots(machine).and_then(|slots| slots.try_take(&holder)).map_err(message)
    }

    fn try_take_place(&self, machines: &[&Machine], limit: usize) -> Result<Option<Place>, String> {
        let places = Places::of(&self.0.state).map_err(message)?;
        places.try_take(&hosts(machines), limit, health::now()).map_err(message)
    }

    fn renew_place(&self, place: &Place, machines: &[&Machine]) {
        let renewed = Places::of(&self.0.state).and_then(|places| places.renew(place, &hosts(machines), health::now()));
        if let Err(error) = renewed {
            warn!("cannot keep the place in line: {error}");
        }
    }

    fn ahead(&self, machines: &[&Machine], place: Option<&Place>) -> Vec<usize> {
        Places::of(&self.0.state)
            .and_then(|places| places.ahead(&hosts(machines), place, health::now()))
            .unwrap_or_else(|_| vec![0; machines.len()])
    }

    fn own_status(&self) -> Status {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let mut loads = load.split(' ').map(|load| load.parse().ok());
        let cores = thread::available_parallelism().ok().and_then(|cores| u32::try_from(cores.get()).ok());
        let mut next = || loads.next().flatten();
        Status { load1: next(), load5: next(), load15: next(), cores, ..Status::default() }
    }
}
