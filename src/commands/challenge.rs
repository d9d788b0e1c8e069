//! `offload challenge DRV…` builds derivations on several machines, or several times on one, and compares the outputs with
//! each other and with those in the store. None of them enters the store.
//!
//! With `--json` the result is one object: `version` (1) and `derivations`. Each has `derivation` and `result`: `same`,
//! `different`, or that of a failed build. Then it has `error` and `hint`; else `reproducible`, `copies` (`source`: `this
//! machine` or `machine`, `machine`, `round`) and `outputs`, by their ids: `path`, `hashes` of the nars in the order of
//! `copies`, and `differences` (`first` and `second`: indices of copies, `files`, `omitted`: how many files more). A file
//! has `path`, `difference` (`contents`, `executable`, `target`, `type` or `missing`), and as far as they apply `at`, `sizes`,
//! `values` and `only_in` (`first` or `second`).

mod report;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus as ProcessStatus, Stdio};
use std::time::Duration;

use log::{info, warn};

use self::report::Report;
use super::build::derivations::read_derivations;
use super::build::error::{failure, print as print_error, status};
use super::build::load_pool;
use super::build::plan::obstacles;
use super::failure::{CommandError, CommandResult};
use super::machines::{MachineFileArgs, own_system};
use super::prefixed_log::PrefixedLog;
use super::reporter::Reporter;
use super::signals;
use crate::cancel::{self, Cancel};
use crate::embed::{BuildError, Challenged, Pool, Verdict};
use crate::engine::Engine;
use crate::events::{Event, Observer};
use crate::exit::ExitStatus;
use crate::hook::HookArguments;
use crate::store::path::StorePath;

/// How often the end of diffoscope is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The program that shows how two files differ.
const DIFFOSCOPE: &str = "diffoscope";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The derivations: file names that end in .drv, as `guix build -d` prints them; with -, standard input has them.
    #[arg(value_name = "DRV", required = true)]
    derivations: Vec<String>,
    /// Build on this machine: its name, or NAME:PORT. Repeat it for several; by default the two best build.
    #[arg(long, value_name = "NAME")]
    on: Vec<String>,
    /// Build so many times on each machine.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    file: MachineFileArgs,
}

impl Args {
    /// Returns the machine file, if one is named.
    pub fn machine_file(&self) -> Option<&Path> {
        self.file.named()
    }
}

/// Builds and compares.
pub fn run(args: &Args, engine: &Engine) -> CommandResult {
    let directories = &engine.directories;
    let derivations = read_derivations(&args.derivations, &directories.store, &mut io::stdin().lock())?;
    let pool = load_pool(args.machine_file(), directories)?;
    check_machines(&pool, &derivations, &args.on)?;
    let messages = io::stderr().as_fd().try_clone_to_owned();
    let messages =
        File::from(messages.map_err(|cause| CommandError::failure(format!("cannot print messages: {cause}")))?);
    let cancel = signals::cancel_on_signals();
    let (mut results, mut statuses) = (Vec::new(), Vec::new());
    for derivation in &derivations {
        match challenge(&pool, derivation, args, &cancel, &messages) {
            Ok(challenged) => {
                statuses.push(if challenged.is_reproducible() { ExitStatus::Success } else { ExitStatus::Differs });
                if args.json {
                    results.push(Report::of(&challenged));
                } else {
                    print(&challenged, &cancel).map_err(|error| CommandError::output("the comparison", &error))?;
                }
            }
            Err(error) => {
                statuses.push(status(&error));
                results.push(Report::of_failure(derivation, &error));
                match error {
                    BuildError::Cancelled => warn!("the challenge of '{derivation}' was cancelled"),
                    error => print_error(&error),
                }
            }
        }
    }
    if args.json {
        report::print(results).map_err(|error| CommandError::output("the comparison", &error))?;
    }
    Ok(ExitStatus::of_parts(&statuses))
}

/// Fails if a machine is unknown or disabled, or if no machine can build one of the derivations.
fn check_machines(pool: &Pool, derivations: &[StorePath], names: &[String]) -> Result<(), CommandError> {
    if let Some(unknown) = names.iter().find(|name| pool.slots(&[name]) == 0) {
        let machines: Vec<&str> = pool.machines().collect();
        let message = format!("no enabled machine matches '{unknown}'; the machine file has {}", machines.join(", "));
        return Err(CommandError::new(ExitStatus::NoMatch, message));
    }
    for derivation in derivations {
        let build = names.iter().fold(pool.build(derivation), |build, name| build.on(name));
        let explanation = build.plan().map_err(|error| failure(&error))?.explanation;
        if explanation.verdict == Verdict::NoMatch {
            let message = format!("no machine can build '{derivation}': {}", obstacles(&explanation));
            return Err(CommandError::new(ExitStatus::NoMatch, message));
        }
    }
    Ok(())
}

fn challenge(
    pool: &Pool,
    derivation: &StorePath,
    args: &Args,
    cancel: &Cancel,
    messages: &File,
) -> Result<Challenged, BuildError> {
    // The progress of a machine is that of its own transfers.
    let mut reporters: BTreeMap<String, Reporter<'_>> = BTreeMap::new();
    let arguments = HookArguments::without_limits(&own_system());
    let reporter = || Reporter::new(&arguments, messages).in_lines();
    let challenge = pool.challenge(derivation).cancel(cancel);
    let challenge = args.on.iter().fold(challenge, |challenge, name| challenge.on(name));
    let challenge = args.rounds.into_iter().fold(challenge, |challenge, rounds| challenge.rounds(rounds));
    let prefix = |machine: &str| if machine.is_empty() { String::new() } else { format!("{machine}: ") };
    challenge
        .log(|machine| Box::new(PrefixedLog::new(prefix(machine))))
        .on_event(|machine: &str, event: &Event<'_>| {
            reporters.entry(machine.to_owned()).or_insert_with(reporter).observe(event);
        })
        .run()
}

/// Prints the comparison for people, and what diffoscope says.
fn print(challenged: &Challenged, cancel: &Cancel) -> io::Result<()> {
    let mut out = io::stdout().lock();
    report::write(challenged, &mut out)?;
    out.flush()?;
    for comparison in challenged.outputs.values() {
        for difference in &comparison.differences {
            let copies = [difference.first, difference.second].map(|index| challenged.copies.get(index));
            let [Some(first), Some(second)] = copies else { continue };
            let paths = [first, second].map(|copy| copy.path(&comparison.path));
            match run_diffoscope(&paths, cancel) {
                // It ends with 1 if they differ.
                Ok(Some(status)) if matches!(status.code(), Some(0 | 1)) => {}
                Ok(Some(status)) => warn!("diffoscope has failed: {status}"),
                Ok(None) => {
                    warn!("diffoscope was ended, because of a signal");
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    info!("install diffoscope to see how the contents differ");
                    return Ok(());
                }
                Err(error) => warn!("cannot run diffoscope: {error}"),
            }
        }
    }
    Ok(())
}

/// Shows how two copies differ. `None`: the challenge was cancelled.
fn run_diffoscope(paths: &[PathBuf], cancel: &Cancel) -> io::Result<Option<ProcessStatus>> {
    // The times of the directories of a copy depend on its download.
    let arguments = ["--exclude-directory-metadata=yes", "--"];
    let mut diffoscope = Command::new(DIFFOSCOPE).args(arguments).args(paths).stdin(Stdio::null()).spawn()?;
    while !cancel.is_cancelled() {
        if let Some(status) = diffoscope.try_wait()? {
            return Ok(Some(status));
        }
        cancel.scope(|| cancel::sleep(POLL_INTERVAL));
    }
    diffoscope.kill()?;
    diffoscope.wait()?;
    Ok(None)
}
