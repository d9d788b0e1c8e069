//! One accepted build whose attempts are played: where it goes next, what ends it, and for how long it waits. The code is that
//! of the hook.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use offload::internals::build::FailOver;
use offload::internals::error::Failure;
use offload::internals::events::{Event, Observer};
use offload::internals::hook::{HookArguments, Request};
use offload::internals::machine::Machine;
use offload::internals::scheduler::{Choice, DefaultRules, Environment};
use offload::internals::state::health::Health;
use offload::internals::status::MachineStatus;
use offload::internals::store::path::{StoreDir, StorePath};

use crate::stage::{Stage, lock};
use crate::world::{Bug, Conduct, Host, Hosts, World};
use crate::{milliseconds, seconds};

/// How an attempt on a machine ends.
type Answer = fn(usize) -> Result<(), Failure>;

/// A build, and what there is.
#[derive(Clone)]
struct Scene {
    conduct: Vec<Conduct>,
    /// The conduct of all machines from these moments on.
    later: &'static [(Duration, Conduct)],
    /// The machines of which a fresh record tells no load.
    fresh: &'static [usize],
    /// Whether every load is too much.
    is_overloaded: bool,
    /// Whether all slots are taken permanently.
    is_full: bool,
    answer: Answer,
    /// Whether a fault of the machine is recorded, so that its back-off begins.
    is_recorded: bool,
    max_attempts: usize,
    wait_for_slot: Option<Duration>,
    wait_for_machine: Duration,
    build_timeout: Option<Duration>,
    max_silent_time: Option<Duration>,
}

/// Machines that answer and let every build down.
const SCENE: Scene = Scene {
    conduct: Vec::new(),
    later: &[],
    fresh: &[],
    is_overloaded: false,
    is_full: false,
    answer: lost,
    is_recorded: true,
    max_attempts: 3,
    wait_for_slot: None,
    wait_for_machine: Duration::from_secs(10_000),
    build_timeout: None,
    max_silent_time: None,
};

#[derive(Debug, Default)]
struct Seen {
    /// The machines of the attempts.
    tried: Vec<usize>,
    /// The machines to which a connection was made before that.
    contacted: Vec<usize>,
    /// The error of the build.
    error: Option<Failure>,
    time: Duration,
    /// The waiting times in the progress lines, in seconds.
    waited: Vec<u64>,
}

fn machine_failed(machine: usize, cause: &str) -> Failure {
    Failure::Machine { machine: format!("m{machine}"), cause: cause.to_owned() }
}

fn lost(machine: usize) -> Result<(), Failure> {
    Err(machine_failed(machine, "lost"))
}

fn refused(machine: usize) -> Result<(), Failure> {
    Err(Failure::Refused { machine: format!("m{machine}"), cause: "refused".to_owned() })
}

/// So many machines that answer.
fn there(count: usize) -> Vec<Conduct> {
    vec![Conduct::Answers(milliseconds(20)); count]
}

impl Scene {
    fn run(self) -> Seen {
        let stage = Stage::new(1);
        let conduct = |first| [&[(Duration::ZERO, first)], self.later].concat();
        let hosts = self.conduct.iter().map(|&first| Host::new(1, conduct(first))).collect();
        let hosts = Hosts::new(hosts, Bug::None);
        let world = World::new(&stage, &hosts, 0);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (process, result) = (world.process.clone(), Arc::clone(&seen));
        stage.start(Duration::ZERO, &process, move || *lock(&result) = self.play(&world));
        stage.play().unwrap();
        let is_contacted = |number: &usize| !lock(&hosts.hosts[*number]).contacts.is_empty();
        let contacted = (0..hosts.hosts.len()).filter(is_contacted).collect();
        Seen { contacted, ..std::mem::take(&mut *lock(&seen)) }
    }

    fn play(&self, world: &World) -> Seen {
        let system = "x86_64-linux";
        let machines: Vec<Machine> = (0..self.conduct.len())
            .map(|number| Machine {
                port: number as u16,
                overload_threshold: self.is_overloaded.then_some(-1.0),
                ..Machine::new(&format!("m{number}"), "u", vec![system.to_owned()], Vec::new())
            })
            .collect();
        let machines: Vec<&Machine> = machines.iter().collect();
        for &number in self.fresh {
            let status = MachineStatus { load1: Some(0.0), cores: Some(4), ..MachineStatus::default() };
            world.change_health(machines[number], &mut |_| Health::reached(status.clone(), world.now()));
        }
        let held: Vec<_> =
            machines.iter().filter(|_| self.is_full).map(|machine| world.try_take_slot(machine, None)).collect();
        let derivation = b"/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-x.drv";
        let request = Request {
            wants_local: false,
            system: system.to_owned(),
            derivation: StorePath::parse(&StoreDir::default(), derivation).unwrap(),
            features: Vec::new(),
        };
        let arguments = HookArguments {
            build_timeout: self.build_timeout,
            max_silent_time: self.max_silent_time,
            ..HookArguments::without_limits(system)
        };
        let failover = FailOver {
            request: &request,
            arguments: &arguments,
            machines: &machines,
            rules: &DefaultRules(&machines),
            max_attempts: self.max_attempts,
            wait_for_slot: self.wait_for_slot,
            wait_for_machine: self.wait_for_machine,
        };
        let mut seen = Seen::default();
        let mut attempt = |choice: Choice<World>, _: &mut dyn Observer| {
            seen.tried.push(choice.machine);
            let result = (self.answer)(choice.machine);
            if let Err(Failure::Machine { cause, .. }) = &result
                && self.is_recorded
            {
                let now = world.now();
                world.change_health(machines[choice.machine], &mut |health: Health| health.after_failure(cause, now));
            }
            result
        };
        let start = world.elapsed();
        let mut observer = |event: &Event<'_>| {
            if let Event::Waiting { seconds, .. } = event {
                seen.waited.push(*seconds);
            }
        };
        let result = failover.run(None, None, world, &mut attempt, &mut observer);
        drop(held);
        Seen { error: result.err(), time: world.elapsed() - start, ..seen }
    }
}

#[test]
fn a_build_goes_to_each_machine_before_it_comes_back_to_one() {
    for max_attempts in 1..6 {
        let seen = Scene { conduct: there(3), max_attempts, ..SCENE }.run();
        assert_eq!(seen.tried.len(), max_attempts, "{seen:?}");
        let first: BTreeSet<usize> = seen.tried.iter().copied().take(3).collect();
        assert_eq!(first.len(), max_attempts.min(3), "{seen:?}");
        let Some(Failure::NoMachineLeft { tried, last, .. }) = &seen.error else { panic!("{seen:?}") };
        assert_eq!(tried.len(), max_attempts);
        assert!(last.contains("max_attempts"), "{last}");
    }
}

/// Machines that are as good come in the order of the file.
#[test]
fn only_machines_that_may_be_better_are_probed() {
    for (fresh, contacted) in [(&[0][..], &[0][..]), (&[1], &[0]), (&[2], &[0, 1]), (&[], &[0, 1, 2])] {
        let seen = Scene { conduct: there(3), fresh, answer: |_| Ok(()), ..SCENE }.run();
        // The chosen one is contacted in any case.
        let mut contacted = BTreeSet::from_iter(contacted.iter().copied());
        contacted.extend(&seen.tried);
        assert_eq!(seen.contacted, Vec::from_iter(contacted), "{fresh:?}: {seen:?}");
        assert_eq!(seen.tried.len(), 1, "{fresh:?}: {seen:?}");
    }
}

/// It refuses after its first attempt, until 150 s.
#[test]
fn a_machine_that_failed_is_waited_for_as_long_as_the_file_says() {
    const LATER: [(Duration, Conduct); 2] = [
        (Duration::from_secs(5), Conduct::Refuses),
        (Duration::from_secs(100), Conduct::Answers(Duration::from_millis(20))),
    ];
    for (wait_for_slot, attempts) in [(None, 2), (Some(200), 2), (Some(60), 1)] {
        let wait_for_slot = wait_for_slot.map(seconds);
        let scene = Scene { conduct: there(1), later: &LATER, max_attempts: 2, ..SCENE };
        let seen = Scene { wait_for_slot, ..scene }.run();
        assert_eq!(seen.tried.len(), attempts, "{wait_for_slot:?}: {seen:?}");
    }
}

/// A build that did not begin is no fault of the machine: no back-off keeps the build away from it.
#[test]
fn another_machine_comes_first_without_a_back_off_too() {
    let seen = Scene { conduct: there(3), is_recorded: false, ..SCENE }.run();
    assert_eq!(seen.tried.iter().collect::<BTreeSet<_>>().len(), 3, "{seen:?}");
    let seen = Scene { conduct: there(1), is_recorded: false, ..SCENE }.run();
    assert_eq!(seen.tried, [0, 0, 0], "{seen:?}");
}

#[test]
fn a_machine_that_refused_is_not_tried_again() {
    let answer: Answer = |machine| if machine == 0 { refused(machine) } else { lost(machine) };
    let seen = Scene { conduct: there(2), max_attempts: 4, answer, ..SCENE }.run();
    assert_eq!(seen.tried.iter().filter(|&&machine| machine == 0).count(), 1, "{seen:?}");
    assert_eq!(seen.tried.len(), 4, "{seen:?}");
    let seen = Scene { conduct: there(2), max_attempts: 4, answer: refused, ..SCENE }.run();
    assert_eq!(seen.tried.iter().collect::<BTreeSet<_>>().len(), 2, "{seen:?}");
    assert_eq!(seen.tried.len(), 2, "{seen:?}");
    assert!(matches!(&seen.error, Some(Failure::NoMachineLeft { last, .. }) if last == "no other machine matches"));
}

#[test]
fn a_fault_of_the_derivation_ends_the_build() {
    let seen = Scene { conduct: there(2), answer: |_| Ok(()), ..SCENE }.run();
    assert!(seen.tried.len() == 1 && seen.error.is_none(), "{seen:?}");
    let seen = Scene { conduct: there(2), answer: |_| Err(Failure::Head("full".to_owned())), ..SCENE }.run();
    assert!(seen.tried.len() == 1 && matches!(seen.error, Some(Failure::Head(_))), "{seen:?}");
    let answer: Answer = |_| {
        Err(Failure::Build { derivation: String::new(), machine: String::new(), message: String::new(), kept: None })
    };
    let seen = Scene { conduct: there(2), answer, ..SCENE }.run();
    assert!(seen.tried.len() == 1 && matches!(seen.error, Some(Failure::Build { .. })), "{seen:?}");
    let answer: Answer = |_| {
        Err(Failure::TimedOut { derivation: String::new(), machine: String::new(), message: String::new(), kept: None })
    };
    let seen = Scene { conduct: there(2), answer, ..SCENE }.run();
    assert!(seen.tried.len() == 1 && matches!(seen.error, Some(Failure::TimedOut { .. })), "{seen:?}");
}

/// The shorter one of the machine file's limit and the daemon's, less a second, in whatever order.
#[test]
fn the_wait_for_a_slot_ends_with_the_first_limit() {
    for (wait_for_slot, build_timeout, expected) in
        [(Some(60), None, 60), (Some(60), Some(100), 60), (Some(100), Some(60), 59), (None, Some(60), 59)]
    {
        let (wait_for_slot, build_timeout) = (wait_for_slot.map(seconds), build_timeout.map(seconds));
        let seen = Scene { conduct: there(2), is_full: true, wait_for_slot, build_timeout, ..SCENE }.run();
        assert!(seen.tried.is_empty(), "{seen:?}");
        assert!((seconds(expected)..seconds(expected + 1)).contains(&seen.time), "{expected} s: {seen:?}");
        let Some(Failure::NoMachineLeft { last, hint, .. }) = &seen.error else { panic!("{seen:?}") };
        // The remedy is for the limit that was kept.
        let is_own = expected != 59;
        assert_eq!((last.contains("the daemon's time limit"), hint.is_some()), (!is_own, is_own), "{last}");
        assert!(last.contains("m0, m1: all its slots are taken"), "{last}");
    }
}

/// The wait for another machine ends after half a minute, or after `wait_for_slot` if that is shorter. Then the same machine
/// gets the build again.
#[test]
fn the_wait_for_another_machine_ends_with_the_shorter_limit() {
    for (wait_for_slot, expected) in [(None, 30), (Some(100), 30), (Some(10), 10)] {
        let conduct = vec![Conduct::Answers(milliseconds(20)), Conduct::Refuses];
        let scene = Scene { conduct, fresh: &[0], is_recorded: false, max_attempts: 2, ..SCENE };
        let seen = Scene { wait_for_slot: wait_for_slot.map(seconds), ..scene }.run();
        assert_eq!(seen.tried, [0, 0], "{wait_for_slot:?}: {seen:?}");
        assert!((seconds(expected)..seconds(expected + 2)).contains(&seen.time), "{expected} s: {seen:?}");
    }
}

#[test]
fn unreachable_machines_delay_a_build_as_long_as_the_file_says() {
    for (wait_for_machine, wait_for_slot, expected) in [(40, None, 40), (200, None, 200), (200, Some(30), 30)] {
        let scene = Scene { conduct: vec![Conduct::Refuses; 2], wait_for_slot: wait_for_slot.map(seconds), ..SCENE };
        let seen = Scene { wait_for_machine: seconds(wait_for_machine), ..scene }.run();
        assert!((seconds(expected)..seconds(expected + 2)).contains(&seen.time), "{expected} s: {seen:?}");
        let Some(Failure::NoMachineLeft { last, .. }) = &seen.error else { panic!("{seen:?}") };
        assert_eq!(last.contains("no machine could be reached for"), wait_for_slot.is_none(), "{last}");
    }
}

/// The time without any machine begins again after one was reached, even if that one was busy.
#[test]
fn a_busy_machine_ends_the_time_without_a_machine() {
    const LATER: [(Duration, Conduct); 2] = [
        (Duration::from_secs(100), Conduct::Answers(Duration::from_millis(20))),
        (Duration::from_secs(200), Conduct::Refuses),
    ];
    let scene = Scene { conduct: vec![Conduct::Refuses], later: &LATER, is_overloaded: true, ..SCENE };
    let seen = Scene { wait_for_machine: seconds(200), ..scene }.run();
    assert!(seen.tried.is_empty() && seen.time > seconds(400), "{seen:?}");
    let Some(Failure::NoMachineLeft { last, .. }) = &seen.error else { panic!("{seen:?}") };
    assert!(last.contains("no machine could be reached for 200 s"), "{last}");
}

#[test]
fn a_waiting_build_reports_within_the_daemons_limit_for_silence() {
    for (max_silent_time, expected) in [(Some(30), 10), (Some(6), 2), (None, 30), (Some(3600), 30)] {
        let max_silent_time = max_silent_time.map(seconds);
        let scene = Scene { conduct: there(1), is_full: true, max_silent_time, ..SCENE };
        let seen = Scene { wait_for_slot: Some(seconds(95)), ..scene }.run();
        let lines: Vec<u64> = (0..95).step_by(expected).collect();
        assert_eq!(seen.waited, lines, "{max_silent_time:?}");
    }
}
