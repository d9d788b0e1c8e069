//! The names in a machine file that complete a word: machines, system types, features.
//!
//! Root evaluates a machine file as `offload eval` does: as the user who can write it, or as the daemon's user, in a
//! process of its own. The time is limited, because somebody waits at the keyboard.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::commands::machines::machine_file;
use crate::commands::{as_user, daemon_user};
use crate::engine::Engine;
use crate::hook::HookArguments;
use crate::local::Directories;
use crate::machine_file::{Limits, LoadContext};

/// The longest time that the evaluation may take.
const EVALUATE_MAX: Duration = Duration::from_secs(1);

/// The names in a machine file, each once.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// The machines, with their system types: `NAME`, and `NAME:PORT` if a name has several ports.
    pub machines: Vec<(String, String)>,
    pub systems: BTreeSet<String>,
    pub features: BTreeSet<String>,
}

impl Names {
    /// Returns the names in `file`; none if it cannot be used.
    pub fn read(file: &Path, engine: &Engine) -> Names {
        let limits = Limits { evaluate: EVALUATE_MAX, ..Limits::default() };
        // The log gets what the file prints, and is not started.
        let context = LoadContext { limits, logs_prints: true, ..engine.load_context() };
        let Ok(pool) = engine.load_pool_with(file, &context) else { return Names::default() };
        let machines: Vec<_> = pool.machines.iter().map(|entry| &entry.machine).collect();
        let mut names = Names::default();
        for machine in &machines {
            let has_many_ports = machines.iter().any(|other| other.name == machine.name && other.port != machine.port);
            let address = has_many_ports.then(|| machine.address());
            for name in [Some(machine.name.clone()), address].into_iter().flatten() {
                if !names.machines.iter().any(|(known, _)| *known == name) {
                    names.machines.push((name, machine.systems.join(", ")));
                }
            }
            names.systems.extend(machine.systems.iter().cloned());
            names.features.extend(machine.features.iter().cloned());
        }
        names
    }
}

/// Evaluates the machine file when names are needed first.
pub struct NamesSource {
    named: Option<PathBuf>,
    directories: Directories,
    names: OnceLock<Names>,
}

impl NamesSource {
    /// `named`: the machine file on the command line.
    pub fn new(named: Option<&Path>, engine: &Engine) -> NamesSource {
        let directories = engine.directories.clone();
        NamesSource { named: named.map(Path::to_owned), directories, names: OnceLock::new() }
    }

    /// Returns the names; none if the file cannot be used.
    pub fn get(&self) -> &Names {
        self.names.get_or_init(|| self.find().unwrap_or_default())
    }

    fn find(&self) -> Option<Names> {
        let file = machine_file(self.named.as_deref(), &self.directories);
        let user = daemon_user::for_evaluation(&self.directories, self.named.as_deref()).ok()?;
        // A key that is pressed must not run another user's program as root.
        let user = match user {
            Some(user) => Some(user),
            None => as_user::for_program(&file).ok()?,
        };
        let Some(user) = user else {
            let engine = Engine::new(self.directories.clone(), HookArguments::without_limits(""));
            return Some(Names::read(&file, &engine));
        };
        let mut command = as_user::command(&user);
        command.args(["complete", "--names-of"]).arg(&file).stderr(Stdio::null());
        let (_, output) = as_user::output(&mut command).ok()?;
        serde_json::from_slice(&output).ok()
    }
}
