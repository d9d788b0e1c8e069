//! Has a machine started by a process of its own, which outlives the hook whose build needs the machine.
//!
//! The process is `offload start` of this executable. If another process starts the machine already, it ends at once.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use log::warn;

use crate::build::Starter;
use crate::machine::Machine;
use crate::own_executable;

/// How long one process waits before it launches the start of the same machine again: a start that cannot even begin
/// leaves no record.
const LAUNCH_INTERVAL: Duration = Duration::from_secs(5);

/// Returns a starter that starts machines of this machine file by a process.
pub fn by_process(machine_file: &Path) -> Starter {
    let machine_file = machine_file.to_owned();
    limited(move |machine| launch(&machine_file, machine))
}

/// Returns a starter that calls `start` no more often than every [`LAUNCH_INTERVAL`] for one machine.
pub fn limited(start: impl Fn(&Machine) + Send + Sync + 'static) -> Starter {
    let last: Mutex<BTreeMap<String, Instant>> = Mutex::default();
    Arc::new(move |machine: &Machine| {
        let is_due = last.lock().is_ok_and(|mut last| {
            let now = Instant::now();
            let is_due = last.get(&machine.address()).is_none_or(|at| now - *at >= LAUNCH_INTERVAL);
            if is_due {
                last.insert(machine.address(), now);
            }
            is_due
        });
        if is_due {
            start(machine);
        }
    })
}

/// Has the idle machines stopped by a process of its own.
pub fn reap_by_process(machine_file: &Path) {
    let mut command = own_executable::command("offload");
    command.arg("reap").arg("--machine-file").arg(machine_file);
    spawn(command, "cannot start a process that stops idle machines");
}

fn launch(machine_file: &Path, machine: &Machine) {
    let mut command = own_executable::command("offload");
    command.arg("start").arg("--machine-file").arg(machine_file).arg("--exactly").arg(machine.address());
    spawn(command, &format!("{}: cannot start a process that starts it", machine.address()));
}

fn spawn(mut command: Command, failure: &str) {
    // The daemon kills the process group of a hook.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    match command.spawn() {
        // Its end is awaited so that no dead process stays in the list.
        Ok(mut child) => drop(thread::Builder::new().name("start".to_owned()).spawn(move || child.wait())),
        Err(error) => warn!("{failure}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn one_machine_is_not_launched_twice_at_once() {
        let count = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&count);
        let starter = limited(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let [b1, b2] = ["b1", "b2"].map(|name| Machine::new(name, "u", Vec::new(), Vec::new()));
        [&b1, &b1, &b2].into_iter().for_each(|machine| starter(machine));
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }
}
