//! `offload status --summary`: one line for a shell's prompt, from the records of this head.
//!
//! It contacts no machine, so it takes no time; a machine that has died since the last build counts as ready.

use super::snapshot::{MachineSnapshot, MachineState};

/// The states that the line counts, in this order. The others can take builds, now or soon.
const COUNTED: [MachineState; 9] = [
    MachineState::Disabled,
    MachineState::Misconfigured,
    MachineState::Off,
    MachineState::Starting,
    MachineState::Stopping,
    MachineState::Unreachable,
    MachineState::Drained,
    MachineState::DiskLow,
    MachineState::Overloaded,
];

/// Returns whether the machine takes builds.
pub fn is_usable(machine: &MachineSnapshot) -> bool {
    // One that is off is started for the next build.
    use MachineState::{Off, Starting, Stopping};
    matches!(machine.state, Off | Starting | Stopping) || !COUNTED.contains(&machine.state)
}

/// Returns the line: machines that take builds, slots in use, builds that wait, and the machines in each other state.
pub fn line(machines: &[MachineSnapshot], waiting: usize) -> String {
    let usable = machines.iter().filter(|machine| is_usable(machine)).count();
    let taken: Option<usize> = machines.iter().map(|machine| machine.taken).sum();
    let taken = taken.map_or("-".to_owned(), |taken| taken.to_string());
    let slots: u64 = machines.iter().map(|machine| u64::from(machine.slots)).sum();
    let others = COUNTED.iter().filter_map(|&state| {
        let count = machines.iter().filter(|machine| machine.state == state).count();
        (count > 0).then(|| format!(", {count} {}", state.word()))
    });
    let waiting = if waiting > 0 { format!(", {waiting} waiting") } else { String::new() };
    format!("{usable}/{} machines, {taken}/{slots} slots{waiting}{}", machines.len(), others.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::super::source::SnapshotSource;
    use super::*;
    use crate::engine::Engine;
    use crate::hook::HookArguments;
    use crate::local::Directories;
    use crate::machine::Machine;
    use crate::state::{Drain, Drained, Health, HealthRecord, SlotHolder, Slots, health};

    #[test]
    fn the_records_of_all_machines_are_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let directories = Directories { state: directory.path().to_owned(), ..Directories::default() };
        let engine = Engine::new(directories, HookArguments::without_limits("x86_64-linux"));
        let machine = |name: &str, parallel_builds| Machine {
            parallel_builds,
            ..Machine::new(name, "u", Vec::new(), Vec::new())
        };
        let machines = [machine("b1", 2), machine("b2", 1), machine("b3", 4), machine("b4", 1)];
        let lines = || {
            let snapshot = |machine| SnapshotSource::new(machine, &engine).recorded();
            line(&machines.iter().map(snapshot).collect::<Vec<_>>(), 0)
        };
        assert_eq!(lines(), "4/4 machines, 0/8 slots");
        let failed = |time| Health::default().after_failure("lost", time);
        // The back-off of the one is over.
        for (machine, time) in [(&machines[1], health::now()), (&machines[3], 1_000)] {
            HealthRecord::of(&engine.state, machine).unwrap().change(|_| failed(time)).unwrap();
        }
        let drained = Drained { since: health::now(), until: None };
        Drain::of(&engine.state, &machines[2]).unwrap().set(&drained).unwrap();
        assert_eq!(lines(), "2/4 machines, 0/8 slots, 1 unreachable, 1 drained");
        let slots = Slots::of(&engine.state, &machines[0]).unwrap();
        let _taken = slots.try_take(&SlotHolder::this_process("x.drv")).unwrap();
        assert_eq!(lines(), "2/4 machines, 1/8 slots, 1 unreachable, 1 drained");
        assert_eq!(line(&[], 3), "0/0 machines, 0/0 slots, 3 waiting");
    }
}
