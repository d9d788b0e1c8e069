//! `offload documents DIRECTORY`: writes manual pages and completions, from the definition of the command line, and the
//! manual.
//!
//! The files below DIRECTORY are where the GNU Coding Standards and the three shells expect them, below `/usr/local`,
//! in a distribution's package and in a profile of Guix. Packages run this; `offload install` writes the same files.

mod command_page;
mod machine_file;
mod manual;
mod markdown;
mod options;
mod page;

use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;

use super::complete::SCRIPTS;
use super::failure::{CommandError, CommandResult};
use super::groups::GROUPS;
use crate::exit::ExitStatus;
use page::Page;

/// A file, with its path below the directory.
pub struct Document {
    pub path: PathBuf,
    pub contents: Vec<u8>,
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory for `share/man`, `share/doc` and the completions.
    directory: PathBuf,
}

/// Writes all documents below the directory. `definition` is that of the whole command line.
pub fn run(args: &Args, definition: Command) -> CommandResult {
    let directory = &args.directory;
    let written = documents(definition).iter().try_for_each(|document| {
        let path = directory.join(&document.path);
        path.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&path, &document.contents))
            .map_err(|error| (path, error))
    });
    match written {
        Ok(()) => Ok(ExitStatus::Success),
        Err((path, error)) => Err(CommandError::failure(format!("{}: {error}", path.display()))),
    }
}

/// Returns all manual pages and completions for the command line with this definition, and the manual.
pub fn documents(definition: Command) -> Vec<Document> {
    let mut command = definition.version(env!("CARGO_PKG_VERSION"));
    command.build();
    let mut documents = vec![manual_page("offload.1", main_page(&command))];
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        let name = format!("offload-{}.1", subcommand.get_name());
        documents.push(manual_page(&name, subcommand_page(subcommand)));
    }
    documents.push(Document {
        path: Path::new("share/man/man5").join(machine_file::NAME),
        contents: machine_file::page().into_bytes(),
    });
    documents.extend(SCRIPTS.map(|(path, script)| Document { path: path.into(), contents: script.into() }));
    documents.extend(manual::pages().map(|(path, text)| Document { path, contents: text.into() }));
    documents
}

fn manual_page(name: &str, page: String) -> Document {
    Document { path: Path::new("share/man/man1").join(name), contents: page.into_bytes() }
}

/// Begins the page of a command.
fn begin(command: &Command) -> Page {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let mut page = Page::default();
    page.title(name, "1");
    page.section("NAME");
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    page.paragraph(&format!("{name} - {}", about.split_whitespace().collect::<Vec<_>>().join(" ")));
    page
}

fn main_page(command: &Command) -> String {
    let mut page = begin(command);
    page.section("SYNOPSIS");
    page.paragraph("`offload` *SYSTEM MAX-SILENT-TIME PRINT-BUILD-TRACE? BUILD-TIMEOUT*");
    page.paragraph("`offload` *COMMAND* [*ARGUMENT*]...");
    page.section("DESCRIPTION");
    page.paragraph(
        "guix-daemon asks `offload`, its build hook, whether a derivation can be built on another machine. `offload` chooses a \
         build machine from the machine file, sends the missing inputs over SSH, starts the build on the machine's daemon, \
         and retrieves the outputs. The daemon runs the first form; the commands are for administrators.",
    );
    page.paragraph(
        "Called through a link named `guix`, the program handles `guix offload` itself and runs the real `guix` for every other \
         command. The daemon uses it if its variable `GUIX` names the link. See `offload-install`(1).",
    );
    options::describe(command, &mut page);
    page.section("COMMANDS");
    for (heading, names) in GROUPS {
        page.subsection(heading);
        for name in names {
            let about = command.find_subcommand(name).and_then(Command::get_about);
            page.item(&format!("`offload-{name}`(1)"), &about.map(ToString::to_string).unwrap_or_default());
        }
    }
    page.section("RULES FOR ALL COMMANDS");
    page.blocks(&command_page::rules());
    page.section("EXIT STATUS");
    for status in ExitStatus::ALL {
        page.item(&format!("`{}`", status.code()), status.meaning());
    }
    page.section("ENVIRONMENT");
    for (name, meaning) in ENVIRONMENT {
        page.item(&format!("`{name}`"), meaning);
    }
    page.section("FILES");
    for (name, meaning) in FILES {
        page.item(&format!("*{name}*"), meaning);
    }
    page.section("SEE ALSO");
    page.paragraph(
        "`offload-machines.lua`(5), `guix-daemon`(1), and \"Using the Offload Facility\" in the manual of Guix.",
    );
    page.whole()
}

/// The environment variables; those of the hook belong into the daemon's environment.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    ("OFFLOAD_MACHINE_FILE", "the machine file, if it is not the default one"),
    (
        "OFFLOAD_LOG",
        "the log level: `error`, `warn`, `info` (the default), `debug`, `trace`, or by module: `offload::ssh=trace`",
    ),
    ("OFFLOAD_GUIX", "the real `guix`, if it is neither the first on `PATH` nor in a usual directory"),
    ("GUIX_CONFIGURATION_DIRECTORY", "as for guix-daemon; default */etc/guix*"),
    ("GUIX_STATE_DIRECTORY", "as for guix-daemon; default */var/guix*"),
    ("GUIX_DATABASE_DIRECTORY", "as for guix-daemon; default *db* in the state directory"),
    ("GUIX_LOG_DIRECTORY", "as for guix-daemon; default */var/log/guix*"),
    ("NIX_STORE_DIR, NIX_STORE", "as for guix-daemon; default */gnu/store*"),
];

const FILES: &[(&str, &str)] = &[
    ("/etc/guix/machines.lua", "the machine file, `offload-machines.lua`(5)"),
    (
        "/etc/guix/signing-key.sec",
        "signs the items that are sent to build machines, which must have authorized the public half",
    ),
    ("/etc/guix/acl", "the authorized keys, with those of the build machines"),
    ("/var/guix/offload", "the shared state: build slots, health, drained machines"),
];

/// The page of a command: what the manual says about it, and its options.
fn subcommand_page(command: &Command) -> String {
    let section = command_page::section(command.get_name()).unwrap_or_default();
    let mut page = begin(command);
    page.synopsis(&section.synopsis);
    section.describe(&mut page);
    options::describe(command, &mut page);
    section.conclude(&mut page);
    page.section("SEE ALSO");
    page.paragraph(
        "`offload`(1) for the rules of all commands and the exit statuses; `offload-machines.lua`(5); the whole manual in \
         */usr/share/doc/offload/manual*, or below another prefix",
    );
    page.whole()
}

#[cfg(test)]
mod tests;
