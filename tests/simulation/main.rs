//! Thousands of machines and requests on a simulated network: the scheduler's own code, with clocks and I/O that are
//! played.
//!
//! After each run, the rules are checked against the records of the simulated machines. At the end, mistakes are planted one
//! by one, and each must be detected.

mod failover;
mod graph;
mod hook;
mod on_demand;
mod soonest;
mod stage;
mod world;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hook::{End, Hook, Note};
use offload::internals::hook::Request;
use offload::internals::machine::Machine;
use offload::internals::scheduler::BETTER_MACHINE_WAIT;
use offload::internals::state::Drained;
use offload::internals::store::path::{StoreDir, StorePath};
use stage::{Stage, lock};
use world::{Bug, Conduct, Host, Hosts, World};

const SYSTEMS: [&str; 3] = ["x86_64-linux", "aarch64-linux", "riscv64-linux"];

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A play: what there is, and what is asked.
struct Play {
    seed: u64,
    hosts: Vec<Host>,
    /// Of each machine, in terms of [`SYSTEMS`].
    systems: Vec<usize>,
    requests: u64,
    /// Builds of three other users, one after the other every three seconds.
    others: u64,
    /// In which the requests come.
    within: Duration,
    build_time: Duration,
    /// The daemon's limit for a build.
    build_timeout: Option<Duration>,
    /// Out of a hundred hooks, how many are killed.
    killed: u64,
    /// How often the wall clock is set to another time.
    jumps: u64,
    bug: Bug,
}

/// What came of it.
struct Outcome {
    hosts: Arc<Hosts>,
    notes: Vec<Note>,
}

impl Play {
    fn run(self) -> Result<Outcome, String> {
        let stage = Stage::new(self.seed);
        let machines: Vec<Machine> = (self.hosts.iter().zip(&self.systems).enumerate())
            .map(|(number, (host, system))| {
                let mut machine = Machine::new("m", "u", vec![SYSTEMS[*system].to_owned()], Vec::new());
                (machine.port, machine.parallel_builds) = (number as u16, host.slots);
                machine.overload_threshold = None;
                machine
            })
            .collect();
        let machines = Arc::new(machines);
        let kinds = 1 + *self.systems.iter().max().unwrap() as u64;
        let hosts = Hosts::new(self.hosts, self.bug);
        let notes = Arc::new(Mutex::new(Vec::new()));
        let derivation =
            StorePath::parse(&StoreDir::default(), b"/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-x.drv").unwrap();
        for number in 0..self.requests + self.others {
            let user = if number < self.requests { 0 } else { 1 + (number - self.requests) % 3 };
            let world = World::new(&stage, &hosts, user);
            let (stage, process) = (stage.clone(), world.process.clone());
            let late = seconds(3 * (number + 1).saturating_sub(self.requests));
            let begin = late + milliseconds(stage.random(self.within.as_millis() as u64));
            if stage.random(100) < self.killed {
                let victim = process.clone();
                let after = begin + milliseconds(stage.random(20_000));
                stage.start(after, &Default::default(), move || victim.kill());
            }
            let hook = Hook {
                request: Request {
                    wants_local: true,
                    system: SYSTEMS[stage.random(kinds) as usize].to_owned(),
                    derivation: derivation.clone(),
                    features: Vec::new(),
                },
                machines: Arc::clone(&machines),
                may_build_locally: false,
                build_time: self.build_time / 2 + milliseconds(stage.random(self.build_time.as_millis() as u64)),
                build_timeout: self.build_timeout,
                notes: Arc::clone(&notes),
                world,
            };
            stage.start(begin, &process, move || hook.run());
        }
        for _ in 0..self.jumps {
            let (hosts, by) = (Arc::clone(&hosts), stage.random(7_200_000) as i64 - 3_600_000);
            let at = milliseconds(stage.random(self.within.as_millis() as u64));
            stage.start(at, &Default::default(), move || *lock(&hosts.clock) = by);
        }
        stage.play()?;
        let notes = std::mem::take(&mut *lock(&notes));
        Ok(Outcome { hosts, notes })
    }
}

/// What holds whatever happens.
fn check_always(outcome: &Outcome, jumps: usize) -> Result<(), String> {
    let mut problems = Vec::new();
    for (number, host) in outcome.hosts.hosts.iter().enumerate() {
        let host = lock(host);
        if host.most_running > host.slots as usize {
            problems.push(format!("host {number}: {} builds in {} slots", host.most_running, host.slots));
        }
        if host.running() > 0 || host.is_asked() {
            problems.push(format!("host {number}: {} slots leaked, asked {}", host.running(), host.is_asked()));
        }
        problems.extend(contacts_too_often(&host, jumps).map(|problem| format!("host {number}: {problem}")));
    }
    if outcome.hosts.waiting() > 0 {
        problems.push(format!("{} places leaked", outcome.hosts.waiting()));
    }
    let longest = outcome.notes.iter().map(|note| note.longest_reply).max().unwrap_or_default();
    if longest > milliseconds(3_500) {
        problems.push(format!("a reply took {longest:?}"));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

/// A host that does not answer is contacted once in each back-off: 10 s at first, twice as long each time, 300 s at
/// most. If it answered before, builds that were sent to it already may contact it too. Each jump of the clock may cost one
/// contact more.
fn contacts_too_often(host: &Host, jumps: usize) -> Option<String> {
    let never_answered = host.conduct.iter().all(|(_, conduct)| !matches!(conduct, Conduct::Answers(_)));
    let (mut early, mut failures) = (0, 0u32);
    let mut last: Option<Duration> = None;
    for (start, end, answered) in &host.contacts {
        let is_dead_for_long =
            host.conduct.iter().rev().find(|(since, _)| since <= start).is_some_and(|(since, conduct)| {
                !matches!(conduct, Conduct::Answers(_)) && *since + seconds(40) < *start
            });
        if *answered || !(never_answered || is_dead_for_long) {
            last = None;
            continue;
        }
        if let Some(last) = last {
            let doublings = if never_answered { (failures - 1).min(5) } else { 0 };
            let back_off = seconds(10 * (1 << doublings)).min(seconds(300));
            early += usize::from(*start + milliseconds(2) < last + back_off);
        }
        failures += 1;
        // The back-off begins when the failure is known; of one that was killed, when it began to ask.
        last = Some(if *end == Duration::MAX { *start } else { *end });
    }
    (early > jumps).then(|| format!("{early} of {} contacts came too early", host.contacts.len()))
}

/// Machines that always answer never lose a build, and nobody is passed in the line by one who came later.
fn check_all_is_well(outcome: &Outcome) -> Result<(), String> {
    if let Some(note) = outcome.notes.iter().find(|note| note.end != End::Built) {
        return Err(format!("a build ended thus: {note:?}"));
    }
    let mut waited: Vec<(Duration, Duration)> = outcome.notes.iter().filter_map(|note| note.waited).collect();
    waited.sort();
    for (came, start) in &waited {
        // Those that come in the same millisecond are in no order.
        let before = waited.iter().filter(|(earlier, _)| *earlier + milliseconds(2) < *came);
        let latest = before.map(|(_, start)| *start).max().unwrap_or_default();
        if *start + milliseconds(300) < latest {
            return Err(format!("one that came later started {:?} earlier", latest - *start));
        }
    }
    Ok(())
}

/// Few slots for many builds, on machines of one kind that always answer.
fn crowd(seed: u64, killed: u64, bug: Bug) -> Play {
    let answers = vec![(Duration::ZERO, Conduct::Answers(milliseconds(40)))];
    Play {
        seed,
        hosts: vec![Host::new(2, answers.clone()), Host::new(3, answers.clone()), Host::new(1, answers)],
        systems: vec![0; 3],
        requests: 300,
        others: 0,
        within: seconds(30),
        build_time: seconds(5),
        build_timeout: None,
        killed,
        jumps: 0,
        bug,
    }
}

/// Many machines of three kinds: some dead, some that come and go.
fn multitude(seed: u64, machines: usize, requests: u64, jumps: u64, bug: Bug) -> Play {
    let dice = Stage::new(seed);
    let host = |_| {
        let good = Conduct::Answers(milliseconds(20 + dice.random(300)));
        let bad = if dice.random(2) == 0 { Conduct::Silent } else { Conduct::Refuses };
        let conduct = match dice.random(10) {
            0 | 1 => vec![(Duration::ZERO, bad)],
            2 | 3 => {
                let mut time = Duration::ZERO;
                let turn = |number| {
                    let turn = (time, if number % 2 == 0 { good } else { bad });
                    time += seconds(20 + dice.random(200));
                    turn
                };
                (0..20).map(turn).collect()
            }
            _ => vec![(Duration::ZERO, good)],
        };
        let mut host = Host::new(1 + dice.random(4) as u32, conduct);
        host.drained = (dice.random(20) == 0).then_some(Drained { since: 0, until: None });
        host
    };
    Play {
        seed,
        hosts: (0..machines).map(host).collect(),
        systems: (0..machines).map(|number| number % 3).collect(),
        requests,
        others: 0,
        within: seconds(600),
        build_time: seconds(60),
        build_timeout: None,
        killed: 10,
        jumps,
        bug,
    }
}

#[test]
fn a_crowd_is_served_in_order() {
    for seed in 0..3 {
        let outcome = crowd(seed, 0, Bug::None).run().unwrap();
        assert_eq!(outcome.notes.len(), 300, "seed {seed}");
        check_always(&outcome, 0)
            .and_then(|()| check_all_is_well(&outcome))
            .unwrap_or_else(|why| panic!("{seed}: {why}"));
        // Nobody is kept longer than it takes to ask a machine, or to see whether there is room to wait.
        let longest = outcome.notes.iter().map(|note| note.longest_reply).max().unwrap();
        assert!(longest < milliseconds(300), "seed {seed}: a reply took {longest:?}");
        let last = outcome.notes.iter().map(|note| note.time).max().unwrap();
        assert!(last < seconds(320), "seed {seed}: {last:?}; 300 builds of 5 s in 6 slots");
    }
}

/// One user requests many builds in a second, and three others one build now and then. Returns an error if one of these
/// waits longer than users who take turns.
fn many_of_one_user(bug: Bug) -> Result<(), String> {
    let play = Play { requests: 200, others: 20, within: seconds(1), build_time: seconds(5), ..crowd(90, 5, bug) };
    let outcome = play.run()?;
    check_always(&outcome, 0)?;
    let longest = |is_first: bool| {
        let notes = outcome.notes.iter().filter(|note| (note.user == 0) == is_first && note.end == End::Built);
        notes.map(|note| note.time).max().unwrap()
    };
    // The next builds of three users are ahead at most, in 6 slots, and a build takes 7.5 s at most.
    match (longest(false), longest(true)) {
        (others, first) if others < seconds(18) && first > seconds(150) => Ok(()),
        times => Err(format!("the others and the first user waited {times:?}")),
    }
}

#[test]
fn many_builds_of_one_user_starve_no_other() {
    many_of_one_user(Bug::None).unwrap();
    for bug in [Bug::NoTurns, Bug::OneLimit] {
        let why = many_of_one_user(bug).expect_err(&format!("{bug:?} is not noticed"));
        assert!(why.contains("waited"), "{why}");
    }
}

#[test]
fn killed_builds_leave_the_others_undisturbed() {
    for seed in 10..13 {
        let outcome = crowd(seed, 30, Bug::None).run().unwrap();
        check_always(&outcome, 0).unwrap_or_else(|why| panic!("{seed}: {why}"));
        assert!((150..300).contains(&outcome.notes.len()), "seed {seed}: {}", outcome.notes.len());
        assert!(outcome.notes.iter().all(|note| note.end == End::Built), "seed {seed}");
    }
}

#[test]
fn builds_succeed_on_two_thousand_unreliable_machines() {
    let outcome = multitude(20, 2000, 2000, 0, Bug::None).run().unwrap();
    check_always(&outcome, 0).unwrap();
    // Three machines that die under a build are as many as may be tried.
    let failed: Vec<&Note> = outcome.notes.iter().filter(|note| note.end != End::Built).collect();
    assert!(failed.iter().all(|note| note.tried == 3) && failed.len() < 10, "{failed:?}");
    assert!(outcome.notes.len() > 1700);
}

#[test]
fn builds_succeed_on_a_few_unreliable_machines() {
    for seed in 30..33 {
        let outcome = multitude(seed, 20, 200, 0, Bug::None).run().unwrap();
        check_always(&outcome, 0).unwrap_or_else(|why| panic!("{seed}: {why}"));
    }
}

#[test]
fn a_jump_of_the_clock_breaks_no_rule() {
    for seed in 40..43 {
        let outcome = multitude(seed, 20, 200, 4, Bug::None).run().unwrap();
        check_always(&outcome, 4).unwrap_or_else(|why| panic!("{seed}: {why}"));
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let times =
        || -> Vec<Duration> { crowd(1, 20, Bug::None).run().unwrap().notes.iter().map(|note| note.time).collect() };
    assert_eq!(times(), times());
}

/// Beside a good machine, a better one that accepts TCP and says nothing.
fn silence(within: Duration, bug: Bug) -> Play {
    let answers = Conduct::Answers(milliseconds(30));
    Play {
        seed: 50,
        hosts: [Conduct::Silent, answers].map(|conduct| Host::new(40, vec![(Duration::ZERO, conduct)])).into(),
        systems: vec![0; 2],
        requests: 40,
        others: 0,
        within,
        build_time: seconds(1),
        build_timeout: None,
        killed: 0,
        jumps: 0,
        bug,
    }
}

#[test]
fn a_silent_machine_costs_one_short_wait() {
    let outcome = silence(seconds(400), Bug::None).run().unwrap();
    check_always(&outcome, 0).and_then(|()| check_all_is_well(&outcome)).unwrap();
    let slow = outcome.notes.iter().filter(|note| note.longest_reply > milliseconds(100)).count();
    let longest = outcome.notes.iter().map(|note| note.longest_reply).max().unwrap();
    assert!(
        slow <= 1 && longest < BETTER_MACHINE_WAIT + milliseconds(100),
        "{slow} were slow, the slowest {longest:?}"
    );
}

/// With a fresh record the reply takes as long as a connection, and no probe.
#[test]
fn a_fresh_record_costs_one_contact_and_no_probe() {
    let answers = vec![(Duration::ZERO, Conduct::Answers(milliseconds(80)))];
    let hosts = vec![Host::new(40, answers)];
    let play = Play { hosts, systems: vec![0], requests: 40, within: seconds(20), ..crowd(70, 0, Bug::None) };
    let outcome = play.run().unwrap();
    let mut replies: Vec<Duration> = outcome.notes.iter().map(|note| note.longest_reply).collect();
    replies.sort();
    assert!(replies[38] < milliseconds(84) && replies[39] > milliseconds(85), "{replies:?}");
}

/// A build that waits ends before the daemon would say that it took too long.
#[test]
fn no_build_waits_beyond_the_daemons_limit() {
    let play = Play { build_timeout: Some(seconds(60)), build_time: seconds(100), ..crowd(80, 0, Bug::None) };
    let outcome = Play { requests: 20, within: seconds(1), ..play }.run().unwrap();
    check_always(&outcome, 0).unwrap();
    let (built, failed): (Vec<&Note>, Vec<&Note>) = outcome.notes.iter().partition(|note| note.end == End::Built);
    assert!(built.len() >= 6 && !failed.is_empty(), "{} and {}", built.len(), failed.len());
    assert!(failed.iter().all(|note| note.tried == 0 && note.time <= seconds(60)), "{failed:?}");
}

/// A burst is spread over machines that are equally good.
#[test]
fn a_burst_is_spread() {
    let answers = vec![(Duration::ZERO, Conduct::Answers(milliseconds(30)))];
    let play = Play {
        seed: 60,
        hosts: (0..4).map(|_| Host::new(8, answers.clone())).collect(),
        systems: vec![0; 4],
        requests: 16,
        others: 0,
        within: milliseconds(200),
        build_time: seconds(30),
        build_timeout: None,
        killed: 0,
        jumps: 0,
        bug: Bug::None,
    };
    let outcome = play.run().unwrap();
    let most: Vec<usize> = outcome.hosts.hosts.iter().map(|host| lock(host).most_running).collect();
    assert!(most.iter().all(|most| (2..=6).contains(most)), "{most:?}");
    assert_eq!(most.iter().sum::<usize>(), 16);
}

/// The test of the tests.
#[test]
fn planted_mistakes_are_detected() {
    let in_crowd = |bug, within| {
        let outcome = Play { within, ..crowd(1, 0, bug) }.run()?;
        check_always(&outcome, 0).and_then(|()| check_all_is_well(&outcome))
    };
    let in_silence = |bug| silence(milliseconds(2), bug).run().and_then(|outcome| check_always(&outcome, 0));
    let in_multitude = |bug| multitude(30, 20, 200, 0, bug).run().and_then(|outcome| check_always(&outcome, 0));
    let cases = [
        (Bug::LeakedSlot, in_crowd(Bug::LeakedSlot, seconds(30)), "leaked"),
        (Bug::SlotTakenTwice, in_crowd(Bug::SlotTakenTwice, milliseconds(5)), "builds in"),
        (Bug::NoLine, in_crowd(Bug::NoLine, seconds(30)), "came later"),
        (Bug::WaitingLook, in_crowd(Bug::WaitingLook, seconds(30)), "a reply took"),
        (Bug::StaleRecord, in_multitude(Bug::StaleRecord), "too early"),
        (Bug::AskedByAll, in_silence(Bug::AskedByAll), "too early"),
    ];
    for (bug, noticed, as_what) in cases {
        let why = noticed.expect_err(&format!("{bug:?} is not noticed"));
        assert!(why.contains(as_what), "{bug:?} is noticed as: {why}");
    }
    in_crowd(Bug::None, seconds(30)).unwrap();
    in_silence(Bug::None).unwrap();
    in_multitude(Bug::None).unwrap();
}
