//! The simulated world: machines that come and go, records, slots and places as the state directory keeps them, and
//! bugs that can be planted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use offload::internals::machine::Machine;
use offload::internals::scheduler::{Environment, PowerState};
use offload::internals::state::health::Time;
use offload::internals::state::history::Learned;
use offload::internals::state::queue::fair_order::{Place, ahead};
use offload::internals::state::{Drained, Health, RunningBuild};
use offload::internals::status::MachineStatus;

use crate::on_demand::Plant;
use crate::stage::{Process, Stage, lock};

/// The names of the users.
const USERS: [&str; 4] = ["ci", "alice", "bob", "carol"];

/// The behaviour of a machine from some moment on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Conduct {
    /// It answers after a while.
    Answers(Duration),
    /// It refuses at once.
    Refuses,
    /// It accepts TCP and says nothing.
    Silent,
}

/// A mistake in the world's own parts, to see whether it is noticed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bug {
    None,
    /// Some slots are not given back.
    LeakedSlot,
    /// A slot is seen to be free, and taken later without another look.
    SlotTakenTwice,
    /// Each process remembers the first record that it saw.
    StaleRecord,
    /// The right to ask a host is given to everyone.
    AskedByAll,
    /// Nobody is ahead of anybody.
    NoLine,
    /// The turns of users are not recorded.
    NoTurns,
    /// The limit of the queue is that of all users together.
    OneLimit,
    /// Who looks at the slots waits until one is free.
    WaitingLook,
}

/// The state that all processes share.
pub struct Hosts {
    pub hosts: Vec<Mutex<Host>>,
    places: Mutex<BTreeMap<u64, Ticket>>,
    /// By host and user.
    turns: Mutex<BTreeMap<(u16, u64), Time>>,
    pub bug: Bug,
    /// The time by which the wall clock is ahead of the true time, in milliseconds.
    pub clock: Mutex<i64>,
}

/// A build that waits.
struct Ticket {
    since: Time,
    user: u64,
    ports: Vec<u16>,
}

pub struct Host {
    /// Sorted by time.
    pub conduct: Vec<(Duration, Conduct)>,
    pub slots: u32,
    health: Health,
    asked_by: Option<u64>,
    running: BTreeMap<u64, RunningBuild>,
    pub most_running: usize,
    pub drained: Option<Drained>,
    /// When it was contacted, when that ended, and whether it answered.
    pub contacts: Vec<(Duration, Duration, bool)>,
}

impl Host {
    pub fn new(slots: u32, conduct: Vec<(Duration, Conduct)>) -> Host {
        Host {
            conduct,
            slots,
            health: Health::default(),
            asked_by: None,
            running: BTreeMap::new(),
            most_running: 0,
            drained: None,
            contacts: Vec::new(),
        }
    }

    pub fn conduct(&self, now: Duration) -> Conduct {
        self.conduct.iter().rev().find(|(since, _)| *since <= now).map_or(Conduct::Refuses, |(_, conduct)| *conduct)
    }

    pub fn running(&self) -> usize {
        self.running.len()
    }

    pub fn is_asked(&self) -> bool {
        self.asked_by.is_some()
    }
}

impl Hosts {
    pub fn new(hosts: Vec<Host>, bug: Bug) -> Arc<Hosts> {
        let hosts = hosts.into_iter().map(Mutex::new).collect();
        Arc::new(Hosts { hosts, places: Mutex::default(), turns: Mutex::default(), bug, clock: Mutex::default() })
    }

    pub fn waiting(&self) -> usize {
        lock(&self.places).len()
    }
}

/// The world of one process.
#[derive(Clone)]
pub struct World {
    pub stage: Stage,
    pub hosts: Arc<Hosts>,
    pub process: Process,
    /// Whose build it is.
    pub user: u64,
    stale: Arc<Mutex<BTreeMap<u16, Health>>>,
    /// The knowledge about the build, in plays that need it.
    pub knowledge: Option<Arc<dyn Knowledge>>,
    /// The machines on demand, in plays that have them.
    pub plant: Option<Arc<Plant>>,
}

/// What is known of a build.
pub trait Knowledge: Send + Sync {
    /// The inputs that a machine lacks, and their bytes.
    fn missing(&self, port: u16) -> (usize, u64);
    fn learned(&self) -> Arc<Learned>;
    /// The one-minute load of a machine.
    fn load(&self, port: u16) -> f64;
}

/// Something that is held, and given back when its holder ends, as the kernel does with locks.
pub struct Held<T: Copy> {
    world: World,
    what: T,
    number: u64,
    give_back: fn(&World, T, u64),
}

impl<T: Copy> Drop for Held<T> {
    fn drop(&mut self) {
        (self.give_back)(&self.world, self.what, self.number);
    }
}

impl World {
    pub fn new(stage: &Stage, hosts: &Arc<Hosts>, user: u64) -> World {
        let (stage, hosts) = (stage.clone(), Arc::clone(hosts));
        World { stage, hosts, process: Process::default(), user, stale: Arc::default(), knowledge: None, plant: None }
    }

    fn host(&self, machine: &Machine) -> std::sync::MutexGuard<'_, Host> {
        lock(&self.hosts.hosts[usize::from(machine.port)])
    }

    /// Another process may come in between.
    fn give_way(&self) {
        self.stage.pause(Duration::from_micros(self.stage.random(40)));
    }

    fn held<T: Copy>(&self, what: T, give_back: fn(&World, T, u64)) -> Held<T> {
        Held { world: self.clone(), what, number: self.stage.random(u64::MAX), give_back }
    }
}

impl Environment for World {
    type Slot = Held<u16>;
    type Link = u16;
    type ProbeLock = Held<u16>;
    type QueueTicket = Held<Time>;

    fn now(&self) -> Time {
        (1_000_000_000 + self.stage.elapsed().as_millis() as i64 + *lock(&self.hosts.clock)) as Time
    }

    fn elapsed(&self) -> Duration {
        self.stage.elapsed()
    }

    fn pause(&self, time: Duration) {
        self.stage.pause(time);
    }

    fn spawn(&self, task: Box<dyn FnOnce() + Send>) {
        self.stage.start(Duration::ZERO, &self.process, task);
    }

    fn health(&self, machine: &Machine) -> Health {
        let health = self.host(machine).health.clone();
        if self.hosts.bug == Bug::StaleRecord {
            return lock(&self.stale).entry(machine.port).or_insert(health).clone();
        }
        health
    }

    fn change_health(&self, machine: &Machine, change: &mut dyn FnMut(Health) -> Health) {
        self.give_way();
        let mut host = self.host(machine);
        host.health = change(host.health.clone());
    }

    fn drained(&self, machine: &Machine) -> Option<Drained> {
        self.host(machine).drained
    }

    fn power(&self, machine: &Machine) -> PowerState {
        self.plant.as_ref().map_or(PowerState::Running, |plant| plant.state(self, machine))
    }

    fn start_machine(&self, machine: &Machine) {
        self.plant.iter().for_each(|plant| plant.start(self, machine));
    }

    fn try_probe_lock(&self, machine: &Machine) -> Result<Option<Held<u16>>, String> {
        self.give_way();
        let held = self.held(machine.port, |world, port, number| {
            let mut host = lock(&world.hosts.hosts[usize::from(port)]);
            host.asked_by = host.asked_by.filter(|&by| by != number);
        });
        let mut host = self.host(machine);
        if host.asked_by.is_some() && self.hosts.bug != Bug::AskedByAll {
            drop(host);
            return Ok(None);
        }
        host.asked_by = Some(held.number);
        drop(host);
        Ok(Some(held))
    }

    fn connect(&self, machine: &Machine) -> Result<u16, String> {
        let start = self.elapsed();
        self.plant.iter().for_each(|plant| plant.contact(machine));
        let conduct = self.host(machine).conduct(start);
        let mut host = self.host(machine);
        host.contacts.push((start, Duration::MAX, false));
        let contact = host.contacts.len() - 1;
        drop(host);
        self.pause(match conduct {
            Conduct::Answers(time) => time,
            Conduct::Refuses => Duration::from_millis(1),
            Conduct::Silent => machine.connect_timeout,
        });
        let answers = matches!(conduct, Conduct::Answers(_));
        self.host(machine).contacts[contact] = (start, self.elapsed(), answers);
        if answers { Ok(machine.port) } else { Err(format!("{conduct:?}")) }
    }

    fn status(&self, link: &u16) -> Result<(MachineStatus, Duration), String> {
        self.pause(Duration::from_millis(5));
        let known = self.knowledge.as_ref().map(|knowledge| knowledge.load(*link));
        let load = known.unwrap_or_else(|| self.stage.random(100) as f64 / 100.0);
        Ok((MachineStatus { load1: Some(load), cores: Some(4), ..MachineStatus::default() }, Duration::ZERO))
    }

    fn running(&self, machine: &Machine) -> Vec<RunningBuild> {
        self.host(machine).running.values().copied().collect()
    }

    fn free_slots(&self, machine: &Machine, enough: usize) -> Result<usize, String> {
        loop {
            let host = self.host(machine);
            let free = (host.slots as usize).saturating_sub(host.running.len()).min(enough);
            drop(host);
            if free > 0 || self.hosts.bug != Bug::WaitingLook {
                return Ok(free);
            }
            self.pause(Duration::from_millis(100));
        }
    }

    fn missing_inputs(&self, machine: &Machine) -> usize {
        self.knowledge.as_ref().map_or(0, |knowledge| knowledge.missing(machine.port).0)
    }

    fn missing_bytes(&self, machine: &Machine) -> Option<u64> {
        self.knowledge.as_ref().map(|knowledge| knowledge.missing(machine.port).1)
    }

    fn learned(&self) -> Arc<Learned> {
        self.knowledge.as_ref().map(|knowledge| knowledge.learned()).unwrap_or_default()
    }

    fn try_take_slot(&self, machine: &Machine, expected: Option<Duration>) -> Result<Option<Held<u16>>, String> {
        let is_full = || {
            let host = self.host(machine);
            host.running.len() >= host.slots as usize
        };
        if self.hosts.bug == Bug::SlotTakenTwice && is_full() {
            return Ok(None);
        }
        self.give_way();
        if self.hosts.bug != Bug::SlotTakenTwice && is_full() {
            return Ok(None);
        }
        let slot = self.held(machine.port, |world, port, number| {
            if world.hosts.bug == Bug::LeakedSlot && number.is_multiple_of(50) {
                return;
            }
            lock(&world.hosts.hosts[usize::from(port)]).running.remove(&number);
        });
        let now = self.now();
        let mut host = self.host(machine);
        host.running.insert(slot.number, RunningBuild { since: now, expected });
        host.most_running = host.most_running.max(host.running.len());
        drop(host);
        Ok(Some(slot))
    }

    fn try_join_queue(&self, machines: &[&Machine], limit: usize) -> Result<Option<Held<Time>>, String> {
        self.give_way();
        let ports: Vec<u16> = machines.iter().map(|machine| machine.port).collect();
        let place = self.held(self.now(), |world, _, number| {
            lock(&world.hosts.places).remove(&number);
        });
        if self.waiting(machines) >= limit {
            return Ok(None);
        }
        lock(&self.hosts.places).insert(place.number, Ticket { since: place.what, user: self.user, ports });
        Ok(Some(place))
    }

    fn waiting(&self, machines: &[&Machine]) -> usize {
        let wants = |wanted: &[u16]| machines.iter().any(|machine| wanted.contains(&machine.port));
        let is_mine = |ticket: &&Ticket| ticket.user == self.user || self.hosts.bug == Bug::OneLimit;
        lock(&self.hosts.places).values().filter(is_mine).filter(|ticket| wants(&ticket.ports)).count()
    }

    fn take_turn(&self, place: Held<Time>, machine: &Machine) {
        if self.hosts.bug != Bug::NoTurns {
            lock(&self.hosts.turns).insert((machine.port, self.user), self.now());
        }
        drop(place);
    }

    fn renew_ticket(&self, place: &Held<Time>, machines: &[&Machine]) {
        let ports = machines.iter().map(|machine| machine.port).collect();
        lock(&self.hosts.places).insert(place.number, Ticket { since: place.what, user: self.user, ports });
    }

    fn ahead(&self, machines: &[&Machine], place: Option<&Held<Time>>) -> Vec<usize> {
        let places = lock(&self.hosts.places);
        if self.hosts.bug == Bug::NoLine || places.is_empty() {
            return vec![0; machines.len()];
        }
        let (since, number) = place.map_or((Time::MAX, u64::MAX), |place| (place.what, place.number));
        let user = |user: u64| USERS.get(user as usize).copied();
        let own = Place { since, number: number as usize, user: user(self.user) };
        let (turns, now) = (lock(&self.hosts.turns), self.now());
        let before = |port: u16| {
            let others = places.iter().filter(|(other, ticket)| **other != number && ticket.ports.contains(&port));
            let others = others.map(|(number, ticket)| Place {
                since: ticket.since,
                number: *number as usize,
                user: user(ticket.user),
            });
            ahead(own, others, |user| {
                let user = USERS.iter().position(|known| Some(*known) == user)? as u64;
                turns.get(&(port, user)).copied().filter(|turn| *turn <= now)
            })
        };
        machines.iter().map(|machine| before(machine.port)).collect()
    }

    fn own_status(&self) -> MachineStatus {
        MachineStatus::default()
    }
}
