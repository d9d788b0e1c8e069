//! `offload on-event`: calls the machine file's `on_event` with the events that wait, in a process of its own.
//!
//! A process that has an event launches this one, which outlives it. So neither guix-daemon nor a build waits for
//! `on_event`, whatever it does. If such a process runs already, this one ends at once. The file is evaluated again for
//! each event, since a function that does not return in time spoils its interpreter.
//!
//! The output of this process is not read. Its first error is recorded, and the next hook reports it.

use std::path::Path;

use log::{debug, warn};

use super::failure::{CommandError, CommandResult};
use super::machines::MachineFileArgs;
use super::power::spawn;
use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::own_executable;
use crate::state::Outbox;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    file: MachineFileArgs,
}

impl Args {
    /// Returns the machine file, if one is named.
    pub fn machine_file(&self) -> Option<&Path> {
        self.file.named()
    }
}

/// Runs `offload on-event`.
pub fn run(args: &Args, engine: &Engine) -> CommandResult {
    let outbox = Outbox::of(&engine.state);
    let path = super::machines::machine_file(args.machine_file(), &engine.directories);
    loop {
        let Some(lock) = outbox.try_lock().map_err(CommandError::failure)? else { break };
        while let Some(event) = outbox.take().map_err(CommandError::failure)? {
            let pool = engine.load_pool(&path, None).map_err(|report| report.to_string());
            if let Err(error) = pool.and_then(|pool| pool.call_on_event(&event))
                && let Err(unknown) = outbox.failed(&error)
            {
                debug!("this error is not recorded: {unknown}: {error}");
            }
        }
        drop(lock);
        // The process of an event that was appended meanwhile has found the lock taken.
        if outbox.is_empty() {
            break;
        }
    }
    Ok(ExitStatus::Success)
}

/// Launches a process that calls `on_event` of this machine file.
pub fn launch(machine_file: &Path) {
    let mut command = own_executable::command("offload");
    command.arg("on-event").arg("--machine-file").arg(machine_file);
    spawn(command, "cannot start a process that calls on_event");
}

/// Reports the error of an earlier call, if none has reported it.
pub fn report_error(engine: &Engine) {
    if let Some(error) = Outbox::of(&engine.state).take_error() {
        warn!("{error}; the event was not handled");
    }
}
