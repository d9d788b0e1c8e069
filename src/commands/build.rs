//! `offload build DRV…` builds derivations on build machines now, without a request of guix-daemon: on the best machine for
//! each, or on certain ones.
//!
//! A build here is one of the library ([`embed`](crate::embed)): slots, drained machines and limits count as for the hook,
//! this machine's daemon provides missing inputs, and imports the outputs. Derivations that do not need each other are
//! built at the same time, as many as the machines have slots.
//!
//! The paths of the outputs go to standard output, messages and logs to standard error. With `--json` the result is one
//! object: `version` (1) and `builds`, in the order of the arguments. Each has `derivation`, `outputs` (paths by their ids),
//! `result` (`built`, `valid`, `failed`, `timed out`, `no machine`, `inputs failed`, `this machine failed`, `cancelled` or
//! `skipped`), `machine`, `error`, `hint`, `kept` (the build directory on the machine), `attempts` (`machine`, `failure`),
//! `times` and `bytes`. With `--dry-run` it has `missing_outputs`, `missing_inputs` and `machines` instead of what follows
//! `result`, which is `would build`, `would wait` or `valid`.
//!
//! Where guix-daemon runs as another user, root's command has a process of that user build ([`run_as`]), as the hook would.
//! Root itself reads the derivations, and makes the roots.

mod batch;
pub(super) mod derivations;
pub(super) mod error;
mod options;
pub(super) mod plan;
mod report;
mod roots;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, memfd_create};

use self::batch::Batch;
use self::derivations::{STANDARD_INPUT, read_derivations};
use self::error::failure;
use self::options::BuildOptions;
use self::roots::OutputRoots;
use super::as_user;
use super::failure::{CommandError, CommandResult};
use super::machines::{MachineFileArgs, machine_file, own_system};
use super::signals;
use crate::embed::{self, LoadError, Pool};
use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::hook::descriptors::raise_open_files;
use crate::local::Directories;
use crate::permissions::User;
use crate::store::path::StorePath;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The derivations: file names that end in .drv, as `guix build -d` prints them; with -, standard input has them.
    #[arg(value_name = "DRV", required = true)]
    derivations: Vec<String>,
    #[command(flatten)]
    options: BuildOptions,
    /// Print what would be done, and contact no machine.
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Make FILE a symbolic link to the output, and register it as a root of the garbage collector. Several outputs get
    /// FILE-0, FILE-1 and so on.
    #[arg(long, short, value_name = "FILE")]
    root: Option<PathBuf>,
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

/// Builds.
pub fn run(args: &Args, engine: &Engine) -> CommandResult {
    let directories = &engine.directories;
    let derivations = read_derivations(&args.derivations, &directories.store, &mut io::stdin().lock())?;
    let pool = load_pool(args.machine_file(), directories)?;
    let plans = plan::plan(&pool, &derivations, &args.options)?;
    if args.dry_run {
        return plan::print(&plans, args.json);
    }
    raise_open_files().map_err(|_| {
        CommandError::failure("this process may open too few files")
            .with_hint(Some("run `ulimit -n 1024` in this shell first".to_owned()))
    })?;
    let mut roots = OutputRoots::protect(directories, &derivations, args.root.as_deref())?;
    let cancel = signals::cancel_on_signals();
    let needs = pool.needs(&derivations).map_err(|error| failure(&error))?;
    let results = Batch::new(&pool, &derivations, needs, &args.options, &cancel)?.run();
    let status = report::status_of_all(&results);
    if status == ExitStatus::Success {
        roots.link()?;
    }
    report::print(&plans, &results, args.json)?;
    Ok(status)
}

/// Builds in a process of `user`, the user that guix-daemon runs as.
pub fn run_as(user: &User, args: &Args, directories: &Directories) -> CommandResult {
    let derivations = read_derivations(&args.derivations, &directories.store, &mut io::stdin().lock())?;
    let build = || -> CommandResult {
        let input = input_of(&derivations)
            .map_err(|cause| CommandError::failure(format!("cannot write the derivations to memory: {cause}")))?;
        Ok(as_user::run(user, &arguments(args), input.into())?)
    };
    if args.dry_run {
        return build();
    }
    args.root.as_deref().map_or(Ok(()), |file| roots::check_for(user, file))?;
    let mut roots = OutputRoots::protect(directories, &derivations, args.root.as_deref())?;
    let status = build()?;
    if status == ExitStatus::Success {
        roots.link()?;
    }
    Ok(status)
}

/// Returns a file of derivations: the arguments of a process have no room for many of them.
fn input_of(derivations: &[StorePath]) -> io::Result<File> {
    let mut file = File::from(memfd_create("derivations", MemfdFlags::CLOEXEC)?);
    let lines: String = derivations.iter().map(|derivation| format!("{derivation}\n")).collect();
    file.write_all(lines.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

/// Returns the arguments for a process that reads derivations from standard input, and makes no roots.
fn arguments(args: &Args) -> Vec<OsString> {
    let flags = [
        ("--keep-failed", args.options.keep_failed),
        ("--dry-run", args.dry_run),
        ("--ignore-drain", args.options.ignore_drain),
        ("--json", args.json),
    ];
    let mut arguments: Vec<OsString> = vec!["build".into()];
    arguments.extend(flags.iter().filter(|(_, is_set)| *is_set).map(|(flag, _)| (*flag).into()));
    arguments.extend(args.options.on.iter().map(|name| format!("--on={name}").into()));
    if let Some(file) = args.machine_file() {
        arguments.extend(["--machine-file".into(), file.into()]);
    }
    arguments.push(STANDARD_INPUT.into());
    arguments
}

/// Loads the machine file.
pub fn load_pool(named: Option<&Path>, directories: &Directories) -> Result<Pool, CommandError> {
    let engine = embed::Engine::builder().system(own_system()).build().map_err(CommandError::failure)?;
    engine.load(machine_file(named, directories)).map_err(|error| match &error {
        LoadError::Invalid { report } => CommandError::report(ExitStatus::MachineFile, report),
        LoadError::Missing { .. } => CommandError::new(ExitStatus::MachineFile, &error),
    })
}
