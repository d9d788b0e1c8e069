//! The texts of `--help` and `--version`, in the form of the GNU Coding Standards (section "Command-Line Interfaces").

use clap::{Command, CommandFactory};

use super::CommandLine;
use super::groups;
use crate::exit::ExitStatus;

/// For `--version`; `build.rs` finds the version with its commit, and the versions of the compiler and libraries.
const VERSION_TEXT: &str = concat!(
    env!("OFFLOAD_VERSION"),
    "\n\
     Copyright (C) 2026 the authors of offload\n\
     License GPLv3+: GNU GPL version 3 or later <https://gnu.org/licenses/gpl.html>.\n\
     This is free software: you are free to change and redistribute it.\n\
     There is NO WARRANTY, to the extent permitted by law.\n\n\
     Built by ",
    env!("OFFLOAD_COMPILER"),
    ".\nIncludes ",
    env!("OFFLOAD_C_CODE"),
    ".\nlibgcrypt, OpenSSL and zlib are those of the system."
);

/// The order: usage, description, arguments.
const HELP_TEMPLATE: &str = "{usage-heading} {usage}\n{about-with-newline}\n{all-args}{after-help}";

/// The order for the whole program, whose commands come in groups.
const MAIN_TEMPLATE: &str = "{usage-heading} {usage}\n{about-with-newline}{before-help}Options:\n{options}{after-help}";

/// The width in columns; narrower than a terminal, and the same everywhere.
const HELP_WIDTH: usize = 79;

/// Returns the definition of the whole command line.
pub fn definition() -> Command {
    let command = CommandLine::command().version(VERSION_TEXT).help_template(HELP_TEMPLATE).term_width(HELP_WIDTH);
    let own = format!(
        "With four arguments this is the build hook, which guix-daemon runs. 'offload COMMAND --help' describes a \
         command.\n\n{}\n\n{}",
        statuses(),
        closing()
    );
    let groups = groups::list(&command, HELP_WIDTH);
    command.before_help(groups).help_template(MAIN_TEMPLATE).after_help(own).mut_subcommands(|subcommand| {
        let own = subcommand.get_after_help().map(|text| format!("{text}\n\n")).unwrap_or_default();
        subcommand.help_template(HELP_TEMPLATE).term_width(HELP_WIDTH).after_help(format!("{own}{}", closing()))
    })
}

fn statuses() -> String {
    let lines = ExitStatus::ALL.iter().map(|status| format!("\n  {:<5}{}", status.code(), status.meaning()));
    format!("Exit status:{}", lines.collect::<String>())
}

/// Returns the contact. `Cargo.toml` will have a home page when the project has one.
fn closing() -> String {
    let bugs = "Report bugs to the distributor of this program, with the output of 'offload --version'.";
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
    fn each_command_is_in_one_group() {
        let definition = definition();
        let mut known: Vec<&str> =
            definition.get_subcommands().filter(|command| !command.is_hide_set()).map(Command::get_name).collect();
        let mut listed: Vec<&str> = groups::GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        known.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, known);
    }

    #[test]
    fn the_version_has_the_form_of_gnu() {
        let lines: Vec<String> = definition().render_version().lines().map(str::to_owned).collect();
        assert!(lines[0].starts_with(concat!("offload ", env!("CARGO_PKG_VERSION"))), "{lines:?}");
        assert!(lines[1].starts_with("Copyright (C) "), "{lines:?}");
        assert!(lines[2].starts_with("License GPLv3+"), "{lines:?}");
        assert!(lines.iter().any(|line| line.starts_with("Built by rustc 1.")), "{lines:?}");
        let included = lines.iter().find(|line| line.starts_with("Includes ")).unwrap();
        for package in ["libsqlite3-sys 0.", "libssh2-sys 0.", "lua-src "] {
            assert!(included.contains(package), "{included}");
        }
    }
}
