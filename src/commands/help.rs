//! What `--help` and `--version` say, in the form that the GNU Coding Standards give them (section "Command-Line
//! Interfaces").

use clap::{Command, CommandFactory};

use super::CommandLine;
use crate::exit::ExitStatus;

/// For `--version`; `build.rs` finds the version with its commit, and what it is built from.
const VERSION: &str = concat!(
    env!("OFFLOAD_VERSION"),
    "\n\
     Copyright (C) 2026 the authors of offload\n\
     License GPLv3+: GNU GPL version 3 or later <https://gnu.org/licenses/gpl.html>.\n\
     This is free software: you are free to change and redistribute it.\n\
     There is NO WARRANTY, to the extent permitted by law.\n\n\
     Built by ",
    env!("OFFLOAD_BUILT"),
    ".\nlibgcrypt, OpenSSL and zlib are those of the system."
);

/// The order of things: how it is called, what it does, its arguments.
const TEMPLATE: &str = "{usage-heading} {usage}\n{about-with-newline}\n{all-args}{after-help}";

/// In columns; less than a terminal, and the same everywhere.
const WIDTH: usize = 79;

/// The definition of the whole command line.
pub fn definition() -> Command {
    let command = CommandLine::command().version(VERSION).help_template(TEMPLATE).term_width(WIDTH);
    let own = format!(
        "With four arguments this is the build hook, which guix-daemon runs. 'offload COMMAND --help' says more about a \
         command.\n\n{}\n\n{}",
        statuses(),
        closing()
    );
    command.after_help(own).mut_subcommands(|subcommand| {
        let own = subcommand.get_after_help().map(|text| format!("{text}\n\n")).unwrap_or_default();
        subcommand.help_template(TEMPLATE).term_width(WIDTH).after_help(format!("{own}{}", closing()))
    })
}

fn statuses() -> String {
    let lines = ExitStatus::ALL.iter().map(|status| format!("\n  {:<5}{}", status.code(), status.meaning()));
    format!("Exit status:{}", lines.collect::<String>())
}

/// Where to turn to. `Cargo.toml` has a home page as soon as the project has.
fn closing() -> String {
    let bugs = "Report bugs to whoever gave you this program, with what 'offload --version' says.";
    match env!("CARGO_PKG_HOMEPAGE") {
        "" => bugs.to_owned(),
        page => format!("{bugs}\noffload home page: <{page}>"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        definition().debug_assert();
    }

    #[test]
    fn the_version_is_said_as_in_all_of_gnu() {
        let lines: Vec<String> = definition().render_version().lines().map(str::to_owned).collect();
        assert!(lines[0].starts_with(concat!("offload ", env!("CARGO_PKG_VERSION"))), "{lines:?}");
        assert!(lines[1].starts_with("Copyright (C) "), "{lines:?}");
        assert!(lines[2].starts_with("License GPLv3+"), "{lines:?}");
        let built = lines.iter().find(|line| line.starts_with("Built by rustc 1.")).unwrap();
        for package in ["libsqlite3-sys 0.", "libssh2-sys 0.", "lua-src "] {
            assert!(built.contains(package), "{built}");
        }
    }
}
