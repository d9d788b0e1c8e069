//! `offload reap --as-daemon`, for the timer: the command runs with the variables of the daemon's unit.
//!
//! A hook inherits the daemon's environment, which names the directories and the machine file. A timer does not. Its
//! unit cannot take them from the daemon's, and a copy would be outdated after the next change there. So this process
//! reads the daemon's unit, and replaces itself by `offload reap` with these variables. Only root can write the unit.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use crate::commands::failure::{CommandError, CommandResult};
use crate::commands::install::{UNIT, Unit};
use crate::engine::STATE_SUBDIRECTORY;
use crate::exit::ExitStatus;
use crate::local::Directories;
use crate::own_executable;
use crate::state::StateDirectory;
use crate::state::power::has_records;

/// Replaces this process by `offload reap`. Does nothing on a head that has never started a machine.
pub fn run() -> CommandResult {
    let root = Path::new("/");
    let variables = Unit::read(root, UNIT).map(|unit| unit.environment.variables(root)).unwrap_or_default();
    let lookup = |name: &str| variables.get(name).map(OsString::from).or_else(|| std::env::var_os(name));
    let directories = Directories::from_variables(lookup).map_err(CommandError::failure)?;
    if !has_records(&StateDirectory::new(directories.state.join(STATE_SUBDIRECTORY))) {
        return Ok(ExitStatus::Success);
    }
    let cause = own_executable::command("offload").arg("reap").envs(&variables).exec();
    Err(CommandError::failure(format!("cannot run 'offload reap': {cause}")))
}
