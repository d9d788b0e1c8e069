//! The command line: which subcommand runs, or the build hook, or the real `guix`.
//!
//! A file each: a subcommand and one function. The build hook has no word of its own, since guix-daemon gives it four
//! arguments and nothing else.

pub mod add;
pub mod annotations;
mod as_user;
pub mod authorize;
pub mod build_hook;
pub mod convert;
pub mod documents;
pub mod drain;
pub mod eval;
pub mod explain;
mod failure;
pub mod guix_wrapper;
pub mod help;
pub mod install;
mod machines;
mod main;
pub mod status;
mod terminal;
pub mod test;

pub use main::main;

use clap::{Parser, Subcommand};

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
    Convert(convert::Args),
    /// Write the annotations for machine files where an editor finds them.
    Annotations(annotations::Args),
    /// Explain which machine a build would go to, and why.
    Explain(explain::Args),
    /// Give a machine no new builds for a while; those that run there go on.
    Drain(drain::DrainArgs),
    /// Give a machine builds again.
    Undrain(drain::UndrainArgs),
    /// Evaluate the machine file, and print what it says or what is wrong with it.
    Eval(eval::Args),
    /// Have guix-daemon use this program, on a machine with systemd.
    Install(install::InstallArgs),
    /// Undo what `offload install` did.
    Uninstall(install::UninstallArgs),
    /// Write manual pages and completions for bash, zsh and fish.
    #[command(hide = true)]
    Documents(documents::Args),
    /// Check whether the build machines can be used, and say what to do about those that cannot.
    Test(test::Args),
    /// Fetch a machine's host key, and print an entry for the machine file.
    Add(add::Args),
    /// Have this machine and a build machine accept each other's signatures.
    Authorize(authorize::Args),
    /// Show how the build machines are: load, disk, build slots and who has them, trouble.
    Status(status::Args),
}
