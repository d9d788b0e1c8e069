//! The processes that start, wait and reap are killed at random instants, one after the other, while builds come and the
//! machine is stopped whenever it is idle.
//!
//! 20 kills; 200 with `OFFLOAD_CAMPAIGN=1`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use offload::internals::machine::Machine;
use offload::internals::state::{Phase, Slots, StateDirectory};

use crate::lab::{Drv, Host, LONG, Lab, Process, RunningBuild, SYSTEM, Signal, wait_until};
use crate::{SWITCHES, Switch, power};

/// The builds at the same time, on two slots.
const CLIENTS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Starter,
    Hook,
    Reaper,
}

impl Victim {
    fn is(self, process: &Process) -> bool {
        let command = &process.command;
        match self {
            Victim::Starter => command.contains("start --machine-file"),
            Victim::Hook => command.contains("guix offload") && process.name != "offload-session",
            Victim::Reaper => command.split(' ').nth(1) == Some("reap") && process.name.starts_with("offload"),
        }
    }

    /// Kills such a process at some instant of its life; false if none comes.
    fn strike(self, head: &Host, random: &mut Random) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(2) {
            let found = head.processes().into_iter().find(|process| self.is(process));
            if let Some(victim) = found {
                thread::sleep(random.milliseconds(900));
                let is_alive = |process: &Process| process.pid == victim.pid && self.is(process);
                if head.processes().iter().any(is_alive) {
                    victim.signal(Signal::KILL);
                    return true;
                }
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn milliseconds(&mut self, bound: u64) -> Duration {
        Duration::from_millis(self.below(bound))
    }
}

/// The clients of a head, and their builds.
struct Clients<'a> {
    head: &'a Host,
    todo: VecDeque<Drv>,
    running: Vec<(Drv, RunningBuild)>,
    built: usize,
    failed: usize,
    serial: usize,
}

impl Clients<'_> {
    /// Takes those that are done, and starts others: those that have failed, then new ones if `goes_on`.
    fn step(&mut self, goes_on: bool) {
        for (drv, mut build) in std::mem::take(&mut self.running) {
            if !build.is_done() {
                self.running.push((drv, build));
                continue;
            }
            let result = build.wait();
            // Nothing stops the machine under a build.
            assert!(!result.log.contains("could not be built on"), "{}", result.log);
            match result.status {
                Some(0) => self.built += 1,
                _ => {
                    self.failed += 1;
                    self.todo.push_back(drv);
                }
            }
        }
        while self.running.len() < CLIENTS {
            let new = || Drv::new(&format!("x-{}", self.serial)).script("sleep 0.2; echo x >$out");
            let Some(drv) = self.todo.pop_front().or_else(|| goes_on.then(new)) else { return };
            self.serial += 1;
            let build = self.head.client().max_jobs(0).start(&[&drv]);
            self.running.push((drv, build));
        }
    }
}

#[test]
fn kills_at_random_instants_leave_no_machine_and_no_slot_behind() {
    let wanted = if std::env::var_os("OFFLOAD_CAMPAIGN").is_some() { 200 } else { 20 };
    let lab = Lab::new();
    let b1 = Arc::new(lab.build_machine("b1").max_jobs(2).start());
    let head = lab.head().start();
    let switch = Switch::of(&b1, &head, Duration::from_millis(200));
    // The programs take a while, so that they are killed before, during and after their effect.
    let press = |word| format!(r#"{{ "/bin/sh", "-c", "sleep 0.1; echo {word} >>{SWITCHES}/b1; sleep 0.1" }}"#);
    let entry = b1.entry().set("parallel_builds", 2.0).lua();
    let (fields, start, stop) = (entry.strip_suffix('}').unwrap(), press("start"), press("stop"));
    head.write_machine_file(&format!(
        "return {{ {fields} on_demand = {{ start = {start}, stop = {stop}, stop_timeout = 20, boot_timeout = 60, idle = 0 }},\n}} }}"
    ));
    let mut random = Random(22);
    let mut clients =
        Clients { head: &head, todo: VecDeque::new(), running: Vec::new(), built: 0, failed: 0, serial: 0 };
    let mut kills = Vec::new();
    let mut reapers = Vec::new();
    let began = Instant::now();
    while kills.len() < wanted {
        clients.step(true);
        reapers.retain_mut(|reaper: &mut std::process::Child| reaper.try_wait().unwrap().is_none());
        if reapers.is_empty() {
            reapers.push(head.command("/opt/offload/offload").arg("reap").spawn().unwrap());
        }
        let victim = [Victim::Starter, Victim::Hook, Victim::Reaper][random.below(3) as usize];
        if victim.strike(&head, &mut random) {
            kills.push(victim);
        }
    }
    let count = |victim| kills.iter().filter(|one| **one == victim).count();
    let [starters, hooks, others] = [Victim::Starter, Victim::Hook, Victim::Reaper].map(count);
    wait_until("all builds are done", 10 * LONG, || {
        clients.step(false);
        clients.running.is_empty() && clients.todo.is_empty()
    });
    for reaper in &mut reapers {
        reaper.wait().unwrap();
    }
    let port = b1.ssh_address().port();
    wait_until("the machine is stopped", LONG, || {
        let reap = head.offload(&["reap"]);
        assert_eq!(reap.status, Some(0), "{reap:?}");
        power(&head, "b1", port).phase == Phase::Off
    });
    let uses = switch.uses();
    let count = |word| uses.iter().filter(|one| *one == word).count();
    println!(
        "{} kills within {:.0} s: {starters} starters, {hooks} hooks, {others} reapers; {} builds, {} of them tried \
         again; {} starts, {} stops",
        kills.len(),
        began.elapsed().as_secs_f64(),
        clients.built,
        clients.failed,
        count("start"),
        count("stop")
    );
    // A build fails only with its hook.
    assert!(clients.failed <= hooks, "{} builds failed, and {hooks} hooks were killed", clients.failed);
    assert!(clients.built >= wanted / 4 && starters.min(hooks).min(others) >= wanted / 10, "{kills:?}");
    // Each start is followed by a stop, before the next start and at the end.
    assert!(uses.windows(2).all(|pair| pair != ["start", "start"]), "{uses:?}");
    let runs = b1.processes().iter().any(|process| process.name.starts_with("sshd"));
    assert!(uses.last().is_some_and(|last| last == "stop") && !runs, "{uses:?}");
    let mut machine = Machine::new("b1", "root", vec![SYSTEM.to_owned()], Vec::new());
    (machine.port, machine.parallel_builds) = (port, 2);
    let slots = Slots::of(&StateDirectory::new(head.path("/var/guix/offload")), &machine).unwrap();
    assert_eq!((slots.taken().unwrap().len(), slots.free(9).unwrap()), (0, 2));
    // Nothing has been left that starts the machine later.
    let is_left = |process: &Process| process.command.contains(SWITCHES) || Victim::Starter.is(process);
    wait_until("no process is left", LONG, || !head.processes().iter().any(is_left));
    assert_eq!(switch.uses(), uses);
}
