//! The arguments and options of a command, for its manual page, from the definition of the command line.

use clap::{Arg, ArgAction, Command};

use super::page::Page;

/// Adds the section of the arguments and options.
pub fn describe(command: &Command, page: &mut Page) {
    page.section("OPTIONS");
    let (positional, options): (Vec<&Arg>, Vec<&Arg>) = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set())
        .partition(|argument| argument.is_positional());
    for argument in positional.into_iter().chain(options) {
        page.item(&term(argument), &meaning(argument));
    }
}

/// Returns the names of an argument, with its value.
fn term(argument: &Arg) -> String {
    let values: Vec<&str> = argument.get_value_names().unwrap_or_default().iter().map(|name| name.as_str()).collect();
    let value = values.join(" ");
    if argument.is_positional() {
        let many = if argument.get_num_args().is_some_and(|range| range.max_values() > 1) { "..." } else { "" };
        return format!("*{value}*{many}");
    }
    let short = argument.get_short().map(|short| format!("`-{short}`"));
    let long = argument.get_long().map(|long| format!("`--{long}`"));
    let names = short.into_iter().chain(long).collect::<Vec<_>>().join(", ");
    match argument.get_num_args() {
        Some(range) if range.takes_values() && range.min_values() == 0 => format!("{names}[=*{value}*]"),
        Some(range) if range.takes_values() => format!("{names} *{value}*"),
        _ => names,
    }
}

fn meaning(argument: &Arg) -> String {
    let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut text = help.split_whitespace().collect::<Vec<_>>().join(" ");
    if !text.ends_with('.') {
        text.push('.');
    }
    let takes_value = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append);
    let possible: Vec<String> =
        argument.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    if takes_value && !possible.is_empty() {
        text.push_str(&format!(" One of {}.", possible.join(", ")));
    }
    let defaults: Vec<String> =
        argument.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    if takes_value && !defaults.is_empty() {
        text.push_str(&format!(" Default: {}.", defaults.join(", ")));
    }
    text
}
