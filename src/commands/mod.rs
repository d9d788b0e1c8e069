//! The command line: which subcommand runs, or the build hook, or the real `guix`.
//!
//! A file each: a subcommand and one function. The build hook has no word of its own, since guix-daemon gives it four
//! arguments and nothing else.

pub mod add;
pub mod annotations;
pub mod authorize;
pub mod build_hook;
pub mod convert;
pub mod documents;
pub mod drain;
pub mod eval;
pub mod explain;
pub mod guix_wrapper;
pub mod help;
pub mod install;
mod machines;
pub mod status;
mod terminal;
pub mod test;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use env_logger::Target;

use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::hook::HookArguments;
use crate::local::Directories;
use crate::logging;
use crate::machine::Machine;
use crate::state::StateDirectory;
use crate::supervisor;

/// Have derivations built by other machines: the build hook of guix-daemon, and its tools.
#[derive(Debug, Parser)]
#[command(
    name = "offload",
    disable_help_subcommand = true,
    override_usage = "offload SYSTEM MAX-SILENT-TIME PRINT-BUILD-TRACE? BUILD-TIMEOUT\n  or:  offload COMMAND [ARGUMENT]..."
)]
pub struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Turn a machines.scm of Guix, or a machines file of Nix, into a machine file in Lua.
    Convert {
        /// The file to convert; the result goes to standard output.
        file: PathBuf,
    },
    /// Write the annotations for machine files where an editor finds them.
    Annotations {
        /// The directory of the machine file; without it they are printed.
        directory: Option<PathBuf>,
    },
    /// Explain which machine a build would go to, and why.
    Explain(explain::Args),
    /// Give a machine no new builds for a while; those that run there go on.
    Drain {
        /// Its name, or NAME:PORT.
        name: String,
        /// For how long, such as 90s, 30m, 2h or 1d; by default until `offload undrain`.
        #[arg(long = "for", value_name = "TIME", value_parser = drain::parse_time)]
        time: Option<Duration>,
        /// The machine file, if it is not the usual one.
        #[arg(long, value_name = "FILE")]
        machine_file: Option<PathBuf>,
    },
    /// Give a machine builds again.
    Undrain {
        /// Its name, or NAME:PORT.
        name: String,
        /// The machine file, if it is not the usual one.
        #[arg(long, value_name = "FILE")]
        machine_file: Option<PathBuf>,
    },
    /// Evaluate the machine file, and print what it says or what is wrong with it.
    Eval {
        /// The machine file, if it is not the usual one.
        file: Option<PathBuf>,
        /// The same, as an option.
        #[arg(long, value_name = "FILE", conflicts_with = "file")]
        machine_file: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Have guix-daemon use this program, on a machine with systemd.
    Install(install::InstallArgs),
    /// Undo what `offload install` did.
    Uninstall(install::UninstallArgs),
    /// Write manual pages and completions for bash, zsh and fish.
    #[command(hide = true)]
    Documents {
        /// The directory to put `share/man` and the like into.
        directory: PathBuf,
    },
    /// Check whether the build machines can be used, and say what to do about those that cannot.
    Test(test::Args),
    /// Fetch a machine's host key, and print an entry for the machine file.
    Add(add::Args),
    /// Have this machine and a build machine accept each other's signatures.
    Authorize(authorize::Args),
    /// Show how the build machines are: load, disk, build slots and who has them, trouble.
    Status(status::Args),
}

/// Runs the program with its arguments, the program's own name first.
///
/// Under the name `guix` only `offload` is served here; everything else goes to the real `guix`. A leading word
/// `offload` is what guix-daemon puts before the hook's arguments.
pub fn main(mut arguments: Vec<OsString>) -> ExitStatus {
    supervisor::serve_if_asked(&arguments);
    let argv0 = if arguments.is_empty() { OsString::from("offload") } else { arguments.remove(0) };
    let has_leading_word = arguments.first().is_some_and(|word| word == OsStr::new("offload"));
    if guix_wrapper::is_called_as_guix(&argv0) && !has_leading_word {
        eprintln!("guix: error: {}", guix_wrapper::exec_real_guix(&argv0, &arguments));
        return ExitStatus::Failure;
    }
    if has_leading_word {
        arguments.remove(0);
    }
    if is_build_hook(&arguments) {
        return build_hook::run(&arguments);
    }
    let arguments = [OsString::from("offload")].into_iter().chain(arguments);
    let parsed = help::definition().try_get_matches_from(arguments);
    match parsed.and_then(|matches| CommandLine::from_arg_matches(&matches)) {
        Ok(command_line) => {
            logging::start(Target::Stderr);
            run(command_line.command)
        }
        Err(error) => {
            // Help and version are errors to clap, and go to standard output.
            match error.print().and_then(|()| io::stdout().flush()) {
                _ if error.use_stderr() => ExitStatus::Usage,
                Ok(()) => ExitStatus::Success,
                Err(cause) => {
                    eprintln!("offload: error: cannot write to standard output: {cause}");
                    ExitStatus::Failure
                }
            }
        }
    }
}

fn run(command: Command) -> ExitStatus {
    let directories = match Directories::from_environment() {
        Ok(directories) => directories,
        Err(error) => {
            eprintln!("offload: error: {error}");
            return ExitStatus::Failure;
        }
    };
    let system = machines::own_system();
    let engine = Engine::new(directories, HookArguments::without_limits(&system));
    match command {
        Command::Eval { file, machine_file, json } => {
            let file = machines::machine_file(file.or(machine_file).as_deref(), &engine.directories);
            eval::run(&file, &engine.load_context(), &system, json, &mut io::stdout(), &mut io::stderr())
        }
        Command::Annotations { directory } => {
            annotations::run(directory.as_deref(), &mut io::stdout(), &mut io::stderr())
        }
        Command::Explain(arguments) => explain::run(&arguments, &engine),
        Command::Drain { name, time, machine_file } => {
            with_machines(machine_file.as_deref(), &engine, |machines, state| {
                drain::drain(&name, time, machines, state, &mut io::stderr())
            })
        }
        Command::Undrain { name, machine_file } => {
            with_machines(machine_file.as_deref(), &engine, |machines, state| {
                drain::undrain(&name, machines, state, &mut io::stderr())
            })
        }
        Command::Install(arguments) => install::install(&arguments, &engine, &mut io::stdout(), &mut io::stderr()),
        Command::Uninstall(arguments) => install::uninstall(&arguments, &mut io::stdout(), &mut io::stderr()),
        Command::Documents { directory } => documents::run(&directory, &mut io::stderr()),
        Command::Test(arguments) => test::run(&arguments, &engine),
        Command::Add(arguments) => add::run(&arguments, &engine, &mut io::stdout(), &mut io::stderr()),
        Command::Authorize(arguments) => authorize::run(&arguments, &engine),
        Command::Status(arguments) => status::run(&arguments, &engine),
        Command::Convert { file } => convert::run(&file, &mut io::stdout(), &mut io::stderr()),
    }
}

/// Calls `command` with the machines of the machine file and the state that hooks share.
fn with_machines(
    file: Option<&Path>,
    engine: &Engine,
    command: impl FnOnce(&[&Machine], &StateDirectory) -> ExitStatus,
) -> ExitStatus {
    match machines::load(file, engine) {
        Ok((_, pool)) => {
            let machines: Vec<&Machine> = pool.machines.iter().map(|entry| &entry.machine).collect();
            command(&machines, &engine.state)
        }
        Err(status) => status,
    }
}

/// Whether the arguments are those that the daemon gives: four, the first a system type, which has a hyphen in it, and
/// neither an option nor a subcommand. So a subcommand that is mistyped is not taken for one.
fn is_build_hook(arguments: &[OsString]) -> bool {
    let [first, _, _, _] = arguments else { return false };
    let is_subcommand = |word: &str| CommandLine::command().get_subcommands().any(|command| command.get_name() == word);
    first.to_str().is_some_and(|word| word.contains('-') && !word.starts_with('-') && !is_subcommand(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_arguments_are_the_build_hook() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(is_build_hook(&words("x86_64-linux 3600 1 0")));
        for line in ["--help", "-V", "convert machines.scm", "convert a b c", "drian b1 --for 2h", "x86_64-linux"] {
            assert!(!is_build_hook(&words(line)), "{line}");
        }
        assert!(!is_build_hook(&[]));
    }
}
