//! Compares `offload explain --json`, the decision that follows, and the rules, over generated pools. No machine is probed:
//! each has a fresh record, of success or of failure. Every machine responds when it is contacted.

use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use offload::internals::build::LiveEnvironment;
use offload::internals::engine::Engine;
use offload::internals::hook::{HookArguments, Request};
use offload::internals::local::Directories;
use offload::internals::machine::Machine;
use offload::internals::scheduler::decision::{FULL_QUEUE_HOLD, QUEUE_PER_SLOT};
use offload::internals::scheduler::{Decision, Environment, decide};
use offload::internals::state::health::Time;
use offload::internals::state::{
    Drain, Drained, Health, HealthRecord, Queue, QueueTicket, RunningBuild, SlotHolder, Slots, WaitingBuild, health,
};
use offload::internals::status::MachineStatus;
use offload::internals::store::path::StorePath;
use proptest::prelude::*;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
/// The first two are those of the head.
const SYSTEMS: [&str; 3] = ["x86_64-linux", "i686-linux", "aarch64-linux"];
const FEATURES: [&str; 2] = ["kvm", "big"];
const CORES: u32 = 4;

/// A machine, what is recorded of it, and who builds there. Sets are masks of bits.
#[derive(Clone, Debug)]
struct Given {
    enabled: bool,
    systems: u8,
    features: u8,
    speed: f64,
    slots: u32,
    taken: u32,
    load: f64,
    threshold: Option<f64>,
    has_room: bool,
    is_drained: bool,
    has_failed: bool,
    accepts: Option<bool>,
    /// What its own function gives; `Some(None)`: false.
    score: Option<Option<f64>>,
}

#[derive(Clone, Debug)]
struct Case {
    machines: Vec<Given>,
    /// Of the builds that wait, the machines that may take each.
    waiting: Vec<u8>,
    head: Option<f64>,
    head_features: u8,
    busy_is_local: bool,
    unreachable_is_local: bool,
    system: usize,
    features: u8,
}

fn chosen<'a>(list: &'a [&'a str], mask: u8) -> impl Iterator<Item = &'a str> {
    list.iter().enumerate().filter(move |(number, _)| mask >> number & 1 == 1).map(|(_, item)| *item)
}

fn lua_list(list: &[&str], mask: u8) -> String {
    format!("{{ {} }}", chosen(list, mask).map(|item| format!("'{item}'")).collect::<Vec<_>>().join(", "))
}

impl Given {
    fn lua(&self, number: usize) -> String {
        let threshold = self.threshold.map_or("false".to_owned(), |threshold| threshold.to_string());
        let mut text = format!(
            "build_machine {{ name = 'm{number}', user = 'u', host_key = '{KEY}', enabled = {}, speed = {}, systems = {}, \
             features = {}, parallel_builds = {}, overload_threshold = {threshold}, minimum_disk_space = 1000, ",
            self.enabled,
            self.speed,
            lua_list(&SYSTEMS, self.systems),
            lua_list(&FEATURES, self.features),
            self.slots,
        );
        if let Some(accepts) = self.accepts {
            text += &format!("accepts = function() return {accepts}, 'refused by m{number}' end, ");
        }
        if let Some(score) = self.score {
            let score = score.map_or(format!("false, 'not for m{number}'"), |score| score.to_string());
            text += &format!("score = function() return {score} end, ");
        }
        text + "}"
    }

    /// Why it takes no build, whatever its state.
    fn mismatches(&self, case: &Case, number: usize) -> Vec<String> {
        let lacks = case.features & !self.features;
        [
            (!self.enabled, "disabled in the machine file".to_owned()),
            (self.systems >> case.system & 1 == 0, format!("it does not build for {}", SYSTEMS[case.system])),
            (lacks != 0, {
                let lacks: Vec<&str> = chosen(&FEATURES, lacks).collect();
                format!("it lacks the feature{} {}", if lacks.len() == 1 { "" } else { "s" }, lacks.join(", "))
            }),
            (self.accepts == Some(false), format!("refused by m{number}")),
        ]
        .into_iter()
        .filter_map(|(holds, why)| holds.then_some(why))
        .collect()
    }

    /// How many of those that wait are ahead there.
    fn ahead(case: &Case, number: usize) -> usize {
        case.waiting.iter().filter(|machines| *machines >> number & 1 == 1).count()
    }

    fn has_slot(&self, case: &Case, number: usize) -> bool {
        (self.slots - self.taken) as usize > Given::ahead(case, number)
    }

    fn is_overloaded(&self) -> bool {
        self.threshold.is_some_and(|threshold| self.load > threshold)
    }

    /// Why it does not take a build now.
    fn obstacles(&self, case: &Case, number: usize) -> Vec<String> {
        let is_there = !self.is_drained && !self.has_failed;
        [
            (self.is_drained, "drained".to_owned()),
            (self.has_failed, "m is on fire".to_owned()),
            (is_there && self.is_overloaded(), "overloaded".to_owned()),
            (is_there && !self.has_room, "its store is nearly full".to_owned()),
            (!self.has_slot(case, number), "all its slots are taken".to_owned()),
            (self.score == Some(None), format!("not for m{number}")),
        ]
        .into_iter()
        .filter_map(|(holds, why)| holds.then_some(why))
        .collect()
    }
}

/// What the rules say: the word of the reply, and which machine gets the build, given the machines' scores.
fn expected(case: &Case, scores: &[Option<f64>]) -> (&'static str, Option<usize>) {
    let matching: Vec<usize> =
        (0..case.machines.len()).filter(|&number| case.machines[number].mismatches(case, number).is_empty()).collect();
    // The head's system is x86_64-linux.
    let is_local = case.system < 2;
    let head = case.head.filter(|_| is_local && case.features & !case.head_features == 0);
    if matching.is_empty() {
        return ("decline", None);
    }
    let share = |number: usize| f64::from(case.machines[number].taken) / f64::from(case.machines[number].slots);
    let best =
        matching.iter().copied().filter(|&number| case.machines[number].obstacles(case, number).is_empty()).min_by(
            |&one, &other| {
                let by_score = scores[other].unwrap().total_cmp(&scores[one].unwrap());
                by_score.then(share(one).total_cmp(&share(other))).then(one.cmp(&other))
            },
        );
    match (best, head) {
        (Some(best), Some(head)) if head > scores[best].unwrap() => return ("decline", None),
        (Some(best), _) => return ("accept", Some(best)),
        (None, Some(_)) => return ("decline", None),
        (None, None) => {}
    }
    let is_there = |number: &usize| !case.machines[*number].is_drained && !case.machines[*number].has_failed;
    let there: Vec<usize> = matching.iter().copied().filter(is_there).collect();
    // A drained machine is busy, whether it could be reached or not.
    let is_out = |&number: &usize| case.machines[number].has_failed && !case.machines[number].is_drained;
    let local = if matching.iter().all(is_out) { case.unreachable_is_local } else { case.busy_is_local };
    if is_local && local {
        return ("decline", None);
    }
    let waits_for_slot = |&number: &usize| {
        let machine = &case.machines[number];
        !machine.is_overloaded() && machine.has_room && !machine.has_slot(case, number)
    };
    if !there.iter().any(waits_for_slot) {
        return ("postpone", None);
    }
    let slots: u32 = matching.iter().map(|&number| case.machines[number].slots).sum();
    let mask = matching.iter().fold(0, |mask, number| mask | 1 << number);
    let rivals = case.waiting.iter().filter(|machines| *machines & mask != 0).count();
    (if rivals < slots as usize * QUEUE_PER_SLOT { "accept" } else { "postpone" }, None)
}

/// The real environment, in which every machine responds.
#[derive(Clone)]
struct Responsive(LiveEnvironment);

impl Environment for Responsive {
    type Slot = <LiveEnvironment as Environment>::Slot;
    type Link = ();
    type ProbeLock = ();
    type QueueTicket = QueueTicket;

    fn now(&self) -> Time {
        self.0.now()
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    fn pause(&self, time: Duration) {
        self.0.pause(time);
    }

    fn spawn(&self, task: Box<dyn FnOnce() + Send>) {
        self.0.spawn(task);
    }

    fn health(&self, machine: &Machine) -> Health {
        self.0.health(machine)
    }

    fn change_health(&self, machine: &Machine, change: &mut dyn FnMut(Health) -> Health) {
        self.0.change_health(machine, change);
    }

    fn drained(&self, machine: &Machine) -> Option<Drained> {
        self.0.drained(machine)
    }

    fn try_probe_lock(&self, _: &Machine) -> Result<Option<()>, String> {
        Ok(Some(()))
    }

    fn connect(&self, _: &Machine) -> Result<(), String> {
        Ok(())
    }

    fn status(&self, (): &()) -> Result<(MachineStatus, Duration), String> {
        panic!("a machine was probed");
    }

    fn running(&self, machine: &Machine) -> Vec<RunningBuild> {
        self.0.running(machine)
    }

    fn free_slots(&self, machine: &Machine, enough: usize) -> Result<usize, String> {
        self.0.free_slots(machine, enough)
    }

    fn try_take_slot(&self, machine: &Machine, expected: Option<Duration>) -> Result<Option<Self::Slot>, String> {
        self.0.try_take_slot(machine, expected)
    }

    fn try_join_queue(&self, machines: &[&Machine], limit: usize) -> Result<Option<QueueTicket>, String> {
        self.0.try_join_queue(machines, limit)
    }

    fn renew_ticket(&self, ticket: &QueueTicket, machines: &[&Machine]) {
        self.0.renew_ticket(ticket, machines);
    }

    fn take_turn(&self, ticket: QueueTicket, machine: &Machine) {
        self.0.take_turn(ticket, machine);
    }

    fn waiting(&self, machines: &[&Machine]) -> usize {
        self.0.waiting(machines)
    }

    fn ahead(&self, machines: &[&Machine], ticket: Option<&QueueTicket>) -> Vec<usize> {
        self.0.ahead(machines, ticket)
    }

    fn own_status(&self) -> MachineStatus {
        self.0.own_status()
    }
}

/// Puts the pool and its state into a directory, explains, decides, and compares.
fn check(case: &Case) -> Result<(), TestCaseError> {
    let top = tempfile::tempdir().unwrap();
    let file = top.path().join("machines.lua");
    let when = |local: bool| if local { "local" } else { "wait" };
    let mut text: String =
        case.machines.iter().enumerate().map(|(number, machine)| format!("{},\n", machine.lua(number))).collect();
    if let Some(score) = case.head {
        let features = lua_list(&FEATURES, case.head_features);
        text += &format!(
            "local_machine {{ features = {features}, overload_threshold = false, score = function() return {score} end }},\n"
        );
    }
    let (busy, unreachable) = (when(case.busy_is_local), when(case.unreachable_is_local));
    let text = format!("return {{\n{text}when_busy = '{busy}', when_unreachable = '{unreachable}' }}");
    std::fs::write(&file, text).unwrap();

    let state = top.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let directories =
        Directories::from_variables(|name| (name == "GUIX_STATE_DIRECTORY").then(|| state.clone().into()));
    let engine = Engine::new(directories.unwrap(), HookArguments::without_limits("x86_64-linux"));
    let now = health::now();
    let mut held = Vec::new();
    let mut addresses = Vec::new();
    for (number, given) in case.machines.iter().enumerate() {
        let machine = Machine {
            parallel_builds: given.slots,
            ..Machine::new(&format!("m{number}"), "u", Vec::new(), Vec::new())
        };
        addresses.push(machine.address());
        let status = MachineStatus {
            load1: Some(given.load * f64::from(CORES)),
            cores: Some(CORES),
            free_disk: Some(if given.has_room { 1000 } else { 999 }),
            ..MachineStatus::default()
        };
        let mut record = Health::reached(status, now);
        if given.has_failed {
            record = record.after_failure("m is on fire", now);
            // The longest back-off, however long the test takes.
            record.failures.as_mut().unwrap().count = 100;
        }
        HealthRecord::of(&engine.state, &machine).unwrap().change(|_| record).unwrap();
        if given.is_drained {
            Drain::of(&engine.state, &machine).unwrap().set(&Drained { since: now, until: None }).unwrap();
        }
        let slots = Slots::of(&engine.state, &machine).unwrap();
        let holder = SlotHolder::this_process("/gnu/store/x.drv");
        held.extend((0..given.taken).map(|_| slots.try_take(&holder).unwrap().unwrap()));
    }
    let queue = Queue::of(&engine.state).unwrap();
    let all: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let waiting: Vec<_> = (case.waiting.iter())
        .map(|&machines| {
            let hosts: Vec<String> = chosen(&all, machines).map(str::to_owned).collect();
            (queue.try_join(&hosts, &WaitingBuild::default(), usize::MAX, now).unwrap().unwrap(), hosts)
        })
        .collect();
    // As those do that wait: a ticket that is not renewed does not count, however long the test takes.
    let (over, is_over) = mpsc::channel::<()>();
    let renewing = thread::spawn(move || {
        while is_over.recv_timeout(Duration::from_millis(500)) == Err(mpsc::RecvTimeoutError::Timeout) {
            waiting.iter().for_each(|(ticket, hosts)| queue.renew(ticket, hosts, health::now()).unwrap());
        }
    });

    let mut command = Command::new(env!("CARGO_BIN_EXE_offload"));
    command.args(["explain", "--json", "--system", SYSTEMS[case.system], "--features"]);
    command.arg(chosen(&FEATURES, case.features).collect::<Vec<_>>().join(",")).arg(&file);
    let output = command.env("GUIX_STATE_DIRECTORY", &state).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let report: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));

    let pool = engine.load_pool(&file, None).unwrap();
    let derivation = format!("{}/{}-x.drv", engine.directories.store, "0".repeat(32));
    let request = Request {
        wants_local: true,
        system: SYSTEMS[case.system].to_owned(),
        derivation: StorePath::parse(&engine.directories.store, derivation.as_bytes()).unwrap(),
        features: chosen(&FEATURES, case.features).map(str::to_owned).collect(),
    };
    let consideration = engine.consider(&pool, &request);
    let env = Responsive(consideration.env());
    let decision =
        decide(&consideration.query(&consideration.rules), consideration.may_build_locally(), FULL_QUEUE_HOLD, &env);
    let word = decision.reply().word();
    let machine = if let Decision::Accept(choice) = &decision { Some(choice.machine) } else { None };
    drop(over);
    renewing.join().unwrap();

    // The explanation, the decision and the rules agree.
    let explained: Vec<(usize, &serde_json::Value)> = (report["machines"].as_array().unwrap().iter())
        .map(|machine| (machine["name"].as_str().unwrap()[1..].parse().unwrap(), machine))
        .collect();
    let mut scores = vec![None; case.machines.len()];
    for (number, machine) in &explained {
        scores[*number] = machine["score"].as_f64();
    }
    let name = |machine: Option<usize>| serde_json::to_value(machine.map(|number| format!("m{number}"))).unwrap();
    prop_assert_eq!((&report["reply"], &report["machine"]), (&word.into(), &name(machine)), "{:#}", report);
    prop_assert_eq!((word, machine), expected(case, &scores), "{:#}", report);

    // The texts about each machine agree too.
    prop_assert_eq!(explained.len(), case.machines.len());
    let mut last = f64::INFINITY;
    for (number, machine) in explained {
        let given = &case.machines[number];
        let mismatches = given.mismatches(case, number);
        let reasons = [mismatches.clone(), given.obstacles(case, number)].concat();
        let reason = machine["reason"].as_str();
        prop_assert_eq!(machine["verdict"] == "ready", reasons.is_empty(), "{:#} {:?}", machine, reasons);
        prop_assert_eq!(reason.is_none(), reasons.is_empty(), "{:#}", machine);
        let is_true = reason.is_none_or(|reason| reasons.iter().any(|why| reason.starts_with(why)));
        prop_assert!(is_true, "{:#} {:?}", machine, reasons);
        prop_assert_eq!(machine["holders"].as_array().unwrap().len(), given.taken as usize);
        prop_assert_eq!(machine["failures"].is_null(), !given.has_failed);
        prop_assert_eq!(machine["drained"].is_null(), !given.is_drained);
        let score = machine["score"].as_f64();
        // The others come last.
        let in_order = score.unwrap_or(f64::NEG_INFINITY);
        prop_assert!(in_order <= last, "{:#}", report);
        last = in_order;
        if mismatches.is_empty() && given.taken == 0 {
            let by_default = (given.speed / (1.0 + given.load)).into();
            prop_assert_eq!(score, given.score.unwrap_or(by_default), "{:#}", machine);
        }
    }
    Ok(())
}

/// Many small machines that wait for a slot, so that the places to wait are few and taken.
fn crowded() -> impl Strategy<Value = Case> {
    let machines = prop::collection::vec((given(), any::<bool>()), 1..4);
    (machines, prop::collection::vec(1u8..8, 4..20), case()).prop_map(|(machines, waiting, case)| {
        let crowded =
            |(given, is_full): (Given, bool)| Given { slots: 1, taken: u32::from(is_full), systems: 7, ..given };
        let mask = (1u8 << machines.len()) - 1;
        let waiting = waiting.into_iter().map(|wanted| wanted & mask).filter(|&wanted| wanted != 0).collect();
        let machines = machines.into_iter().map(crowded).collect();
        Case { machines, waiting, busy_is_local: false, head: None, ..case }
    })
}

/// Mostly true, so that a machine has one obstacle more often than several.
fn usually() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.9)
}

fn given() -> impl Strategy<Value = Given> {
    let there = (usually(), usually(), usually(), usually());
    let systems = prop_oneof![3 => Just(0b111u8), 2 => 1u8..8];
    let features = prop_oneof![2 => Just(0b11u8), 1 => 0u8..4];
    let numbers =
        (prop::sample::select(vec![1.0, 2.0, 0.5]), 1u32..3, 0u32..3, prop::sample::select(vec![0.0, 0.5, 1.0]));
    let threshold = prop::sample::select(vec![None, None, Some(0.5), Some(0.9), Some(2.0)]);
    let accepts = prop::sample::select(vec![None, None, None, Some(true), Some(false)]);
    let score = prop::sample::select(vec![None, None, None, Some(Some(3.0)), Some(Some(-1.0)), Some(None)]);
    (there, systems, features, numbers, threshold, accepts, score).prop_map(
        |(there, systems, features, (speed, slots, taken, load), threshold, accepts, score)| Given {
            enabled: there.0,
            systems,
            features,
            speed,
            slots,
            taken: taken.min(slots),
            load,
            threshold,
            has_room: there.1,
            is_drained: !there.2,
            has_failed: !there.3,
            accepts,
            score,
        },
    )
}

fn case() -> impl Strategy<Value = Case> {
    let machines = prop::collection::vec(given(), 0..5);
    let waiting = prop_oneof![3 => Just(Vec::new()), 2 => prop::collection::vec(1u8..16, 0..12)];
    let head = (prop::sample::select(vec![None, None, None, Some(0.7), Some(1.0), Some(3.0)]), 0u8..4);
    let request = (prop::sample::select(vec![0, 0, 1, 2]), prop_oneof![2 => Just(0u8), 1 => 0u8..4]);
    (machines, waiting, head, any::<(bool, bool)>(), request).prop_map(
        |(machines, waiting, (head, head_features), (busy_is_local, unreachable_is_local), (system, features))| {
            // Who waits for no machine of the pool does not wait.
            let mask = (1u8 << machines.len()) - 1;
            let waiting =
                waiting.into_iter().map(|machines| machines & mask).filter(|&machines| machines != 0).collect();
            Case { machines, waiting, head, head_features, busy_is_local, unreachable_is_local, system, features }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn explanations_and_decisions_agree_and_follow_the_rules(case in case()) {
        check(&case)?;
    }

    #[test]
    fn explanations_and_decisions_agree_if_many_builds_wait(case in crowded()) {
        check(&case)?;
    }
}
