//! The command line: it runs a subcommand, the build hook, or the real `guix`.
//!
//! Each file has a subcommand and one function. The build hook has no word of its own, since guix-daemon starts it with
//! only four arguments.

pub mod add;
pub mod annotations;
mod as_user;
mod atomic_file;
pub mod authorize;
pub mod build;
pub mod build_hook;
pub mod challenge;
pub mod complete;
mod contact;
pub mod convert;
mod daemon_user;
pub mod disconnect;
pub mod documents;
pub mod drain;
mod escape;
pub mod eval;
pub mod explain;
mod failure;
mod format;
mod groups;
pub mod guix_wrapper;
pub mod help;
pub mod history;
mod history_file;
pub mod init;
pub mod install;
pub mod log;
pub mod log_level;
mod machine_records;
mod machines;
mod main;
pub mod metrics;
pub mod on_event;
mod output_file;
mod pictures;
pub mod power;
mod prefixed_log;
mod progress;
mod records;
pub mod report;
mod reporter;
mod selection;
pub mod shared;
mod signals;
pub mod ssh;
mod started;
pub mod status;
mod table;
mod terminal;
pub mod test;

pub use main::main;

use clap::{Parser, Subcommand};

/// Run Guix builds on other machines: the build hook of guix-daemon, and its tools.
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
    /// Convert a machines.scm of Guix, or a machines file of Nix, into a machine file in Lua.
    Convert(convert::Args),
    /// Write annotations for machine files, for editors.
    Annotations(annotations::Args),
    /// Explain where a build would go, and why.
    Explain(explain::Args),
    /// Start machines on demand now.
    Start(power::Args),
    /// Stop machines on demand that no build uses.
    Stop(power::Args),
    /// Stop the machines on demand that are idle; for a timer.
    Reap(power::ReapArgs),
    /// Call `on_event` of the machine file with the events that wait. Hooks run this.
    #[command(hide = true)]
    OnEvent(on_event::Args),
    /// Give a machine no new builds for a while; its running builds continue.
    Drain(drain::DrainArgs),
    /// Give a drained machine builds again.
    Undrain(drain::UndrainArgs),
    /// End the connections to build machines that stay open for the next build.
    Disconnect(disconnect::Args),
    /// Set up the database of a pool that several heads share, or show what is in it.
    Shared(shared::Args),
    /// Evaluate the machine file, and print the pool or the errors.
    Eval(eval::Args),
    /// Set up this machine and a build machine, step by step; run it again to continue.
    Init(init::Args),
    /// Configure guix-daemon to use this program, on a machine with systemd.
    Install(install::InstallArgs),
    /// Undo `offload install`.
    Uninstall(install::UninstallArgs),
    /// Write manual pages, the manual, and completions for bash, zsh and fish.
    #[command(hide = true)]
    Documents(documents::Args),
    /// Print the candidates for a word of a command line, for the completions of shells.
    #[command(hide = true)]
    Complete(complete::Args),
    /// Check whether the build machines can be used, and print the fix of each problem.
    Test(test::Args),
    /// Fetch a machine's host key, and print an entry for the machine file, or add it there.
    Add(add::Args),
    /// Authorize the signing keys of this machine and of a build machine on each other.
    Authorize(authorize::Args),
    /// Show the status of the build machines: load, disk, builds in their slots, failures.
    Status(status::Args),
    /// List builds: where they went, how long their phases took, and why others were not offloaded.
    History(history::Args),
    /// Write a page about the builds of this machine: pool, timeline, waits, failures, transfers.
    Report(report::Args),
    /// Print the log of a build, of this machine or of a build machine.
    Log(log::Args),
    /// Change for some time what all build hooks log, or print it.
    LogLevel(log_level::Args),
    /// Print metrics for Prometheus.
    Metrics(metrics::Args),
    /// Build derivations on build machines now, on certain ones if they are named.
    Build(build::Args),
    /// Build on several machines, and compare the outputs, which do not enter the store.
    Challenge(challenge::Args),
    /// Open an SSH session with a build machine, with the keys of its entry in the machine file.
    Ssh(ssh::Args),
}
