//! `offload eval [FILE] [--json]`: evaluates the machine file, and prints the pool or the errors.
//!
//! The status is 0 if the file can be used, 3 if not. The pool goes to standard output as a table, errors and warnings
//! to standard error. With `--json` everything is one object on standard output:
//!
//! | field | |
//! |---|---|
//! | `version` | 1. It grows when a field is removed or changes its meaning; new fields may appear without that. |
//! | `file` | the machine file |
//! | `machines` | a list with an object for each `build_machine`: its fields under their names in the machine file, `host_key` and `systems` always lists, `overload_threshold` null where the load is ignored, `keep_connection` null where connections do not persist, `private_key` and `proxy_command` null where not given; `accepts` and `score` are true if there is such a function; times are seconds; `line` is that of the constructor |
//! | `local_machine` | an object of the same kind for the head, without `line`, or null |
//! | `settings` | the settings of the pool; `when_busy` and `when_unreachable` are `"wait"`, `"local"` or `"function"`, `limits.memory` bytes |
//! | `warnings`, `errors` | lists of objects: `severity`, `file`, `line`, `field`, `message`, and where there is one `hint`, and `trace` |
//!
//! `machines`, `local_machine` and `settings` are missing when there are errors, and `errors` when there are none.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::failure::{CommandError, CommandResult};
use super::machines::machine_file;
use super::selection::machine_file_parser;
use super::terminal;
use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::machine_file::{
    self, BUILD_MACHINE_FIELDS, Diagnostic, Entry, FieldValues, LOCAL_MACHINE_FIELDS, LoadContext, LocalMachine,
    POOL_FIELDS, Pool, Settings, Severity,
};

mod table;

/// The version of the JSON.
const JSON_VERSION: u32 = 1;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The machine file, if it is not the default one: a word with a `/`, or that ends in .lua.
    #[arg(value_parser = machine_file_parser())]
    file: Option<PathBuf>,
    /// The machine file, under any name.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    machine_file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// The directory that `~` means, if it is not this user's home directory.
    #[arg(long, hide = true, value_name = "DIRECTORY")]
    home: Option<PathBuf>,
}

impl Args {
    /// Returns the machine file, if one is named.
    pub fn machine_file(&self) -> Option<&Path> {
        self.file.as_deref().or(self.machine_file.as_deref())
    }
}

/// Runs `offload eval`.
pub fn run(args: &Args, engine: &Engine, output: &mut dyn Write, messages: &mut dyn Write) -> CommandResult {
    let file = machine_file(args.machine_file(), &engine.directories);
    let context = LoadContext { home: args.home.clone(), ..engine.load_context() };
    print(&file, &context, &engine.arguments.system, args.json, output, messages)
}

/// Evaluates `file` and prints the result. `system` is the head's own system type.
fn print(
    file: &Path,
    context: &LoadContext,
    system: &str,
    json: bool,
    output: &mut dyn Write,
    messages: &mut dyn Write,
) -> CommandResult {
    let result = evaluate(file, context, system);
    let written = match json {
        true => write_json(file, &result, output),
        false => write_text(&result, output, messages),
    };
    written.map_err(|error| CommandError::output("the pool", &error))?;
    Ok(if result.is_ok() { ExitStatus::Success } else { ExitStatus::MachineFile })
}

/// Returns the pool with all warnings, or all errors and warnings.
fn evaluate(file: &Path, context: &LoadContext, system: &str) -> Result<(Pool, Vec<Diagnostic>), Vec<Diagnostic>> {
    if matches!(file.try_exists(), Ok(false)) {
        let missing =
            Diagnostic::error(file.display().to_string(), "the machine file does not exist, so there are no machines");
        return Err(vec![missing]);
    }
    let pool = machine_file::load(file, context).map_err(|report| report.diagnostics)?;
    let mut warnings = pool.warnings.clone();
    warnings.extend(machine_file::check_environment(&pool, context, system));
    let broken = machine_file::try_functions(&pool);
    match broken.is_empty() {
        true => Ok((pool, warnings)),
        false => Err(broken.into_iter().chain(warnings).collect()),
    }
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
    local_machine: Option<Option<FieldValues<'a, LocalMachine>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<FieldValues<'a, Settings>>,
    warnings: Vec<&'a Diagnostic>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<&'a Diagnostic>,
}

#[derive(Serialize)]
struct MachineObject<'a> {
    #[serde(flatten)]
    fields: FieldValues<'a, Entry>,
    line: Option<u32>,
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
    let machine = |entry| MachineObject { fields: FieldValues(BUILD_MACHINE_FIELDS, entry), line: entry.line };
    let of = |severity| found.iter().filter(move |diagnostic| diagnostic.severity == severity).collect();
    let object = Object {
        version: JSON_VERSION,
        file: file.display().to_string(),
        machines: pool.map(|pool| pool.machines.iter().map(machine).collect()),
        local_machine: pool.map(|pool| pool.local.as_ref().map(|local| FieldValues(LOCAL_MACHINE_FIELDS, local))),
        settings: pool.map(|pool| FieldValues(POOL_FIELDS, &pool.settings)),
        warnings: of(Severity::Warning),
        errors: of(Severity::Error),
    };
    terminal::write_json(&object, true, output)
}

#[cfg(test)]
mod tests;
