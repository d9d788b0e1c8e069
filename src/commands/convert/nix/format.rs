//! Distinguishes Nix's files: a `machines` file, a `nix.conf` whose setting `builders` has the machines, or the file in TOML that
//! Lix has instead of a `machines` file.
//!
//! `nix.conf` (the Nix manual, "nix.conf") has lines `NAME = VALUE` and `include FILE`. White space around `=` is required, and no
//! URI is a lone `=`. So a `=` as the second word means a `nix.conf`.

use std::borrow::Cow;
use std::str;

use super::super::{ConvertError, Problem};

/// The settings that have machines.
const BUILDERS: [&str; 2] = ["builders", "extra-builders"];

/// Returns the lines with machines. Each keeps its line and column in `text`; the rest becomes blanks.
pub fn machine_lines<'a>(file: &str, text: &'a [u8]) -> Result<Cow<'a, [u8]>, ConvertError> {
    let lines = || text.split(|&byte| byte == b'\n');
    let problem = |line: Option<usize>, message: &str| {
        let line = line.and_then(|line| u32::try_from(line + 1).ok());
        Err(ConvertError::InFile(vec![Problem {
            file: file.to_owned(),
            line,
            column: None,
            message: message.to_owned(),
        }]))
    };
    if let Some(line) = lines().position(is_toml) {
        let message = "this is TOML, which Lix reads, and cannot be converted; write a line for each machine, as Nix has them: \
                       URI SYSTEMS SSH-KEY MAX-JOBS SPEED-FACTOR FEATURES MANDATORY-FEATURES HOST-KEY";
        return problem(Some(line), message);
    }
    if !lines().any(|line| setting(line).is_some()) {
        return Ok(Cow::Borrowed(text));
    }
    let mut values = Vec::with_capacity(text.len());
    let mut is_found = false;
    for line in lines() {
        let value = setting(line).filter(|(name, _)| BUILDERS.contains(name)).map(|(_, value)| value);
        is_found |= value.is_some();
        let start = value.unwrap_or(line.len());
        values.extend(line[..start].iter().map(|_| b' '));
        values.extend(&line[start..]);
        values.push(b'\n');
    }
    if !is_found {
        return problem(None, "this is a nix.conf without 'builders': Nix takes the machines from /etc/nix/machines");
    }
    Ok(Cow::Owned(values))
}

/// Returns whether builders fetch substitutes, if a `nix.conf` says so. The last of its lines counts.
pub fn builders_use_substitutes(text: &[u8]) -> Option<bool> {
    let value = text.split(|&byte| byte == b'\n').rev().find_map(|line| {
        let (_, start) = setting(line).filter(|(name, _)| *name == "builders-use-substitutes")?;
        line[start..].split(|&byte| byte == b'#').next().map(<[u8]>::trim_ascii)
    })?;
    match value {
        b"true" => Some(true),
        b"false" => Some(false),
        _ => None,
    }
}

/// Returns the name of a setting in a line of a `nix.conf`, and the position of its value.
fn setting(line: &[u8]) -> Option<(&str, usize)> {
    let text = str::from_utf8(line.split(|&byte| byte == b'#').next()?).ok()?;
    let equals = text.find('=')?;
    let name = text[..equals].strip_suffix([' ', '\t'])?.trim();
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let value = &text[equals + 1..];
    (is_name(name) && (value.is_empty() || value.starts_with([' ', '\t', '\r']))).then_some((name, equals + 1))
}

/// Returns whether a line is the head of a table of machines in TOML, or the version of Lix's format.
fn is_toml(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    let is_version = matches!(setting(line), Some(("version", _)));
    line.starts_with(b"[machines")
        || line.starts_with(b"[[machines")
        || line.starts_with(b"machines.") && setting_of_table(line)
        || is_version
}

/// Returns whether a line is `machines.NAME.FIELD = VALUE`, not a machine whose host name begins with `machines.`.
fn setting_of_table(line: &[u8]) -> bool {
    line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty()).nth(1) == Some(b"=")
}
