//! `offload eval [FILE] [--json]`: evaluate the machine file, and print what it says or what is wrong with it.
//!
//! The status is 0 if the file can be used, 3 if not. The pool goes to standard output as a table, errors and warnings
//! to standard error. With `--json` everything is one object on standard output:
//!
//! | field | |
//! |---|---|
//! | `version` | 1. It grows when a field changes its meaning or goes; new fields may come without that. |
//! | `file` | the machine file |
//! | `machines` | a list with an object for each `build_machine`: its fields under their names in the machine file, `host_key` and `systems` always lists, `overload_threshold` null where the load is ignored, `keep_connection` null where none is kept, `private_key` and `proxy_command` null where not given; `accepts` and `score` say whether there is such a function; `line` is that of the constructor |
//! | `local_machine` | the same for the head, or null |
//! | `settings` | the settings of the pool; `when_busy` and `when_unreachable` are `"wait"`, `"local"` or `"function"`, times are seconds, `limits.memory` bytes |
//! | `warnings`, `errors` | lists of objects: `severity`, `file`, `line`, `field`, `message`, and where there is one `hint`, and `trace` |
//!
//! `machines`, `local_machine` and `settings` are missing when there are errors, and `errors` when there are none.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::terminal;
use crate::exit::ExitStatus;
use crate::machine::{HostKey, Machine};
use crate::machine_file::{self, Diagnostic, Entry, LoadContext, LocalMachine, Pool, Settings, Severity, When};

mod table;

/// The version of the JSON.
const VERSION: u32 = 1;

/// Evaluates `file`. `system` is the head's own system type.
pub fn run(
    file: &Path,
    context: &LoadContext,
    system: &str,
    json: bool,
    output: &mut dyn Write,
    messages: &mut dyn Write,
) -> ExitStatus {
    let result = evaluate(file, context, system);
    let written = match json {
        true => write_json(file, &result, output),
        false => write_text(&result, output, messages),
    };
    match (written, result) {
        (Err(error), _) => {
            if error.kind() != io::ErrorKind::BrokenPipe {
                // If this fails there is nobody left to tell.
                let _ = writeln!(messages, "offload: error: cannot print what the machine file says: {error}");
            }
            ExitStatus::Failure
        }
        (Ok(()), Ok(_)) => ExitStatus::Success,
        (Ok(()), Err(_)) => ExitStatus::MachineFile,
    }
}

/// The pool with all warnings, or everything that was found.
fn evaluate(file: &Path, context: &LoadContext, system: &str) -> Result<(Pool, Vec<Diagnostic>), Vec<Diagnostic>> {
    if matches!(file.try_exists(), Ok(false)) {
        let missing = Diagnostic::error(file.display().to_string(), "there is no such machine file, so no machines");
        return Err(vec![missing]);
    }
    let pool = machine_file::load(file, context).map_err(|report| report.diagnostics)?;
    let mut warnings = pool.warnings.clone();
    warnings.extend(machine_file::check_environment(&pool, context, system));
    Ok((pool, warnings))
}

fn write_text(
    result: &Result<(Pool, Vec<Diagnostic>), Vec<Diagnostic>>,
    output: &mut dyn Write,
    messages: &mut dyn Write,
) -> io::Result<()> {
    let found = match result {
        Ok((pool, warnings)) => {
            table::write(pool, output)?;
            warnings
        }
        Err(found) => found,
    };
    found.iter().try_for_each(|diagnostic| writeln!(messages, "{diagnostic}"))
}

#[derive(Serialize)]
struct Object<'a> {
    version: u32,
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    machines: Option<Vec<MachineObject<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_machine: Option<Option<LocalObject<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<SettingsObject>,
    warnings: Vec<&'a Diagnostic>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<&'a Diagnostic>,
}

#[derive(Serialize)]
struct MachineObject<'a> {
    name: &'a str,
    port: u16,
    user: &'a str,
    systems: &'a [String],
    host_key: Vec<String>,
    private_key: Option<String>,
    daemon_socket: String,
    compression: &'static str,
    parallel_builds: u32,
    speed: f64,
    features: &'a [String],
    overload_threshold: Option<f64>,
    minimum_disk_space: u64,
    connect_timeout: f64,
    stall_timeout: f64,
    keepalive_interval: f64,
    keep_connection: Option<f64>,
    max_transfers: u32,
    enabled: bool,
    proxy_command: Option<&'a [String]>,
    use_substitutes: bool,
    accepts: bool,
    score: bool,
    line: Option<u32>,
}

#[derive(Serialize)]
struct LocalObject<'a> {
    systems: Option<&'a [String]>,
    speed: f64,
    features: &'a [String],
    overload_threshold: Option<f64>,
    enabled: bool,
}

#[derive(Serialize)]
struct SettingsObject {
    accepts: bool,
    score: bool,
    when_busy: When,
    when_unreachable: When,
    max_attempts: u32,
    wait_for_slot: f64,
    limits: LimitsObject,
}

#[derive(Serialize)]
struct LimitsObject {
    evaluate: f64,
    decide: f64,
    memory: usize,
}

fn write_json(
    file: &Path,
    result: &Result<(Pool, Vec<Diagnostic>), Vec<Diagnostic>>,
    output: &mut dyn Write,
) -> io::Result<()> {
    let (pool, found) = match result {
        Ok((pool, warnings)) => (Some(pool), warnings),
        Err(found) => (None, found),
    };
    let of = |severity| found.iter().filter(move |diagnostic| diagnostic.severity == severity).collect();
    let object = Object {
        version: VERSION,
        file: file.display().to_string(),
        machines: pool.map(|pool| pool.machines.iter().map(MachineObject::new).collect()),
        local_machine: pool.map(|pool| pool.local.as_ref().map(LocalObject::new)),
        settings: pool.map(|pool| SettingsObject::new(&pool.settings)),
        warnings: of(Severity::Warning),
        errors: of(Severity::Error),
    };
    terminal::write_json(&object, true, output)
}

impl<'a> MachineObject<'a> {
    fn new(entry: &'a Entry) -> MachineObject<'a> {
        let Entry { machine, line, has_accepts, has_score } = entry;
        MachineObject {
            name: &machine.name,
            port: machine.port,
            user: &machine.user,
            systems: &machine.systems,
            host_key: machine.host_keys.iter().map(HostKey::to_openssh).collect(),
            private_key: machine.private_key.as_ref().map(|file| file.display().to_string()),
            daemon_socket: machine.daemon_socket.display().to_string(),
            compression: machine.compression.name(),
            parallel_builds: machine.parallel_builds,
            speed: machine.speed,
            features: &machine.features,
            overload_threshold: machine.overload_threshold,
            minimum_disk_space: machine.minimum_disk_space,
            connect_timeout: machine.connect_timeout.as_secs_f64(),
            stall_timeout: machine.stall_timeout.as_secs_f64(),
            keepalive_interval: machine.keepalive_interval.as_secs_f64(),
            keep_connection: machine.keep_connection.map(|time| time.as_secs_f64()),
            max_transfers: machine.max_transfers,
            enabled: machine.enabled,
            proxy_command: machine.proxy_command.as_deref(),
            use_substitutes: machine.use_substitutes,
            accepts: *has_accepts,
            score: *has_score,
            line: *line,
        }
    }
}

impl<'a> LocalObject<'a> {
    fn new(machine: &'a LocalMachine) -> LocalObject<'a> {
        LocalObject {
            systems: machine.systems.as_deref(),
            speed: machine.speed,
            features: &machine.features,
            overload_threshold: machine.overload_threshold,
            enabled: machine.enabled,
        }
    }
}

impl SettingsObject {
    fn new(settings: &Settings) -> SettingsObject {
        SettingsObject {
            accepts: settings.has_accepts,
            score: settings.has_score,
            when_busy: settings.when_busy,
            when_unreachable: settings.when_unreachable,
            max_attempts: settings.max_attempts,
            wait_for_slot: settings.wait_for_slot.as_secs_f64(),
            limits: LimitsObject {
                evaluate: settings.limits.evaluate.as_secs_f64(),
                decide: settings.limits.decide.as_secs_f64(),
                memory: settings.limits.memory,
            },
        }
    }
}

/// How a machine is called: its name, and its port where that is another than SSH's own.
fn label(machine: &Machine) -> String {
    match machine.port {
        22 => machine.name.clone(),
        port => format!("{}:{port}", machine.name),
    }
}

#[cfg(test)]
mod tests;
