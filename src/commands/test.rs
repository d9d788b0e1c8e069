//! `offload test [NAME…]` checks step by step whether the build machines can be used, and prints a remedy for each
//! problem.
//!
//! All machines are checked at the same time, so a machine that does not respond does not delay the others.
//!
//! The status is 0 if all can be used, 4 if some can, 1 if none can, 3 if the machine file cannot be used, 5 if no
//! machine matches. With `--json` everything is one object: `version` (1), `file`, and `machines`, a list of objects
//! with `name`, `port`, `usable` and `findings` in the order of the steps: `step`, `outcome` (`ok`, `warning`,
//! `error`), `text` and `remedies`, each with `place` (`head`, `machine`, `machine-file`), `kind` (`command`, `line`,
//! `advice`), `text` and sometimes `condition`. `shared` is null, or the findings about the database of a pool that several
//! heads share: `name`, `usable` and `findings`. If only the database fails, the status is 4.

mod checks;
mod database;
mod finding;
mod remedies;
mod report;
mod substitutes;

use std::io::{self, Write};
use std::path::Path;
use std::thread;

use super::contact;
use super::failure::{CommandError, CommandResult};
use super::machines::{load, verdict};
use super::selection::Selection;
use super::terminal::{self, Terminal};
use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::machine::Machine;
use database::CheckedDatabase;
use finding::{Checked, Outcome};

/// The version of the JSON form. It increases if a field is removed or gets another meaning, not if a field is added.
const JSON_VERSION: u32 = 1;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Print the checks that passed, too.
    #[arg(long)]
    verbose: bool,
    /// Print JSON.
    #[arg(long, conflicts_with = "verbose")]
    json: bool,
    /// Use an open connection to the machine, if there is one, and have nothing built.
    #[arg(long)]
    quick: bool,
}

impl Args {
    /// Returns the machine file, if one is named.
    pub fn machine_file(&self) -> Option<&Path> {
        self.selection.machine_file()
    }
}

/// Checks the machines.
pub fn run(args: &Args, engine: &Engine) -> CommandResult {
    let (path, pool) = load(args.selection.one_machine_file()?, engine)?;
    let machines = args.selection.hosts(&pool)?;
    let checked = check_all(&machines, engine, args.quick);
    let database = database::check(&pool, engine);
    let mut out = io::stdout().lock();
    let printed = match args.json {
        true => write_json(&path, &checked, database.as_ref(), &mut out),
        false => {
            let terminal = Terminal::of_stdout();
            let written = report::write(&path, &checked, args.verbose, terminal, &mut out);
            written.and_then(|()| match &database {
                Some(database) => report::write_database(database, args.verbose, terminal, &mut out),
                None => Ok(()),
            })
        }
    };
    printed.map_err(|error| CommandError::output("the findings", &error))?;
    let machines = verdict(checked.iter().filter(|checked| checked.usable).count(), checked.len());
    Ok(match machines {
        // The machines can be used, but the heads do not count their builds together.
        ExitStatus::Success if database.is_some_and(|database| !database.usable) => ExitStatus::SomeMachinesFailed,
        status => status,
    })
}

fn check_all<'a>(machines: &[&'a Machine], engine: &Engine, is_quick: bool) -> Vec<Checked<'a>> {
    thread::scope(|scope| {
        let checks: Vec<_> = machines
            .iter()
            .map(|&machine| (machine, scope.spawn(move || checks::check(machine, engine, is_quick))))
            .collect();
        let finished = checks.into_iter().map(|(machine, check)| {
            // A check that panics has no findings, so the machine does not pass.
            let (findings, probed) = check.join().unwrap_or_default();
            let usable = !findings.is_empty() && findings.iter().all(|finding| finding.outcome != Outcome::Error);
            // Builds use a machine that passes at once, whatever failures were recorded.
            if let Some(status) = probed.filter(|_| usable) {
                contact::record_works(engine, machine, status);
            }
            Checked { name: &machine.name, port: machine.port, usable, findings }
        });
        finished.collect()
    })
}

fn write_json(
    path: &Path,
    machines: &[Checked<'_>],
    database: Option<&CheckedDatabase<'_>>,
    out: &mut impl Write,
) -> io::Result<()> {
    let file = path.display().to_string();
    let object = serde_json::json!({ "version": JSON_VERSION, "file": file, "machines": machines, "shared": database });
    terminal::write_json(&object, true, out)
}
