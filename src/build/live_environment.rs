//! The real environment of a selection: slot files, health records, machines on the network.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, warn};

use super::connect::unreachable;
use super::persist::OpenSessions;
use super::reach::{MachineLink, reach};
use super::record_health::change_health;
use crate::hook::Request;
use crate::local::read_derivation;
use crate::machine::Machine;
use crate::scheduler::Environment;
use crate::state::health::{self, ProbeLock, Time};
use crate::state::{
    Drain, Drained, Health, HealthRecord, KnownOutputs, Queue, QueueTicket, Slot, SlotHolder, Slots, StateDirectory,
    StateError,
};
use crate::status::MachineStatus;
use crate::store::path::{StoreDir, StorePath};

/// The real environment, for one request.
#[derive(Clone)]
pub struct LiveEnvironment(Arc<RequestState>);

struct RequestState {
    state: StateDirectory,
    store: StoreDir,
    derivation: StorePath,
    /// The derivations whose outputs it needs; read on the first use.
    needs: OnceLock<BTreeSet<StorePath>>,
    start: Instant,
    /// Where connections are kept.
    sessions: Option<OpenSessions>,
}

impl LiveEnvironment {
    /// Returns the environment that takes slots for the derivation of `request`. The store directory is the same on
    /// every machine. Machines are probed over `sessions` if one of them is open.
    pub fn new(
        state: &StateDirectory,
        store: &StoreDir,
        request: &Request,
        sessions: Option<OpenSessions>,
    ) -> LiveEnvironment {
        LiveEnvironment(Arc::new(RequestState {
            state: state.clone(),
            store: store.clone(),
            derivation: request.derivation.clone(),
            needs: OnceLock::new(),
            start: Instant::now(),
            sessions,
        }))
    }

    /// Returns the derivations whose outputs the build needs, as far as they are known.
    fn needs(&self) -> &BTreeSet<StorePath> {
        self.0.needs.get_or_init(|| match read_derivation(&self.0.store, &self.0.derivation) {
            Ok(derivation) => derivation.input_derivations.into_keys().collect(),
            Err(error) => {
                debug!("{error}");
                BTreeSet::new()
            }
        })
    }

    /// Records that `machine` has built it, and so has its inputs.
    pub fn record_outputs(&self, machine: &Machine) {
        let mut derivations = self.needs().clone();
        derivations.insert(self.0.derivation.clone());
        if let Err(error) =
            KnownOutputs::of(&self.0.state, machine).and_then(|known_outputs| known_outputs.add(&derivations))
        {
            debug!("cannot record the outputs of '{}': {error}", machine.name);
        }
    }

    fn slots(&self, machine: &Machine) -> Result<Slots, StateError> {
        Slots::of(&self.0.state, machine)
    }
}

fn hosts(machines: &[&Machine]) -> Vec<String> {
    machines.iter().map(|machine| machine.address()).collect()
}

fn message(error: StateError) -> String {
    error.to_string()
}

impl Environment for LiveEnvironment {
    type Slot = Slot;
    type Link = MachineLink;
    type ProbeLock = ProbeLock;
    type QueueTicket = QueueTicket;

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
        if let Err(error) = thread::Builder::new().name("ask".to_owned()).spawn(task) {
            warn!("cannot start a thread: {error}");
        }
    }

    fn health(&self, machine: &Machine) -> Health {
        HealthRecord::of(&self.0.state, machine).map(|record| record.read()).unwrap_or_default()
    }

    fn change_health(&self, machine: &Machine, change: &mut dyn FnMut(Health) -> Health) {
        change_health(&self.0.state, machine, change);
    }

    fn drained(&self, machine: &Machine) -> Option<Drained> {
        Drain::of(&self.0.state, machine).ok()?.read(health::now())
    }

    fn try_probe_lock(&self, machine: &Machine) -> Result<Option<ProbeLock>, String> {
        HealthRecord::of(&self.0.state, machine).and_then(|record| record.try_probe_lock()).map_err(message)
    }

    fn connect(&self, machine: &Machine) -> Result<MachineLink, String> {
        match &self.0.sessions {
            Some(sessions) => sessions.connect(machine),
            None => reach(&self.0.state, machine, &self.0.store),
        }
    }

    fn status(&self, link: &MachineLink) -> Result<MachineStatus, String> {
        link.connection.probe(self.0.store.as_str()).map_err(|error| unreachable(&error))
    }

    fn running(&self, machine: &Machine) -> Vec<Time> {
        let taken = self.slots(machine).and_then(|slots| slots.taken()).unwrap_or_default();
        taken
            .iter()
            .map(|(_, holder)| holder.as_ref().map_or_else(health::now, |holder| holder.since.saturating_mul(1000)))
            .collect()
    }

    fn free_slots(&self, machine: &Machine, enough: usize) -> Result<usize, String> {
        self.slots(machine).and_then(|slots| slots.free(enough)).map_err(message)
    }

    fn missing_inputs(&self, machine: &Machine) -> usize {
        let needs = self.needs();
        if needs.is_empty() {
            return 0;
        }
        KnownOutputs::of(&self.0.state, machine)
            .map_or(needs.len(), |known_outputs| known_outputs.missing_inputs(needs))
    }

    fn try_take_slot(&self, machine: &Machine) -> Result<Option<Slot>, String> {
        let holder = SlotHolder::this_process(self.0.derivation.as_str());
        self.slots(machine).and_then(|slots| slots.try_take(&holder)).map_err(message)
    }

    fn try_join_queue(&self, machines: &[&Machine], limit: usize) -> Result<Option<QueueTicket>, String> {
        let queue = Queue::of(&self.0.state).map_err(message)?;
        queue.try_join(&hosts(machines), limit, health::now()).map_err(message)
    }

    fn renew_ticket(&self, ticket: &QueueTicket, machines: &[&Machine]) {
        let renewed = Queue::of(&self.0.state).and_then(|queue| queue.renew(ticket, &hosts(machines), health::now()));
        if let Err(error) = renewed {
            warn!("cannot renew the place in the queue: {error}");
        }
    }

    fn waiting(&self, machines: &[&Machine]) -> usize {
        Queue::of(&self.0.state).and_then(|queue| queue.waiting(&hosts(machines))).unwrap_or(0)
    }

    fn ahead(&self, machines: &[&Machine], ticket: Option<&QueueTicket>) -> Vec<usize> {
        Queue::of(&self.0.state)
            .and_then(|queue| queue.ahead(&hosts(machines), ticket, health::now()))
            .unwrap_or_else(|_| vec![0; machines.len()])
    }

    fn own_status(&self) -> MachineStatus {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let mut loads = load.split(' ').map(|load| load.parse().ok());
        let cores = thread::available_parallelism().ok().and_then(|cores| u32::try_from(cores.get()).ok());
        let mut next = || loads.next().flatten();
        MachineStatus { load1: next(), load5: next(), load15: next(), cores, ..MachineStatus::default() }
    }
}
