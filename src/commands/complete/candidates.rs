//! What completes each argument: names of the machine file, files, or words of this program.
//!
//! An argument that is a path, or has a list of possible values, needs nothing here.

use std::ffi::OsStr;
use std::sync::Arc;

use clap::{Arg, Command, ValueHint};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter};

use super::names::NamesSource;
use crate::state::history::Outcome;

/// Adds to the definition what completes its arguments.
pub fn with_candidates(definition: Command, names: &Arc<NamesSource>) -> Command {
    definition.mut_subcommands(|command| {
        let name = command.get_name().to_owned();
        command.mut_args(|argument| with_completer(&name, argument, names))
    })
}

fn with_completer(command: &str, argument: Arg, names: &Arc<NamesSource>) -> Arg {
    let id = argument.get_id().as_str().to_owned();
    let names = Arc::clone(names);
    match (command, id.as_str()) {
        ("explain", "words") | ("build" | "challenge", "derivations") | ("log", "derivation") => {
            argument.value_hint(ValueHint::AnyPath)
        }
        (_, "words") => argument.add(ArgValueCompleter::new(move |word: &OsStr| {
            let mut found = machines(&names, word);
            if !word.is_empty() || found.is_empty() {
                found.extend(machine_files(word));
            }
            found
        })),
        ("ssh", "name") | (_, "on" | "machine") => {
            argument.add(ArgValueCompleter::new(move |word: &OsStr| machines(&names, word)))
        }
        (_, "system") => argument.add(ArgValueCompleter::new(move |word: &OsStr| among(&names.get().systems, word))),
        (_, "features") => argument.add(ArgValueCompleter::new(move |word: &OsStr| among(&names.get().features, word))),
        (_, "outcome") => argument
            .add(ArgValueCompleter::new(|word: &OsStr| among(Outcome::ALL.iter().map(|outcome| outcome.word()), word))),
        _ => argument,
    }
}

fn machines(names: &NamesSource, word: &OsStr) -> Vec<CompletionCandidate> {
    let matching = names.get().machines.iter().filter(|(name, _)| begins_with(name, word));
    matching.map(|(name, systems)| CompletionCandidate::new(name).help(Some(systems.clone().into()))).collect()
}

/// Returns the machine files that a positional argument may be, and directories.
fn machine_files(word: &OsStr) -> Vec<CompletionCandidate> {
    PathCompleter::file().filter(|path| path.extension().is_some_and(|end| end == "lua")).complete(word)
}

fn among(words: impl IntoIterator<Item = impl AsRef<str>>, word: &OsStr) -> Vec<CompletionCandidate> {
    let words = words.into_iter().filter(|one| begins_with(one.as_ref(), word));
    words.map(|one| CompletionCandidate::new(one.as_ref().to_owned())).collect()
}

fn begins_with(name: &str, word: &OsStr) -> bool {
    name.as_bytes().starts_with(word.as_encoded_bytes())
}
