//! The real environment of a selection: slot files, health records, machines on the network.

use std::fs;
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, warn};

use super::connect::unreachable;
use super::expectations::Expectations;
use super::held_slot::{self, HeldSlot};
use super::on_demand::{OnDemand, boot_time};
use super::open_sessions::OpenSessions;
use super::reach::{MachineLink, reach};
use super::record_health::change_health;
use crate::cancel;
use crate::machine::Machine;
use crate::scheduler::{Environment, PowerState};
use crate::shared::SharedSlots;
use crate::state::health::{self, ProbeLock, Time};
use crate::state::history::Learned;
use crate::state::{
    Drain, Drained, Health, HealthRecord, KnownOutputs, Queue, QueueTicket, RunningBuild, SlotHolder, Slots,
    StateDirectory, StateError, WaitingBuild,
};
use crate::status::MachineStatus;
use crate::store::path::StoreDir;

/// The real environment, for one request.
#[derive(Clone)]
pub struct LiveEnvironment(Arc<RequestState>);

struct RequestState {
    state: StateDirectory,
    expectations: Expectations,
    /// The user whose command requests the build.
    user: Option<String>,
    start: Instant,
    /// Where connections are kept.
    sessions: Option<OpenSessions>,
    ignores_drains: bool,
    on_demand: OnDemand,
    shared: Option<SharedSlots>,
}

impl LiveEnvironment {
    /// Returns the environment that takes slots for the build of which this is expected. The store directory is the same
    /// on every machine. `user` has requested the build. Machines are probed over `sessions` if one of them is open. With
    /// `ignores_drains`, drained machines take the build. `shared`: the pool, if other heads share it.
    pub fn new(
        state: &StateDirectory,
        expectations: &Expectations,
        user: Option<String>,
        sessions: Option<OpenSessions>,
        ignores_drains: bool,
        on_demand: OnDemand,
        shared: Option<SharedSlots>,
    ) -> LiveEnvironment {
        LiveEnvironment(Arc::new(RequestState {
            state: state.clone(),
            expectations: expectations.clone(),
            user,
            start: Instant::now(),
            sessions,
            ignores_drains,
            on_demand,
            shared,
        }))
    }

    fn store(&self) -> &StoreDir {
        &self.0.expectations.directories().store
    }

    /// Records that `machine` has built it, and so has its inputs.
    pub fn record_outputs(&self, machine: &Machine) {
        let mut derivations = self.0.expectations.needs().clone();
        derivations.insert(self.0.expectations.derivation().clone());
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
    type Slot = HeldSlot;
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
        cancel::sleep(time);
    }

    fn is_cancelled(&self) -> bool {
        cancel::is_cancelled()
    }

    fn spawn(&self, task: Box<dyn FnOnce() + Send>) {
        if let Err(error) = thread::Builder::new().name("ask".to_owned()).spawn(cancel::inherit(task)) {
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
        if self.0.ignores_drains {
            return None;
        }
        let own = Drain::of(&self.0.state, machine).ok().and_then(|drain| drain.read(health::now()));
        own.or_else(|| self.0.shared.as_ref()?.drained(machine))
    }

    fn power(&self, machine: &Machine) -> PowerState {
        self.0.on_demand.power(&self.0.state, machine)
    }

    fn boot_time(&self, machine: &Machine) -> Duration {
        boot_time(&self.0.state, machine)
    }

    fn start_machine(&self, machine: &Machine) {
        self.0.on_demand.start(machine);
    }

    fn try_probe_lock(&self, machine: &Machine) -> Result<Option<ProbeLock>, String> {
        HealthRecord::of(&self.0.state, machine).and_then(|record| record.try_probe_lock()).map_err(message)
    }

    fn connect(&self, machine: &Machine) -> Result<MachineLink, String> {
        match &self.0.sessions {
            Some(sessions) => sessions.connect(machine),
            None => reach(&self.0.state, machine, self.store()),
        }
    }

    fn status(&self, link: &MachineLink) -> Result<(MachineStatus, Duration), String> {
        if let Some(last) = link.connection.last_status().filter(|(_, age)| *age < health::STATUS_TTL) {
            return Ok(last);
        }
        let status = link.connection.probe(self.store().as_str()).map_err(|error| unreachable(&error))?;
        Ok((status, Duration::ZERO))
    }

    fn running(&self, machine: &Machine) -> Vec<RunningBuild> {
        let taken = self.slots(machine).and_then(|slots| slots.taken()).unwrap_or_default();
        taken.iter().map(|(_, holder)| RunningBuild::of(holder.as_ref(), health::now())).collect()
    }

    fn free_slots(&self, machine: &Machine, enough: usize) -> Result<usize, String> {
        let shared = self.0.shared.as_ref();
        self.slots(machine).and_then(|slots| held_slot::free(&slots, shared, machine, enough)).map_err(message)
    }

    fn missing_inputs(&self, machine: &Machine) -> usize {
        let needs = self.0.expectations.needs();
        if needs.is_empty() {
            return 0;
        }
        KnownOutputs::of(&self.0.state, machine)
            .map_or(needs.len(), |known_outputs| known_outputs.missing_inputs(needs))
    }

    fn missing_bytes(&self, machine: &Machine) -> Option<u64> {
        self.0.expectations.missing_bytes(machine)
    }

    fn learned(&self) -> Arc<Learned> {
        self.0.expectations.learned()
    }

    fn try_take_slot(&self, machine: &Machine, expected: Option<Duration>) -> Result<Option<HeldSlot>, String> {
        let holder = SlotHolder::this_process(self.0.expectations.derivation().as_str());
        let expected_seconds = expected.map(|expected| expected.as_secs_f64().ceil() as u64);
        let holder = SlotHolder { expected_seconds, ..holder };
        let (shared, user) = (self.0.shared.as_ref(), self.0.user.as_deref());
        let ignores_drains = self.0.ignores_drains;
        let take = |slots: Slots| held_slot::try_take(&slots, shared, machine, &holder, user, ignores_drains);
        self.slots(machine).and_then(take).map_err(message)
    }

    fn try_join_queue(&self, machines: &[&Machine], limit: usize) -> Result<Option<QueueTicket>, String> {
        let queue = Queue::of(&self.0.state).map_err(message)?;
        let build = WaitingBuild {
            user: self.0.user.clone(),
            derivation: self.0.expectations.derivation().to_string(),
            system: self.0.expectations.system().to_owned(),
            pid: process::id(),
        };
        queue.try_join(&hosts(machines), &build, limit, health::now()).map_err(message)
    }

    fn renew_ticket(&self, ticket: &QueueTicket, machines: &[&Machine]) {
        let renewed = Queue::of(&self.0.state).and_then(|queue| queue.renew(ticket, &hosts(machines), health::now()));
        if let Err(error) = renewed {
            warn!("cannot renew the place in the queue: {error}");
        }
    }

    fn announce_wait(&self, machines: &[&Machine]) {
        let Some(shared) = &self.0.shared else { return };
        // Other heads wait behind this build, so they wait only if it can use their slot: it has one of this head.
        let has_own =
            |machine: &&Machine| self.slots(machine).and_then(|slots| slots.free(1)).is_ok_and(|free| free > 0);
        let machines: Vec<&Machine> = machines.iter().copied().filter(has_own).collect();
        shared.wait(&machines, self.0.expectations.derivation().as_str(), self.0.user.as_deref());
    }

    fn take_turn(&self, ticket: QueueTicket, machine: &Machine) {
        let recorded =
            Queue::of(&self.0.state).and_then(|queue| queue.take_turn(ticket, &machine.address(), health::now()));
        if let Err(error) = recorded {
            debug!("cannot record the turn of this user: {error}");
        }
    }

    fn waiting(&self, machines: &[&Machine]) -> usize {
        Queue::of(&self.0.state).and_then(|queue| queue.waiting(&hosts(machines), self.0.user.as_deref())).unwrap_or(0)
    }

    fn ahead(&self, machines: &[&Machine], ticket: Option<&QueueTicket>) -> Vec<usize> {
        Queue::of(&self.0.state)
            .and_then(|queue| queue.ahead(&hosts(machines), ticket, self.0.user.as_deref(), health::now()))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::hook::Request;
    use crate::local::Directories;
    use crate::store::path::StorePath;

    /// A state directory, and a store with derivations.
    struct Site {
        directory: tempfile::TempDir,
        store: StoreDir,
    }

    impl Site {
        fn new() -> Site {
            let directory = tempfile::tempdir().unwrap();
            let store = StoreDir::new(directory.path().to_str().unwrap()).unwrap();
            Site { directory, store }
        }

        fn path(&self, name: &str) -> StorePath {
            // The hash differs from that of other names.
            let hash: u32 = name.bytes().map(u32::from).sum();
            let path = format!("{}/{hash:032}-{name}.drv", self.store.as_str());
            StorePath::parse(&self.store, path.as_bytes()).unwrap()
        }

        /// Writes a derivation with these inputs, and returns the environment of its build.
        fn env(&self, name: &str, inputs: &[&str]) -> LiveEnvironment {
            let inputs: BTreeSet<StorePath> = inputs.iter().map(|input| self.path(input)).collect();
            let inputs: Vec<String> = inputs.iter().map(|input| format!(r#"("{input}",["out"])"#)).collect();
            let output = self.path(name).as_str().replace(".drv", "");
            let text = format!(
                r#"Derive([("out","{output}","","")],[{}],[],"x86_64-linux","/bin/sh",[],[])"#,
                inputs.join(",")
            );
            fs::write(self.path(name).as_str(), text).unwrap();
            self.env_of_missing(name)
        }

        fn env_of_missing(&self, name: &str) -> LiveEnvironment {
            let system = "x86_64-linux".to_owned();
            let request = Request { wants_local: false, system, derivation: self.path(name), features: Vec::new() };
            let state = StateDirectory::new(self.directory.path().join("state"));
            let directories = Directories { store: self.store.clone(), ..Directories::default() };
            let expectations = Expectations::new(&state, &directories, &request, &Arc::default());
            LiveEnvironment::new(&state, &expectations, None, None, false, OnDemand::default(), None)
        }
    }

    fn machine(name: &str) -> Machine {
        Machine { parallel_builds: 2, ..Machine::new(name, "offload", vec!["x86_64-linux".into()], Vec::new()) }
    }

    #[test]
    fn a_machine_has_what_it_built_and_what_that_needed() {
        let site = Site::new();
        let [b1, b2] = ["b1", "b2"].map(machine);
        site.env("both", &["first", "second"]).record_outputs(&b1);
        assert_eq!(site.env("next", &["both", "first", "second", "third"]).missing_inputs(&b1), 1);
        assert_eq!(site.env("next", &["both", "first", "second", "third"]).missing_inputs(&b2), 4);
        assert_eq!(site.env("leaf", &[]).missing_inputs(&b2), 0);
        // A derivation that cannot be read counts for itself.
        assert_eq!(site.env_of_missing("gone").missing_inputs(&b1), 0);
        site.env_of_missing("gone").record_outputs(&b1);
        assert_eq!(site.env("next", &["gone", "third"]).missing_inputs(&b1), 1);
    }

    #[test]
    fn slots_are_those_of_the_machine_and_the_build() {
        let site = Site::new();
        let env = site.env("x", &[]);
        let [b1, b2] = ["b1", "b2"].map(machine);
        let before = health::now();
        let slots = [(); 3].map(|()| env.try_take_slot(&b1, None).unwrap());
        assert_eq!(slots.each_ref().map(Option::is_some), [true, true, false]);
        assert_eq!((env.free_slots(&b1, 9), env.free_slots(&b2, 9), env.free_slots(&b2, 1)), (Ok(0), Ok(2), Ok(1)));
        // Their holders record whole seconds.
        let running = env.running(&b1);
        let is_now = |build: &RunningBuild| (before / 1000 * 1000..=health::now()).contains(&build.since);
        assert!(running.len() == 2 && running.iter().all(is_now), "{running:?}");
        let holders = Slots::of(&env.0.state, &b1).unwrap().taken().unwrap();
        assert!(holders.iter().all(|(_, holder)| holder.as_ref().unwrap().derivation == site.path("x").as_str()));
        drop(slots);
        assert_eq!((env.free_slots(&b1, 9), env.running(&b1)), (Ok(2), Vec::new()));
    }
}
