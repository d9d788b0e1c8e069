//! Files of known hosts: the host keys that OpenSSH has recorded for a host.
//!
//! The format is that of sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT": patterns separated by commas, or a hashed name
//! (`|1|SALT|HMAC-SHA1`), then the key. Lines with `@cert-authority` do not contain a host's own key and are skipped; a
//! `@revoked` key is not returned. Invalid lines are skipped, as OpenSSH does. The result names the skipped lines for the
//! host.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

use super::HostKey;

/// The keys of a host in a file of known hosts.
#[derive(Debug, Default)]
pub struct KnownHosts {
    pub keys: Vec<HostKey>,
    /// Why other lines for the host were skipped.
    pub passed_over: Vec<String>,
}

/// Returns the keys in a file of known hosts for `host`, which may be `NAME`, `NAME:PORT` or `[NAME]:PORT`.
pub fn known_hosts(text: &str, host: &str) -> KnownHosts {
    let name = canonical(host);
    let mut known = KnownHosts::default();
    let mut revoked = Vec::new();
    for (number, line) in (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.starts_with('#')) {
        let (marker, line) = match line.strip_prefix('@') {
            Some(rest) => rest.split_once([' ', '\t']).unwrap_or((rest, "")),
            None => ("", line),
        };
        let Some((hosts, key)) = line.trim_start().split_once([' ', '\t']) else { continue };
        if !matches(hosts, &name) {
            continue;
        }
        // A key of a type that cannot be pinned does not prevent the others.
        let mut pass_over = |why: &str| known.passed_over.push(format!("line {number}: {why}"));
        match (marker, HostKey::parse(key)) {
            ("", Ok(key)) if !known.keys.contains(&key) => known.keys.push(key),
            ("", Ok(_)) => {}
            ("", Err(error)) => pass_over(&error.to_string()),
            ("revoked", Ok(key)) => {
                pass_over("a key that is revoked");
                revoked.push(key);
            }
            ("cert-authority", _) => pass_over("certificates are not supported"),
            _ => {}
        }
    }
    known.keys.retain(|key| !revoked.contains(key));
    known
}

/// Returns the name under which OpenSSH records a host: with its port only if that is not 22.
fn canonical(host: &str) -> String {
    let host = host.to_lowercase();
    let split = match host.strip_prefix('[') {
        Some(rest) => rest.split_once("]:"),
        None => host.split_once(':').filter(|(_, port)| !port.contains(':')),
    };
    match split {
        Some((name, "22")) => name.to_owned(),
        Some((name, port)) => format!("[{name}]:{port}"),
        None => host.trim_matches(['[', ']']).to_owned(),
    }
}

/// Returns whether the first field of a line matches `name`.
fn matches(hosts: &str, name: &str) -> bool {
    if let Some(hashed) = hosts.strip_prefix("|1|") {
        let decoded = hashed.split_once('|').map(|(salt, hash)| (STANDARD.decode(salt), STANDARD.decode(hash)));
        return matches!(decoded, Some((Ok(salt), Ok(hash))) if hash == hmac_sha1(&salt, name.as_bytes()));
    }
    let mut matched = false;
    for pattern in hosts.split(',').map(str::to_lowercase) {
        match pattern.strip_prefix('!') {
            Some(pattern) if glob(pattern.as_bytes(), name.as_bytes()) => return false,
            Some(_) => {}
            None => matched = matched || glob(pattern.as_bytes(), name.as_bytes()),
        }
    }
    matched
}

/// Returns whether `text` matches a pattern with `*` and `?`.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    let mut star = None;
    while from < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[from] => {
                at += 1;
                from += 1;
            }
            _ => match star {
                Some((position, taken)) => {
                    star = Some((position, taken + 1));
                    (at, from) = (position + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

/// Computes HMAC (RFC 2104) with SHA-1.
fn hmac_sha1(key: &[u8], text: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 64;
    let mut block = [0; BLOCK];
    match key.len() > BLOCK {
        true => block[..20].copy_from_slice(&Sha1::digest(key)),
        false => block[..key.len()].copy_from_slice(key),
    }
    let pad = |byte: u8| block.map(|key| key ^ byte);
    let inner = Sha1::new().chain_update(pad(0x36)).chain_update(text).finalize();
    Sha1::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}
