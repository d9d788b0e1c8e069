//! Nix's `machines` file, the value of its setting `builders`. A machine is a line of words with white space between them:
//!
//! ```text
//! URI  SYSTEMS  SSH-KEY  MAX-JOBS  SPEED-FACTOR  FEATURES  MANDATORY-FEATURES  HOST-KEY
//! ```
//!
//! The Nix manual describes it under "builders", and Nix's `libstore/machines.cc` reads it. Commas separate the parts of a
//! list. `-`, or the end of the line, means the default. `#` begins a comment, and `;` separates machines in a line. The host
//! key is the base64 form of a host key in OpenSSH form. A machine offers its mandatory features too, and takes only builds
//! that require all of them, which becomes an `accepts` function.
//!
//! If the file is a `nix.conf`, its settings `builders` and `builders-use-substitutes` are read (`format.rs`). Machines without SSH (`uri.rs`) and `@FILE`,
//! which includes another file, have no counterpart and are left out with a warning.

mod format;
mod uri;

use std::env::consts::ARCH;
use std::path::Path;
use std::str;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::error::{ConvertError, Problem};
use super::lua::{Document, Entry, Value, plain};
use crate::machine::Substitutes;
use crate::shell;
use uri::{ColumnError, SSH_PORT, Uri, Word};

const HEADER_LINES: [&str; 4] = [
    "Each machine must run guix-daemon, and the two must have authorized each other's signing keys; see",
    "'offload authorize'. Nix connects by means of ssh, and so honours ~/.ssh/config and $NIX_SSHOPTS: names, accounts,",
    "ports, keys and jump hosts that are set there must be given here.",
    "Fields that have their default are left out. Check it with 'offload eval'.",
];

/// Base64 with or without its padding, as Nix reads it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Returns the machine file for the text of a `machines` file.
pub fn document(file: &Path, text: &[u8]) -> Result<Document, ConvertError> {
    let name = file.to_string_lossy().into_owned();
    let use_substitutes = format::builders_use_substitutes(text);
    let text = &format::machine_lines(&name, text)?;
    let mut entries = Vec::new();
    let mut problems = Vec::new();
    for (number, line) in (1..).zip(text.split(|&byte| byte == b'\n')) {
        match line_entries(line) {
            Ok(machines) => entries.extend(machines.into_iter().map(|entry| Entry { line: Some(number), ..entry })),
            Err((column, message)) => {
                problems.push(Problem { file: name.clone(), line: Some(number), column: Some(column), message })
            }
        }
    }
    if let Some(is_used) = use_substitutes {
        let substitutes = if is_used { Substitutes::Always } else { Substitutes::Never };
        for entry in entries.iter_mut().filter(|entry| !entry.fields.is_empty()) {
            entry.set("substitutes", Value::Text(substitutes.name().to_owned()));
        }
    }
    match problems.is_empty() {
        true => Ok(Document::new(name, &HEADER_LINES, entries)),
        false => Err(ConvertError::InFile(problems)),
    }
}

fn line_entries(line: &[u8]) -> Result<Vec<Entry>, ColumnError> {
    // Comments can have any encoding.
    let line = line.split(|&byte| byte == b'#').next().unwrap_or_default();
    let line = str::from_utf8(line).map_err(|error| {
        let valid = String::from_utf8_lossy(&line[..error.valid_up_to()]);
        (column(&valid, valid.len()), "this is not UTF-8".to_owned())
    })?;
    let mut start = 0;
    let mut entries = Vec::new();
    for part in line.split(';') {
        let words = words(line, start, start + part.len());
        if let [first, ..] = words.as_slice() {
            entries.push(match first.text.strip_prefix('@') {
                Some(_) => included(part.trim()),
                None => machine(&words)?,
            });
        }
        start += part.len() + 1;
    }
    Ok(entries)
}

/// Returns the words between two positions of a line.
fn words(line: &str, start: usize, end: usize) -> Vec<Word<'_>> {
    let white = |c: char| c.is_ascii_whitespace();
    let mut words = Vec::new();
    let mut at = start;
    for text in line[start..end].split(white) {
        if !text.is_empty() {
            words.push(Word { text, column: column(line, at) });
        }
        at += text.len() + 1;
    }
    words
}

/// Returns the column of a position in a line, from 1.
fn column(line: &str, position: usize) -> u32 {
    u32::try_from(line[..position].chars().count()).unwrap_or(u32::MAX).saturating_add(1)
}

fn included(word: &str) -> Entry {
    let mut entry = Entry::default();
    entry.warn(format!("left out: '{word}' includes another file; convert that one too"));
    entry
}

fn machine(words: &[Word]) -> Result<Entry, ColumnError> {
    let set = |index: usize| words.get(index).copied().filter(|word| word.text != "-");
    let mut entry = Entry::default();
    let uri = set(0).ok_or_else(|| (words[0].column, "expected the URI of a machine, found '-'".to_owned()))?;
    let Some(mut uri) = Uri::parse(uri)? else {
        entry.warn(format!("left out: '{}' is no machine that is reached by SSH", uri.text));
        if ["local", "daemon", "auto"].contains(&uri.text.split('?').next().unwrap_or_default()) {
            entry.note("local_machine {} makes the head take part");
        }
        return Ok(entry);
    };

    entry.set("name", Value::Text(uri.host.clone()));
    if uri.port != SSH_PORT {
        entry.set("port", Value::Whole(uri.port.into()));
    }
    let user = uri.user.take().unwrap_or_else(|| {
        entry.note("it names no account: \"root\" is what ssh takes when root runs it");
        "root".to_owned()
    });
    entry.set("user", Value::Text(user));
    systems(&mut entry, set(1));
    host_key(&mut entry, set(7), &mut uri)?;
    private_key(&mut entry, set(2), &mut uri);
    if uri.take("compress").is_some_and(|value| ["true", "1", "yes"].contains(&value.as_str())) {
        entry.set("compression", Value::Text("zlib".to_owned()));
    }
    if let Some(word) = set(3) {
        let expected = || (word.column, format!("expected a number of jobs, found '{}'", plain(word.text)));
        entry.set_parallel_builds(word.text.parse::<u32>().map_err(|_| expected())?.into());
    }
    if let Some(word) = set(4) {
        let expected = || (word.column, format!("expected a speed factor, found '{}'", plain(word.text)));
        let speed: f64 =
            word.text.parse().ok().filter(|&speed| speed >= 0.0 && f64::is_finite(speed)).ok_or_else(expected)?;
        // Nix reads 0 as 1.
        entry.set_speed(if speed == 0.0 { 1.0 } else { speed });
    }
    let mandatory = set(6).map(|word| list(word.text)).unwrap_or_default();
    let mut features = set(5).map(|word| list(word.text)).unwrap_or_default();
    features.extend(mandatory.iter().filter(|feature| !features.contains(feature)).cloned().collect::<Vec<_>>());
    entry.set_features(features, mandatory);
    for (parameter, _) in &uri.parameters {
        entry.warn(format!("the parameter '{parameter}' of its URI has no counterpart"));
    }
    if let Some(word) = words.get(8) {
        entry.warn(format!("nothing is known of a ninth column: '{}'", word.text));
    }
    Ok(entry)
}

/// Returns the parts of a list, each once.
fn list(text: &str) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    for item in text.split(',').filter(|item| !item.is_empty()) {
        if !items.iter().any(|other| other == item) {
            items.push(item.to_owned());
        }
    }
    items
}

fn systems(entry: &mut Entry, word: Option<Word>) {
    let systems = match word {
        Some(word) => list(word.text),
        None => {
            entry.note("it names no system: the one of the machine where this was converted is taken");
            vec![own_system()]
        }
    };
    let mut converted: Vec<String> = Vec::new();
    for system in systems {
        let system = match system.as_str() {
            // Nix's word for builds that it does itself, without starting a program.
            "builtin" => {
                entry.warn("the system 'builtin' has no counterpart");
                continue;
            }
            "armv7l-linux" => {
                entry.note("Nix's armv7l-linux is armhf-linux in Guix");
                "armhf-linux".to_owned()
            }
            other => {
                if other.ends_with("-darwin") {
                    entry.warn(format!("Guix has no system '{other}'"));
                }
                system
            }
        };
        if !converted.contains(&system) {
            converted.push(system);
        }
    }
    entry.set("systems", Value::List(converted));
}

/// Returns the system type of this machine as Guix calls it.
fn own_system() -> String {
    let cpu = match ARCH {
        "x86" => "i686",
        "arm" => "armhf",
        "powerpc64" => "powerpc64le",
        other => other,
    };
    format!("{cpu}-linux")
}

/// Sets the host key from its column, else from the URI.
fn host_key(entry: &mut Entry, word: Option<Word>, uri: &mut Uri) -> Result<(), ColumnError> {
    let given = word.map(|word| (word.column, word.text.to_owned()));
    let given = match given {
        Some(given) => Some(given),
        None => uri.take("base64-ssh-public-host-key").map(|value| (uri.column, value)),
    };
    let Some((column, encoded)) = given else {
        let mut options = String::new();
        if uri.port != SSH_PORT {
            options += &format!("--port {} ", uri.port);
        }
        if let Some(Value::Text(user)) = entry.get("user") {
            options += &format!("--user {} ", shell::quote(user));
        }
        let host = shell::quote(&uri.host);
        entry.warn(format!("it has no host key, which is required: run 'offload add {options}{host}' to get it"));
        entry.set("host_key", Value::Missing);
        return Ok(());
    };
    let expected = || (column, "expected the host key in base64, such as 'base64 -w0' makes of a .pub file".to_owned());
    let decoded = BASE64.decode(&encoded).map_err(|_| expected())?;
    let mut keys = str::from_utf8(&decoded)
        .map_err(|_| expected())?
        .lines()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>();
    let key = keys.pop().ok_or_else(expected)?;
    if keys.is_empty() {
        entry.set("host_key", Value::Text(key));
    } else {
        keys.push(key);
        entry.set("host_key", Value::List(keys));
    }
    Ok(())
}

/// Sets the private key from its column, else from the URI. Without either, ssh tries the same files as `offload`.
fn private_key(entry: &mut Entry, word: Option<Word>, uri: &mut Uri) {
    let key = match word {
        Some(word) => Some(word.text.to_owned()),
        None => uri.take("ssh-key"),
    };
    let Some(key) = key else { return };
    if !key.starts_with('/') && !key.starts_with("~/") {
        entry.warn("its key is not an absolute file name, which is needed here");
    }
    entry.set("private_key", Value::Text(key));
}
