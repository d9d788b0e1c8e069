//! Processes that start a machine, or stop idle machines, and outlive the hook that launches them.
//!
//! The process is `offload start` or `offload reap` of this executable. If another process starts the machine already, it
//! ends at once.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use log::warn;

use crate::build::Starter;
use crate::machine::Machine;
use crate::own_executable;
use crate::power::limited;

/// Returns a starter that starts machines of this machine file by a process.
pub fn by_process(machine_file: &Path) -> Starter {
    let machine_file = machine_file.to_owned();
    limited(move |machine| launch(&machine_file, machine))
}

/// Launches a process that stops the idle machines.
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

/// Starts a command that outlives this process, and waits for nothing.
pub fn spawn(mut command: Command, failure: &str) {
    // The daemon kills the process group of a hook.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    match command.spawn() {
        // Its end is awaited so that no dead process stays in the list.
        Ok(mut child) => drop(thread::Builder::new().name("start".to_owned()).spawn(move || child.wait())),
        Err(error) => warn!("{failure}: {error}"),
    }
}
