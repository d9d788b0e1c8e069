//! `offload complete INDEX -- WORD…`: prints the candidates for the word with this index, for the completions of bash, zsh
//! and fish.
//!
//! Each line has a candidate and, after a tab, its meaning. Commands, options and files come from the definition of the
//! command line. Names of machines, system types and features come from the machine file: the one that the words name, or
//! the default one. Only a word that needs it evaluates it ([`names`]).
//!
//! Nothing is ever reported: without a usable machine file there are no names. The scripts of the shells are the files
//! of this folder; they and the program come together, so that this form is theirs alone.

mod candidates;
mod names;

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Command;
use clap_complete::engine;

use super::failure::CommandResult;
use super::selection::is_machine_file;
use super::terminal::plain;
use crate::engine::Engine;
use crate::exit::ExitStatus;
use names::{Names, NamesSource};

/// The scripts, with their places below the directory of all documents.
pub const SCRIPTS: [(&str, &str); 3] = [
    ("share/bash-completion/completions/offload", include_str!("complete/offload.bash")),
    ("share/zsh/site-functions/_offload", include_str!("complete/_offload")),
    ("share/fish/vendor_completions.d/offload.fish", include_str!("complete/offload.fish")),
];

/// The option that names the machine file.
const MACHINE_FILE_OPTION: &str = "--machine-file";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The index of the word to complete; the name of the program has the index 0.
    #[arg(required_unless_present = "names_of")]
    index: Option<usize>,
    /// The words of the command line.
    #[arg(last = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
    /// Print the names in this machine file instead, in JSON.
    #[arg(long, value_name = "FILE", conflicts_with = "index")]
    names_of: Option<PathBuf>,
}

/// Prints the candidates. `definition` is that of the whole command line.
pub fn run(args: &Args, definition: Command, engine: &Engine, out: &mut dyn Write) -> CommandResult {
    // A shell that does not read the candidates has ended.
    let _ = match &args.names_of {
        Some(file) => serde_json::to_writer(out, &Names::read(file, engine)).map_err(io::Error::from),
        None => write(args, definition, engine, out),
    };
    Ok(ExitStatus::Success)
}

fn write(args: &Args, definition: Command, engine: &Engine, out: &mut dyn Write) -> io::Result<()> {
    let index = args.index.unwrap_or_default();
    let mut words = args.words.clone();
    // fish passes no empty word.
    if words.len() == index {
        words.push(OsString::new());
    }
    let names = NamesSource::new(named_file(&words, index), engine);
    let mut definition = candidates::with_candidates(definition, &Arc::new(names));
    let found = engine::complete(&mut definition, words.clone(), index, env::current_dir().ok().as_deref())?;
    let is_option = |value: &str| value.starts_with('-');
    let wants_option = words.get(index).is_some_and(|word| word.as_encoded_bytes().starts_with(b"-"));
    let has_others = found.iter().any(|one| one.get_value().to_str().is_some_and(|value| !is_option(value)));
    for candidate in found {
        // A name that is not UTF-8, or has a line break, cannot be written.
        let Some(value) = candidate.get_value().to_str().filter(|value| *value == plain(value)) else { continue };
        if is_option(value) && has_others && !wants_option {
            continue;
        }
        let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
        writeln!(out, "{value}\t{}", plain(help.lines().next().unwrap_or_default()))?;
    }
    out.flush()
}

/// Returns the machine file that the words name: with the option, or as an argument. The word with this index is not
/// complete.
fn named_file(words: &[OsString], index: usize) -> Option<&Path> {
    let complete = words.iter().enumerate().filter(|(at, _)| *at != index);
    let others: Vec<&OsStr> = complete.map(|(_, word)| word.as_os_str()).collect();
    let mut named = None;
    for (at, &word) in others.iter().enumerate().skip(1) {
        if word == MACHINE_FILE_OPTION {
            named = others.get(at + 1).copied().or(named);
        } else if let Some(value) = word.to_str().and_then(|word| word.strip_prefix("--machine-file=")) {
            named = Some(OsStr::new(value));
        } else if named.is_none() && word.as_encoded_bytes().ends_with(b".lua") && is_machine_file(word) {
            named = Some(word);
        }
    }
    named.map(Path::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_name_the_machine_file() {
        for (line, index, expected) in [
            ("offload drain b", 2, None),
            ("offload drain --machine-file x b", 4, Some("x")),
            ("offload drain --machine-file=x b", 3, Some("x")),
            ("offload drain b --machine-file x", 2, Some("x")),
            ("offload drain ./p.lua b", 3, Some("./p.lua")),
            ("offload drain ./p.lua --machine-file x b", 5, Some("x")),
            // The word that is being written.
            ("offload drain ./p.lua", 2, None),
            ("offload drain --machine-file x", 3, None),
            ("x.lua drain b", 2, None),
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(named_file(&words, index), expected.map(Path::new), "{line}");
        }
    }
}
