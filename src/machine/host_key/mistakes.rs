//! Recognizes a text that was pasted instead of a host key, such as the output of ssh-keyscan(1), a line of `known_hosts`
//! (sshd(8)), several `.pub` files, or a fingerprint.
//!
//! The result determines only the message and the hint. A key that a hint repeats has been checked.

use super::blob::decode;
use super::error::HostKeyError;
use crate::machine::{HostKey, HostKeyKind};

/// The longest part of a word that an error repeats, in characters.
const MAX_WORD: usize = 40;
/// The most keys that a hint repeats.
const MAX_KEYS: usize = 8;

/// Returns the reason why `text` is not a host key.
pub(super) fn find(text: &str) -> HostKeyError {
    // ssh-keyscan prints a comment for each key.
    let is_comment = |line: &&str| line.starts_with('#') || line.starts_with(';');
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let Some(line) = lines.iter().copied().find(|line| !is_comment(line)) else {
        return if lines.is_empty() { HostKeyError::Empty } else { HostKeyError::Comment };
    };
    if text.contains("PRIVATE KEY-----") {
        return HostKeyError::PrivateKey;
    }
    if let Some(marker) = line.split_ascii_whitespace().next().filter(|word| word.starts_with('@')) {
        return HostKeyError::Marked(shortened(marker));
    }
    if text.contains("BEGIN SSH2 PUBLIC KEY")
        || text.contains("BEGIN PUBLIC KEY")
        || text.contains("BEGIN RSA PUBLIC KEY")
    {
        return HostKeyError::OtherForm;
    }
    let keys = keys_in(text);
    match keys.as_slice() {
        [] => without_key(text, line, lines.len()),
        [key] => around(line, key),
        _ => HostKeyError::Several(keys),
    }
}

/// Returns the keys in a text in OpenSSH form, each once.
pub(super) fn keys_in(text: &str) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    let encoded =
        text.split(|c: char| !(c.is_ascii_alphanumeric() || "+/=".contains(c))).filter(|word| word.starts_with("AAAA"));
    for key in encoded.filter_map(|word| HostKey::from_blob(decode(word)?)) {
        let key = key.to_openssh();
        if keys.len() < MAX_KEYS && !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

/// Returns the error for a text with one key and other text.
fn around(line: &str, key: &str) -> HostKeyError {
    let mut words = line.split_ascii_whitespace();
    let first = words.next().unwrap_or_default();
    let key = key.to_owned();
    match words.next() {
        _ if first.starts_with("AAAA") => HostKeyError::NoType { key },
        // A key after the name of a type must have that type.
        Some(second)
            if second.starts_with("AAAA") && ["ssh-", "ecdsa-", "sk-"].iter().any(|begin| first.starts_with(begin)) =>
        {
            match HostKeyKind::from_name(first) {
                Some(_) => HostKeyError::Wrapped { key },
                None => HostKeyError::UnknownType(shortened(first)),
            }
        }
        Some(second) if HostKeyKind::from_name(second).is_some() => HostKeyError::KnownHostsLine { key: Some(key) },
        _ => HostKeyError::Wrapped { key },
    }
}

fn without_key(text: &str, line: &str, lines: usize) -> HostKeyError {
    let mut words = line.split_ascii_whitespace();
    let first = words.next().unwrap_or_default();
    let second = words.next().unwrap_or_default();
    let is_print = |word: &str| word.starts_with("SHA256:") || word.starts_with("MD5:") || is_hexadecimal(word);
    if line.split_ascii_whitespace().any(is_print) || line.contains(" SSHFP ") {
        HostKeyError::Fingerprint
    } else if text.contains("(public-key") {
        HostKeyError::SigningKey
    } else if HostKeyKind::from_name(second).is_some() {
        // The key is invalid too. Its error appears when the user has removed the host name.
        HostKeyError::KnownHostsLine { key: None }
    } else if let Some(key) = wrapped_in_base64(first) {
        HostKeyError::Wrapped { key }
    } else if lines > 1 {
        HostKeyError::Lines(lines)
    } else if first.starts_with(['/', '~']) || first.ends_with(".pub") {
        HostKeyError::FileName
    } else {
        HostKeyError::UnknownType(shortened(first))
    }
}

/// Returns the key in a word that is a whole line in base64, as Nix has it.
fn wrapped_in_base64(word: &str) -> Option<String> {
    let line = String::from_utf8(decode(word)?).ok()?;
    keys_in(&line).into_iter().next()
}

/// Returns whether a word is a fingerprint in the old form: `16:27:ac:…`.
fn is_hexadecimal(word: &str) -> bool {
    let is_byte = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    word.len() == 47 && word.split(':').all(is_byte)
}

fn shortened(word: &str) -> String {
    word.chars().take(MAX_WORD).collect()
}
