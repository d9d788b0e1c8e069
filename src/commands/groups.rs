//! The commands in groups, for `--help` and the manual page. clap has no groups of commands.

use clap::Command;
use textwrap::Options;

/// The commands in groups, in the order in which an administrator needs them.
pub const GROUPS: [(&str, &[&str]); 6] = [
    ("Set up", &["init", "add", "authorize", "convert", "annotations", "install", "uninstall"]),
    ("Every day", &["eval", "explain", "test", "status", "ssh"]),
    ("Builds and their records", &["history", "log", "report", "metrics"]),
    ("Maintenance", &["drain", "undrain", "disconnect", "log-level", "shared"]),
    ("Machines on demand", &["start", "stop", "reap"]),
    ("Builds by hand", &["build", "challenge"]),
];

/// The column of the meanings of commands.
const MEANING_COLUMN: usize = 15;

/// Returns the list of commands with their meanings, in groups.
pub fn list(command: &Command, width: usize) -> String {
    let indent = " ".repeat(MEANING_COLUMN);
    let mut text = String::new();
    for (heading, names) in GROUPS {
        text.push_str(&format!("\n{heading}:\n"));
        for name in names {
            let about = command.find_subcommand(name).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            let begin = format!("  {name:<width$}", width = MEANING_COLUMN - 2);
            let options = Options::new(width).initial_indent(&begin).subsequent_indent(&indent);
            text.push_str(&textwrap::fill(&about, options));
            text.push('\n');
        }
    }
    text
}
