//! A graph of builds on machines of different speed and links, built by the scheduler's own code and a real history.
//!
//! A build takes its work over the speed of the machine, and longer if the builds there want more cores than it has. Before it,
//! missing inputs are sent, and afterwards the outputs are fetched; the machine keeps them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use offload::internals::hook::{HookArguments, Request};
use offload::internals::machine::{Machine, label};
use offload::internals::machine_file::{LoadContext, LuaRequest, Pool, load_text};
use offload::internals::scheduler::decision::FULL_QUEUE_HOLD;
use offload::internals::scheduler::wait_for_slot::Limits;
use offload::internals::scheduler::{self, Choice, Decision, Environment, FileRules, Query};
use offload::internals::state::StateDirectory;
use offload::internals::state::history::{History, Learned, Outcome, Row};
use offload::internals::store::path::{StoreDir, StorePath};

use crate::stage::{Stage, lock};
use crate::world::{Bug, Conduct, Host, Hosts, Knowledge, World};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGiZC8RF5TdIuz3cZ2RZ6pH6/WJ7mzWKRX7KPrGwENOG";

/// The cores of each machine.
const CORES: f64 = 4.0;

/// The time of the daemons and of small transfers, in seconds.
const OVERHEAD: f64 = 0.15;

/// After this time what was learned is read again, as the hook does.
const LEARNED_TTL: Duration = Duration::from_secs(2);

/// A machine as it is.
#[derive(Clone, Copy)]
pub struct Site {
    pub speed: f64,
    /// What the machine file says.
    pub stated: f64,
    pub slots: u32,
    /// Bytes per second to the machine, and from it.
    pub up: f64,
    pub down: f64,
}

/// One build.
#[derive(Clone)]
pub struct Node {
    pub name: String,
    /// Seconds on a machine of the speed 1.
    pub work: f64,
    pub cores: f64,
    pub output: u64,
    pub needs: Vec<usize>,
}

struct Farm {
    stage: Stage,
    hosts: Arc<Hosts>,
    sites: Vec<Site>,
    nodes: Vec<Node>,
    pool: Pool,
    history: History,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where the outputs of each build are.
    places: BTreeMap<usize, BTreeSet<u16>>,
    missing: Vec<usize>,
    loads: BTreeMap<u16, Load>,
    learned: BTreeMap<String, (Duration, Arc<Learned>)>,
    built: usize,
    end: Duration,
}

/// A load average over one minute.
#[derive(Clone, Copy, Default)]
struct Load {
    average: f64,
    since: Duration,
    now: f64,
}

impl Load {
    fn change(&mut self, now: Duration, by: f64) -> f64 {
        let faded = (-(now.saturating_sub(self.since)).as_secs_f64() / 60.0).exp();
        *self = Load { average: self.now + (self.average - self.now) * faded, since: now, now: self.now + by };
        self.average
    }
}

/// Builds a graph, the machine of which chooses by `score`. Returns when its last build ended, and how many builds each
/// machine had.
pub fn play(seed: u64, sites: &[Site], nodes: &[Node], score: &str) -> (Duration, Vec<usize>) {
    let directory = tempfile::tempdir().unwrap();
    let answers = vec![(Duration::ZERO, Conduct::Answers(Duration::from_millis(20)))];
    // No machine has the port 0.
    let slots = std::iter::once(0).chain(sites.iter().map(|site| site.slots));
    let hosts = Hosts::new(slots.map(|slots| Host::new(slots, answers.clone())).collect(), Bug::None);
    let stage = Stage::new(seed);
    let farm = Arc::new(Farm {
        stage: stage.clone(),
        hosts,
        sites: sites.to_vec(),
        nodes: nodes.to_vec(),
        pool: machine_file(sites, score),
        history: History::of(&StateDirectory::new(directory.path())),
        state: Mutex::default(),
    });
    lock(&farm.state).missing = nodes.iter().map(|node| node.needs.len()).collect();
    for (number, _) in nodes.iter().enumerate().filter(|(_, node)| node.needs.is_empty()) {
        start(&farm, number);
    }
    stage.play().unwrap();
    let state = lock(&farm.state);
    assert_eq!(state.built, nodes.len());
    let count = |port: u16| state.places.values().filter(|places| places.contains(&port)).count();
    (state.end, (1..=sites.len() as u16).map(count).collect())
}

fn machine_file(sites: &[Site], score: &str) -> Pool {
    let machine = |(number, site): (usize, &Site)| {
        format!(
            "build_machine {{ name = 'm{number}', port = {}, user = 'u', systems = {{ 'x86_64-linux' }}, host_key = '{KEY}', \
             speed = {}, parallel_builds = {}, overload_threshold = false }},\n",
            number + 1,
            site.stated,
            site.slots
        )
    };
    let machines: String = sites.iter().enumerate().map(machine).collect();
    let text = format!("local offload = require 'offload'\nreturn {{ {machines} {score} }}");
    load_text(Path::new("/machines.lua"), text.into_bytes(), &LoadContext::default()).unwrap()
}

fn start(farm: &Arc<Farm>, number: usize) {
    let mut world = World::new(&farm.stage, &farm.hosts, 0);
    world.knowledge = Some(Arc::new(Known { farm: Arc::clone(farm), number }));
    let (farm, process) = (Arc::clone(farm), world.process.clone());
    let stage = farm.stage.clone();
    stage.start(Duration::ZERO, &process, move || run(&farm, number, &world));
}

fn run(farm: &Arc<Farm>, number: usize, world: &World) {
    let name = &farm.nodes[number].name;
    let derivation = format!("/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-{name}.drv");
    let request = Request {
        wants_local: false,
        system: "x86_64-linux".to_owned(),
        derivation: StorePath::parse(&StoreDir::default(), derivation.as_bytes()).unwrap(),
        features: Vec::new(),
    };
    let machines: Vec<&Machine> = farm.pool.machines.iter().map(|entry| &entry.machine).collect();
    let rules = FileRules::new(&farm.pool, LuaRequest::new(&request, &HookArguments::without_limits("x86_64-linux")));
    let query = Query { request: &request, machines: &machines, rules: &rules, excluded: &[], head: None };
    let choice = loop {
        match scheduler::decide(&query, false, FULL_QUEUE_HOLD, world) {
            Decision::Accept(choice) => break choice,
            Decision::AcceptAndWait(ticket) => {
                let hour = Duration::from_secs(3600);
                let limits = Limits { until: None, wait_for_machine: hour, report_interval: hour };
                match scheduler::wait(&query, &mut Some(ticket), limits, world, &mut |_, _| {}) {
                    Ok(choice) => break choice,
                    Err(error) => panic!("{error:?}"),
                }
            }
            Decision::Postpone(_) => world.pause(Duration::from_secs(5)),
            Decision::Decline(reasons) => panic!("{reasons:?}"),
        }
    };
    build(farm, number, machines[choice.machine], choice, &derivation);
    let next: Vec<usize> = {
        let mut state = lock(&farm.state);
        state.built += 1;
        state.end = farm.stage.elapsed();
        let dependents = (number + 1..farm.nodes.len()).filter(|&later| farm.nodes[later].needs.contains(&number));
        dependents
            .filter(|&later| {
                state.missing[later] -= 1;
                state.missing[later] == 0
            })
            .collect()
    };
    next.into_iter().for_each(|number| start(farm, number));
}

fn build(farm: &Arc<Farm>, number: usize, machine: &Machine, choice: Choice<World>, derivation: &str) {
    let (node, port) = (&farm.nodes[number], machine.port);
    let site = farm.sites[usize::from(port) - 1];
    let pause = |seconds: f64| {
        farm.stage.pause(Duration::from_secs_f64(seconds));
        (seconds * 1000.0) as u64
    };
    let (_, sent_bytes) = farm.missing(number, port);
    let sending = pause(OVERHEAD + sent_bytes as f64 / site.up);
    let wanted = {
        let mut state = lock(&farm.state);
        for need in &node.needs {
            state.places.entry(*need).or_default().insert(port);
        }
        let load = state.loads.entry(port).or_default();
        load.change(farm.stage.elapsed(), node.cores);
        load.now
    };
    let building = pause(node.work / site.speed * (wanted / CORES).max(1.0));
    {
        let mut state = lock(&farm.state);
        state.loads.entry(port).or_default().change(farm.stage.elapsed(), -node.cores);
        state.places.entry(number).or_default().insert(port);
    }
    let retrieving = pause(node.output as f64 / site.down);
    let row = Row::new(derivation, "x86_64-linux", Outcome::Built, 1);
    let machine = Some(label(&machine.name, port));
    let retrieved_bytes = node.output;
    farm.history.append(&[Row {
        machine,
        attempt: 1,
        sending,
        building,
        retrieving,
        sent_bytes,
        retrieved_bytes,
        ..row
    }]);
    if number.is_multiple_of(8) {
        farm.history.collect();
    }
    drop(choice);
}

impl Farm {
    fn missing(&self, number: usize, port: u16) -> (usize, u64) {
        let state = lock(&self.state);
        let is_there = |need: usize| state.places.get(&need).is_some_and(|places| places.contains(&port));
        let missing = self.nodes[number].needs.iter().filter(|&&need| !is_there(need));
        missing.fold((0, 0), |(count, bytes), need| (count + 1, bytes + self.nodes[*need].output))
    }
}

/// What is known of one build.
struct Known {
    farm: Arc<Farm>,
    number: usize,
}

impl Knowledge for Known {
    fn missing(&self, port: u16) -> (usize, u64) {
        self.farm.missing(self.number, port)
    }

    fn learned(&self) -> Arc<Learned> {
        let (now, name) = (self.farm.stage.elapsed(), &self.farm.nodes[self.number].name);
        let mut state = lock(&self.farm.state);
        if let Some((read, learned)) = state.learned.get(name)
            && now - *read < LEARNED_TTL
        {
            return Arc::clone(learned);
        }
        let learned = Arc::new(self.farm.history.learned(name, &self.farm.pool.speeds));
        state.learned.insert(name.clone(), (now, Arc::clone(&learned)));
        learned
    }

    fn load(&self, port: u16) -> f64 {
        lock(&self.farm.state).loads.entry(port).or_default().change(self.farm.stage.elapsed(), 0.0)
    }
}
