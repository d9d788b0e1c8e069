//! `offload reap --as-daemon`, for the timer: the command runs with the variables of the daemon's unit.
//!
//! A hook inherits the daemon's environment, which names the directories and the machine file. A timer does not. Its
//! unit cannot take them from the daemon's, and a copy would be outdated after the next change there. So this process
//! reads the daemon's unit, and runs `offload reap` with these variables, as the daemon's user. They come from files that
//! only root can change, because root runs the first steps of that process.

use std::ffi::OsString;
use std::path::Path;

use crate::commands::as_user;
use crate::commands::daemon_user;
use crate::commands::failure::{CommandError, CommandResult};
use crate::commands::install::{UNIT, Unit};
use crate::engine::STATE_SUBDIRECTORY;
use crate::exit::ExitStatus;
use crate::local::Directories;
use crate::own_executable;
use crate::state::StateDirectory;
use crate::state::power::has_records;

/// Runs `offload reap`. Does nothing on a head that has never started a machine.
pub fn run() -> CommandResult {
    let root = Path::new("/");
    let variables = Unit::read(root, UNIT).map(|unit| unit.environment.variables(root)).unwrap_or_default();
    let lookup = |name: &str| variables.get(name).map(OsString::from).or_else(|| std::env::var_os(name));
    let directories = Directories::from_variables(lookup).map_err(CommandError::failure)?;
    if !has_records(&StateDirectory::new(directories.state.join(STATE_SUBDIRECTORY))) {
        return Ok(ExitStatus::Success);
    }
    let mut command = match daemon_user::for_checks(&directories) {
        Some(user) => as_user::command(&user),
        None => own_executable::command("offload"),
    };
    let status = command.arg("reap").envs(&variables).status();
    let status = status.map_err(|cause| CommandError::failure(format!("cannot run 'offload reap': {cause}")))?;
    Ok(ExitStatus::from_code(status.code()))
}
