//! Machines on demand: the scheduler's own decisions, records and limits, and machines that are played.
//!
//! Builds come for two days: bursts, a trickle during the day, nothing at night. The cost in machine hours and the mean wait
//! are compared with pools of a fixed size, which run day and night. These are played without any delay except for slots, so
//! they are better than real ones.
//!
//! 2000 builds, 20 s for a boot, 2 slots a machine (1 December 2026):
//!
//! | pool | machine hours | mean wait |
//! |---|---|---|
//! | 8 machines on demand | 38 | 11.2 s |
//! | 1 fixed | 48 | 61.0 s |
//! | 3 fixed | 144 | 12.8 s |
//! | 4 fixed | 192 | 7.8 s |

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use offload::internals::hook::Request;
use offload::internals::machine::{Machine, OnDemand, PoolLimits};
use offload::internals::scheduler::{Environment, PowerState};
use offload::internals::state::health::Time;
use offload::internals::state::power::check_limits;
use offload::internals::state::{Phase, Power};
use offload::internals::store::path::{StoreDir, StorePath};

use crate::hook::{End, Hook, Note};
use crate::stage::{Process, Stage, lock};
use crate::world::{Bug, Conduct, Host, Hosts, World};
use crate::{milliseconds, seconds};

const BOOT: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(300);
const SLOTS: u32 = 2;
const DAY: u64 = 86_400;

/// The machines on demand of a pool.
pub struct Plant {
    limits: PoolLimits,
    machines: Vec<Mutex<Unit>>,
    problems: Mutex<Vec<String>>,
    /// Whether the limits are ignored, as a planted mistake.
    ignores_limits: bool,
}

#[derive(Default)]
struct Unit {
    power: Power,
    is_changing: bool,
    /// When it was switched on and off, in milliseconds.
    times: Vec<(Time, Option<Time>)>,
}

impl Plant {
    fn new(count: usize, limits: PoolLimits, ignores_limits: bool) -> Arc<Plant> {
        let machines = (0..count).map(|_| Mutex::default()).collect();
        Arc::new(Plant { limits, machines, problems: Mutex::default(), ignores_limits })
    }

    fn unit(&self, machine: &Machine) -> std::sync::MutexGuard<'_, Unit> {
        lock(&self.machines[usize::from(machine.port)])
    }

    fn report(&self, problem: String) {
        lock(&self.problems).push(problem);
    }

    fn records(&self) -> Vec<Power> {
        self.machines.iter().map(|unit| lock(unit).power.clone()).collect()
    }

    fn check_limits(&self, now: Time) -> Result<(), String> {
        match self.ignores_limits {
            true => Ok(()),
            false => check_limits(&self.limits, &self.records(), now),
        }
    }

    pub fn state(&self, world: &World, machine: &Machine) -> PowerState {
        let (power, is_changing) = {
            let unit = self.unit(machine);
            (unit.power.clone(), unit.is_changing)
        };
        let start_after = machine.on_demand.as_ref().unwrap().start_after;
        let limits = || self.check_limits(world.now());
        PowerState::of(&power, is_changing, world.now(), start_after, || false, limits)
    }

    /// Notes a contact: a build's machine runs.
    pub fn contact(&self, machine: &Machine) {
        let unit = self.unit(machine);
        if unit.power.phase != Phase::Running || unit.is_changing {
            let problem = format!("machine {} was contacted while it was {:?}", machine.port, unit.power.phase);
            drop(unit);
            self.report(problem);
        }
    }

    /// Launches a process that starts the machine.
    pub fn start(self: &Arc<Self>, world: &World, machine: &Machine) {
        // The slots that start, and those that are free, suffice for all builds that wait.
        let starting = self.machines.iter().filter(|unit| {
            let unit = lock(unit);
            unit.is_changing && unit.power.phase != Phase::Stopping
        });
        let slots = starting.count() * SLOTS as usize;
        if slots >= world.hosts.waiting() {
            self.report(format!("{slots} slots start, {} builds wait, and another one starts", world.hosts.waiting()));
        }
        let (plant, world, machine) = (Arc::clone(self), world.clone(), machine.clone());
        let stage = world.stage.clone();
        let body = move || plant.boot(&world, &machine);
        stage.start(milliseconds(stage.random(20)), &Process::default(), body);
    }

    /// What `power/start.rs` does, in its order.
    fn boot(&self, world: &World, machine: &Machine) {
        if std::mem::replace(&mut self.unit(machine).is_changing, true) {
            return;
        }
        let now = world.now();
        if self.unit(machine).power.phase == Phase::Off && self.check_limits(now).is_ok() {
            {
                let mut unit = self.unit(machine);
                unit.power.starting(now);
                unit.times.push((now, None));
            }
            self.check_caps(now);
            world.pause(BOOT / 2 + milliseconds(world.stage.random(BOOT.as_millis() as u64)));
            self.unit(machine).power.running(world.now());
        }
        self.unit(machine).is_changing = false;
    }

    /// Compares what runs with the limits. This counts by the switches, not by the records.
    fn check_caps(&self, now: Time) {
        let units: Vec<_> = self.machines.iter().map(|unit| lock(unit)).collect();
        let running = units.iter().filter(|unit| unit.times.last().is_some_and(|(_, off)| off.is_none())).count();
        let starting = units.iter().filter(|unit| unit.power.phase == Phase::Starting).count();
        let day = DAY * 1000;
        let ran = |(on, off): &(Time, Option<Time>)| off.unwrap_or(now).saturating_sub((*on).max(now - day));
        let hours = units.iter().flat_map(|unit| &unit.times).map(ran).sum::<Time>() as f64 / 3_600_000.0;
        drop(units);
        let PoolLimits { max_running, max_starting, max_hours } = self.limits;
        if max_running.is_some_and(|most| running > most as usize)
            || max_starting.is_some_and(|most| starting > most as usize)
            || max_hours.is_some_and(|most| hours >= most)
        {
            self.report(format!("{running} run, {starting} start, {hours:.2} h within a day"));
        }
    }

    /// What `power/reap.rs` and `power/stop.rs` do, in their order.
    fn reap(&self, world: &World, machine: &Machine, hosts: &Hosts) {
        let on_demand = machine.on_demand.as_ref().unwrap();
        let now = world.now();
        let host = &hosts.hosts[usize::from(machine.port)];
        {
            let mut unit = self.unit(machine);
            if unit.is_changing || unit.power.phase != Phase::Running {
                return;
            }
            if lock(host).running() > 0 {
                unit.power.used = now;
                return;
            }
            if !unit.power.is_idle(now, on_demand.idle, on_demand.min_up) {
                return;
            }
            unit.is_changing = true;
            unit.power.enter(Phase::Stopping, now);
        }
        // All slots are taken meanwhile.
        lock(host).slots = 0;
        world.pause(STOP);
        let now = world.now();
        let mut unit = self.unit(machine);
        unit.power.off(now);
        unit.times.last_mut().unwrap().1 = Some(now);
        unit.is_changing = false;
        lock(host).slots = SLOTS;
    }

    fn hours(&self) -> f64 {
        let ran = |(on, off): &(Time, Option<Time>)| off.unwrap_or(Time::MAX) - on;
        let units = self.machines.iter().map(|unit| lock(unit).times.iter().map(ran).sum::<Time>());
        units.sum::<Time>() as f64 / 3_600_000.0
    }

    fn starts(&self) -> usize {
        self.machines.iter().map(|unit| lock(unit).times.len()).sum()
    }
}

/// When builds come, and how long they take.
fn arrivals(stage: &Stage, days: u64, bursts: u64, of: u64, trickle: u64) -> Vec<(Duration, Duration)> {
    let mut arrivals = Vec::new();
    let mut add = |at: Duration| arrivals.push((at, seconds(10) + milliseconds(stage.random(20_000))));
    for day in 0..days {
        let at =
            |from: u64, hours: u64| seconds(day * DAY + from * 3600) + milliseconds(stage.random(hours * 3_600_000));
        for _ in 0..bursts {
            let begin = at(6, 16);
            (0..of).for_each(|_| add(begin + milliseconds(stage.random(20_000))));
        }
        (0..trickle).for_each(|_| add(at(8, 10)));
    }
    arrivals.sort();
    arrivals
}

/// Returns the mean wait in seconds of a fixed pool with this many slots.
fn fixed(arrivals: &[(Duration, Duration)], slots: usize) -> f64 {
    let mut free: BinaryHeap<Reverse<Duration>> = (0..slots).map(|_| Reverse(Duration::ZERO)).collect();
    let waits = arrivals.iter().map(|(at, time)| {
        let Reverse(slot) = free.pop().unwrap();
        let begin = slot.max(*at);
        free.push(Reverse(begin + *time));
        (begin - *at).as_secs_f64()
    });
    waits.sum::<f64>() / arrivals.len() as f64
}

struct Played {
    plant: Arc<Plant>,
    notes: Vec<Note>,
    mean_wait: f64,
}

fn play(count: usize, days: u64, arrivals: &[(Duration, Duration)], plant: &Arc<Plant>) -> Result<Played, String> {
    let stage = Stage::new(22);
    let machines: Arc<Vec<Machine>> = Arc::new(
        (0..count)
            .map(|number| {
                let mut machine = Machine::new("m", "u", vec!["x86_64-linux".to_owned()], Vec::new());
                (machine.port, machine.parallel_builds) = (number as u16, SLOTS);
                machine.overload_threshold = None;
                machine.on_demand = Some(OnDemand { idle: IDLE, ..OnDemand::default() });
                machine
            })
            .collect(),
    );
    let answers = vec![(Duration::ZERO, Conduct::Answers(milliseconds(40)))];
    let hosts = Hosts::new((0..count).map(|_| Host::new(SLOTS, answers.clone())).collect(), Bug::None);
    let notes = Arc::new(Mutex::new(Vec::new()));
    let derivation =
        StorePath::parse(&StoreDir::default(), b"/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-x.drv").unwrap();
    for (number, &(at, build_time)) in arrivals.iter().enumerate() {
        let mut world = World::new(&stage, &hosts, number as u64 % 4);
        world.plant = Some(Arc::clone(plant));
        let process = world.process.clone();
        let request = Request {
            wants_local: true,
            system: "x86_64-linux".to_owned(),
            derivation: derivation.clone(),
            features: Vec::new(),
        };
        let hook = Hook {
            request,
            machines: Arc::clone(&machines),
            may_build_locally: false,
            build_time,
            build_timeout: None,
            notes: Arc::clone(&notes),
            world,
        };
        stage.start(at, &process, move || hook.run());
    }
    // The timer, until a while after the last build.
    let world = World::new(&stage, &hosts, 0);
    let (reaper, reaped) = (Arc::clone(plant), Arc::clone(&hosts));
    stage.start(seconds(60), &Process::default(), move || {
        while world.elapsed() < seconds(days * DAY + 7200) {
            machines.iter().for_each(|machine| reaper.reap(&world, machine, &reaped));
            world.pause(seconds(60));
        }
    });
    stage.play()?;
    let notes = std::mem::take(&mut *lock(&notes));
    let total: f64 = notes.iter().map(|note| note.time.as_secs_f64()).sum();
    let built: f64 = arrivals.iter().map(|(_, time)| time.as_secs_f64()).sum();
    let mean_wait = (total - built) / arrivals.len() as f64;
    let mut problems = lock(&plant.problems).clone();
    // The hours may be used up before a build comes.
    let is_wrong = |end| end != End::Built && (end != End::Postponed || plant.limits.max_hours.is_none());
    problems.extend(notes.iter().find(|note| is_wrong(note.end)).map(|note| format!("{note:?}")));
    let on = plant.records().iter().filter(|power| power.phase != Phase::Off).count();
    problems.extend((on > 0).then(|| format!("{on} machines run in the end")));
    match problems.is_empty() {
        true => Ok(Played { plant: Arc::clone(plant), notes, mean_wait }),
        false => Err(format!("{} problems; {}", problems.len(), problems[..problems.len().min(5)].join("\n"))),
    }
}

#[test]
fn on_demand_costs_less_than_the_best_fixed_pool() {
    let arrivals = arrivals(&Stage::new(1), 2, 12, 30, 640);
    let plant = Plant::new(8, PoolLimits::default(), false);
    let played = play(8, 2, &arrivals, &plant).unwrap();
    assert_eq!((arrivals.len(), played.notes.len()), (2000, 2000));
    let hours = played.plant.hours();
    println!("on demand: {hours:.0} machine hours, {} starts, mean wait {:.1} s", plant.starts(), played.mean_wait);
    for machines in 1..=8 {
        let wait = fixed(&arrivals, machines * SLOTS as usize);
        println!("fixed, {machines}: {} machine hours, mean wait {wait:.1} s", machines * 48);
    }
    // The smallest fixed pool where builds wait no longer.
    let best = (1..=8).find(|machines| fixed(&arrivals, machines * SLOTS as usize) <= played.mean_wait).unwrap_or(9);
    assert!(hours < 0.5 * (best * 48) as f64, "{hours:.0} h; {best} fixed machines make builds wait no longer");
    // For the same hours, a fixed pool makes builds wait longer.
    let same = ((hours / 48.0).ceil() as usize).max(1);
    assert!(fixed(&arrivals, same * SLOTS as usize) > 1.5 * played.mean_wait, "{same} fixed machines for {hours:.0} h");
}

#[test]
fn no_limit_is_ever_exceeded() {
    let limits = PoolLimits { max_running: Some(4), max_starting: Some(2), max_hours: Some(2.0) };
    let arrivals = arrivals(&Stage::new(2), 1, 5, 30, 50);
    let plant = Plant::new(6, limits.clone(), false);
    let played = play(6, 1, &arrivals, &plant).unwrap();
    let postponed = played.notes.iter().filter(|note| note.end == End::Postponed).count();
    println!("{:.1} h, {} starts, {postponed} of {} postponed", plant.hours(), plant.starts(), arrivals.len());
    // The hours were used up at some time of the day, and the builds before that were built.
    assert!(postponed > 0 && postponed < arrivals.len() && plant.hours() > 1.9, "{postponed}");
    // Starts that ignore the limits are noticed.
    let why = play(6, 1, &arrivals, &Plant::new(6, limits, true)).err().unwrap_or_default();
    assert!(why.contains(" run, "), "{why}");
}
