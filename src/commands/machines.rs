//! Common parts of the subcommands about machines: the machine file, and the outcome for several machines.

use std::env;
use std::path::{Path, PathBuf};

use super::failure::CommandError;
use super::terminal::{HumanDuration, plain};
use crate::engine::Engine;
use crate::exit::ExitStatus;
pub use crate::hook::own_system;
use crate::local::Directories;
use crate::machine_file::Pool;
use crate::state::{SubstituteServers, health};

/// The variable that names the machine file.
pub const MACHINE_FILE_VARIABLE: &str = "OFFLOAD_MACHINE_FILE";

/// The option that names the machine file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct MachineFileArgs {
    /// The machine file, if it is not the default one.
    #[arg(long, value_name = "FILE")]
    machine_file: Option<PathBuf>,
}

impl MachineFileArgs {
    /// Names a machine file.
    #[cfg(test)]
    pub fn naming(file: &str) -> MachineFileArgs {
        MachineFileArgs { machine_file: Some(file.into()) }
    }

    /// Returns the machine file, if one is named.
    pub fn named(&self) -> Option<&Path> {
        self.machine_file.as_deref()
    }
}

/// Returns the machine file: the one that was named, else `$OFFLOAD_MACHINE_FILE`, else `machines.lua` in the daemon's
/// configuration directory.
pub fn machine_file(named: Option<&Path>, directories: &Directories) -> PathBuf {
    match named {
        Some(path) => path.to_owned(),
        None => env::var_os(MACHINE_FILE_VARIABLE)
            .map_or_else(|| directories.configuration.join("machines.lua"), PathBuf::from),
    }
}

/// Loads the machine file, which must exist.
pub fn load(named: Option<&Path>, engine: &Engine) -> Result<(PathBuf, Pool), CommandError> {
    let path = machine_file(named, &engine.directories);
    if matches!(path.try_exists(), Ok(false)) {
        return Err(CommandError::new(
            ExitStatus::MachineFile,
            format!("there is no machine file '{}'", path.display()),
        ));
    }
    match engine.load_pool(&path, None) {
        Ok(pool) => Ok((path, pool)),
        Err(report) => Err(CommandError::report(ExitStatus::MachineFile, report)),
    }
}

/// Returns the exit status if `passed` of `all` machines pass.
pub fn verdict(passed: usize, all: usize) -> ExitStatus {
    match passed {
        passed if passed == all => ExitStatus::Success,
        0 => ExitStatus::Failure,
        _ => ExitStatus::SomeMachinesFailed,
    }
}

/// Returns the number of consecutive failures of a machine, the first of which was `since` ago.
pub fn failure_count(count: u32, since: &HumanDuration) -> String {
    match count {
        1 => format!("1 failure {since} ago"),
        count => format!("{count} consecutive failures in {since}"),
    }
}

/// Returns a note about substitute servers that fail; `None` if builds ask them.
pub fn substitute_note(servers: &SubstituteServers) -> Option<String> {
    let failures = servers.failures.as_ref()?;
    let left = failures.time_left(health::now())?;
    let cause = plain(&failures.cause);
    Some(format!("its substitute servers failed: {cause}; not asked for {}", HumanDuration(left.as_secs())))
}
