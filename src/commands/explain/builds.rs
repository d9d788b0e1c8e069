//! The builds to explain: derivations, outputs, and lists of them on standard input.
//!
//! A list is what `guix build -d` or `guix build --dry-run` prints: each word that is a derivation in the store counts,
//! and all other text is skipped.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::BufRead;
use std::path::PathBuf;

use crate::commands::failure::CommandError;
use crate::commands::selection::is_machine_file;
use crate::error::with_causes;
use crate::exit::ExitStatus;
use crate::hook::Request;
use crate::local::{Database, Directories, read_derivation};
use crate::store::path::StorePath;

/// The word for standard input.
pub const STANDARD_INPUT: &str = "-";

/// One positional argument.
#[derive(Clone, Debug)]
pub enum Word {
    /// A derivation, an output, or `-`.
    Build(String),
    File(PathBuf),
}

/// Reads a positional argument.
pub fn word(word: OsString) -> Word {
    match word.to_str() {
        Some(text) if text.ends_with(".drv") || is_store_item(text) || !is_machine_file(&word) => {
            Word::Build(text.to_owned())
        }
        _ => Word::File(word.into()),
    }
}

/// Returns whether a word names an item of some store, such as `/gnu/store/…-hello-2.12`.
fn is_store_item(word: &str) -> bool {
    let hash = word.rsplit('/').next().and_then(|base| base.split_once('-')).map(|(hash, _)| hash);
    let is_hash = |hash: &str| hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_alphanumeric());
    word.starts_with('/') && !word.ends_with(".lua") && hash.is_some_and(is_hash)
}

/// Returns the requests of the daemon for these builds, each once.
pub fn requests(
    words: &[Word],
    directories: &Directories,
    input: &mut dyn BufRead,
) -> Result<Vec<Request>, CommandError> {
    let mut derivations = Vec::new();
    for word in words {
        match word {
            Word::File(_) => {}
            Word::Build(word) if word == STANDARD_INPUT => derivations.extend(listed(directories, input)?),
            Word::Build(word) => derivations.push(derivation(word, directories)?),
        }
    }
    let mut known = BTreeSet::new();
    derivations.retain(|derivation| known.insert(derivation.clone()));
    derivations.into_iter().map(|derivation| request(derivation, directories)).collect()
}

fn request(derivation: StorePath, directories: &Directories) -> Result<Request, CommandError> {
    let read =
        read_derivation(&directories.store, &derivation).map_err(|error| CommandError::failure(with_causes(&error)))?;
    let features = read.required_features();
    Ok(Request { wants_local: true, system: read.system, derivation, features })
}

/// Returns the derivations in a list.
fn listed(directories: &Directories, input: &mut dyn BufRead) -> Result<Vec<StorePath>, CommandError> {
    let mut derivations = Vec::new();
    for line in input.lines() {
        let line = line.map_err(|cause| CommandError::failure(format!("cannot read the standard input: {cause}")))?;
        let paths = line.split_whitespace().filter_map(|word| {
            StorePath::parse(&directories.store, word.as_bytes()).ok().filter(StorePath::is_derivation)
        });
        derivations.extend(paths);
    }
    match derivations.is_empty() {
        true => Err(CommandError::new(ExitStatus::Usage, "standard input has no derivation")),
        false => Ok(derivations),
    }
}

/// Returns the derivation that a word names: itself, or that of an output.
fn derivation(word: &str, directories: &Directories) -> Result<StorePath, CommandError> {
    let usage = |message: String| CommandError::new(ExitStatus::Usage, message);
    if !word.contains('/') && !word.ends_with(".drv") {
        let message = format!(
            "'{word}' is neither a derivation, which ends in '.drv', nor a machine file, which contains a '/' or ends \
             in '.lua'"
        );
        let hint = "for a package: `guix build -d PACKAGE | offload explain -`".to_owned();
        return Err(usage(message).with_hint(Some(hint)));
    }
    let path = StorePath::parse(&directories.store, word.as_bytes()).map_err(CommandError::failure)?;
    if path.is_derivation() {
        return Ok(path);
    }
    let database = Database::open(&directories.database, &directories.store).map_err(CommandError::failure)?;
    let item = database.item(&path).map_err(CommandError::failure)?;
    item.and_then(|item| item.deriver).ok_or_else(|| {
        let hint = "for a package: `guix build -d PACKAGE | offload explain -`".to_owned();
        usage(format!("no derivation is known whose valid output is '{path}'")).with_hint(Some(hint))
    })
}
