//! Build slots with processes that race each other: this program starts itself several times.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use offload::internals::machine::Machine;
use offload::internals::state::{Slot, SlotHolder, Slots, StateDirectory};

const RACERS: usize = 8;
const SLOTS: u32 = 3;
/// How often each racer gets a slot.
const ROUNDS: usize = 200;

/// What a racer prints after its last round.
const HELD_ALL: &str = "it has held a slot in each round";

/// Tells a process of this program where the state is.
const STATE: &str = "OFFLOAD_TEST_STATE";

fn slots(state: &Path) -> Slots {
    let mut machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
    machine.parallel_builds = SLOTS;
    Slots::of(&StateDirectory::new(state), &machine).unwrap()
}

fn try_take(slots: &Slots) -> Option<Slot> {
    slots.try_take(&SlotHolder::this_process("/gnu/store/x.drv")).unwrap()
}

/// Starts this program with one of its tests.
fn start(test: &str, state: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", test])
        .env(STATE, state)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn state() -> PathBuf {
    std::env::var_os(STATE).expect("started by another test only").into()
}

#[test]
fn racing_processes_never_hold_the_same_slot() {
    let directory = tempfile::tempdir().unwrap();
    let racers: Vec<Child> = (0..RACERS).map(|_| start("a_racer", directory.path())).collect();
    for racer in racers {
        let output = racer.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
        // A process that is started with the name of no test does nothing, and well.
        assert!(said.contains(HELD_ALL), "a process did not race:\n{said}");
    }
    assert!(slots(directory.path()).taken().unwrap().is_empty());
}

#[test]
#[ignore = "not a test: one of the processes that race"]
fn a_racer() {
    let state = state();
    let slots = slots(&state);
    let mut round = 0;
    while round < ROUNDS {
        let Some(slot) = try_take(&slots) else {
            std::thread::yield_now();
            continue;
        };
        // A file that only one process can make at a time.
        let mark = state.join(format!("mark-{}", slot.number()));
        OpenOptions::new().write(true).create_new(true).open(&mark).expect("two processes hold one slot");
        std::thread::yield_now();
        std::fs::remove_file(&mark).unwrap();
        drop(slot);
        round += 1;
    }
    println!("{HELD_ALL}");
}

#[test]
fn the_slots_of_a_killed_process_are_free_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let slots = slots(directory.path());
    for _ in 0..5 {
        let mut holder = start("a_holder", directory.path());
        let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("all are taken")));
        assert!(try_take(&slots).is_none());
        let holders: Vec<_> = slots.taken().unwrap().into_iter().map(|(_, holder)| holder.unwrap().pid).collect();
        assert_eq!(holders, [holder.id(); SLOTS as usize]);

        holder.kill().unwrap();
        holder.wait().unwrap();
        assert!(slots.taken().unwrap().is_empty());
        assert!(try_take(&slots).is_some());
    }
}

#[test]
#[ignore = "not a test: the process that holds all slots and is killed"]
fn a_holder() {
    let slots = slots(&state());
    let _held: Vec<Slot> = (0..SLOTS).map(|_| try_take(&slots).unwrap()).collect();
    println!("all are taken");
    std::thread::sleep(std::time::Duration::from_secs(60));
}
