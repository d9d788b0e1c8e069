//! `offload disconnect [NAME…]`: ends the SSH connections that stay open for the next build. A build that uses one
//! continues, and the connection ends with it.
//!
//! Without a name, the machine file is not read, so the command also ends connections to machines that are no longer in
//! it.

use std::io::Write;
use std::path::Path;

use rustix::process::geteuid;

use super::failure::{CommandError, CommandResult};
use super::machines::load;
use super::selection::Selection;
use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::machine::Machine;
use crate::remote::owner::{self, Session};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
}

impl Args {
    /// Returns the machine file, if one is named.
    pub fn machine_file(&self) -> Option<&Path> {
        self.selection.machine_file()
    }
}

/// Ends the connections, and prints a line for each.
pub fn run(args: &Args, engine: &Engine, messages: &mut dyn Write) -> CommandResult {
    let mut lines = Vec::new();
    if args.selection.names().next().is_none() && args.machine_file().is_none() {
        lines.extend(sessions(engine, None)?.iter().filter_map(end));
        if lines.is_empty() {
            lines.push("no connection is open".to_owned());
        }
    } else {
        let (_, pool) = load(args.selection.one_machine_file()?, engine)?;
        for machine in args.selection.hosts(&pool)? {
            let ended: Vec<String> = sessions(engine, Some(machine))?.iter().filter_map(end).collect();
            match ended.is_empty() {
                true => lines.push(format!("{}: no connection is open", machine.address())),
                false => lines.extend(ended),
            }
        }
    }
    for line in lines {
        // If standard error cannot be written, no message can be printed.
        let _ = writeln!(messages, "{line}");
    }
    Ok(ExitStatus::Success)
}

fn sessions(engine: &Engine, machine: Option<&Machine>) -> Result<Vec<Session>, CommandError> {
    let directory = engine.state.persist_directory();
    owner::sessions(&directory, machine).map_err(|error| {
        let message = format!("cannot read '{}': {error}", directory.display());
        let hint = (!geteuid().is_root()).then(|| "run this command as root".to_owned());
        CommandError::failure(message).with_hint(hint)
    })
}

/// Ends a session. Returns what became of it, or `None` if it has ended meanwhile.
fn end(session: &Session) -> Option<String> {
    let (machine, streams) = (&session.report.machine, session.report.streams);
    session.retire().then(|| match streams {
        0 => format!("{machine}: disconnected"),
        1 => format!("{machine}: disconnects at the end of 1 stream in use"),
        count => format!("{machine}: disconnects at the end of {count} streams in use"),
    })
}
