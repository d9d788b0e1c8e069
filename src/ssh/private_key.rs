//! The private key that opens the account: which file, and whether it can be used, found out before anything is sent.
//!
//! Without a `private_key` in the machine file it is the first of `~/.ssh/id_ed25519`, `id_ecdsa` and `id_rsa` that
//! exists. A leading `~/` is the home directory that /etc/passwd gives the effective user; `HOME` only counts for a
//! user that is not listed there, since a daemon started by systemd has none.
//!
//! A file that belongs to the effective user and is accessible to others is refused, as OpenSSH refuses it. Read are
//! the form of OpenSSH (PROTOCOL.key in its source) and PEM (RFC 7468, RFC 1421 for the headers of an encrypted key).
//! Here only the outside is looked at; libssh2 takes the key itself apart.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::geteuid;
use zeroize::Zeroizing;

use super::error::Cause;
use super::host_key;

/// What OpenSSH calls its own form, at the beginning of the decoded file.
const OPENSSH_MAGIC: &[u8] = b"openssh-key-v1\0";
/// RSA keys of 16384 bits are about 13 KiB.
const MAX: u64 = 64 << 10;
const DEFAULT_NAMES: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

pub(super) struct PrivateKey {
    pub(super) path: PathBuf,
    pub(super) text: Zeroizing<String>,
    /// The line for `authorized_keys`, where the file tells it without the need for arithmetic.
    pub(super) public_key: Option<String>,
}

/// Finds, reads and checks the key.
pub(super) fn load(configured: Option<&Path>) -> Result<PrivateKey, Cause> {
    let path = match configured {
        Some(path) => match path.strip_prefix("~") {
            Ok(rest) => home_directory().ok_or(Cause::NoHome)?.join(rest),
            Err(_) => path.to_owned(),
        },
        None => first_default(&home_directory().ok_or(Cause::NoHome)?)?,
    };
    let text = read(&path)?;
    let public_key = inspect(&path, &text)?.or_else(|| public_key_beside(&path));
    Ok(PrivateKey { path, text, public_key })
}

fn first_default(home: &Path) -> Result<PathBuf, Cause> {
    let tried: Vec<PathBuf> = DEFAULT_NAMES.iter().map(|name| home.join(".ssh").join(name)).collect();
    tried.iter().find(|path| path.exists()).cloned().ok_or(Cause::NoPrivateKey { tried })
}

fn home_directory() -> Option<PathBuf> {
    let user = geteuid().as_raw();
    std::fs::read("/etc/passwd")
        .ok()
        .and_then(|passwd| home_in(&String::from_utf8_lossy(&passwd), user))
        .or_else(|| std::env::var_os("HOME").map(PathBuf::from))
}

fn home_in(passwd: &str, user: u32) -> Option<PathBuf> {
    passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2).is_some_and(|id| *id == user.to_string()))
        .and_then(|fields| fields.get(5).map(PathBuf::from))
        .filter(|home| home.is_absolute())
}

fn read(path: &Path) -> Result<Zeroizing<String>, Cause> {
    let unreadable = |error| Cause::PrivateKeyUnreadable { path: path.to_owned(), error };
    let not_a_key = |found: &str| Cause::NotAPrivateKey { path: path.to_owned(), found: found.to_owned() };
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Cause::PrivateKeyMissing { path: path.to_owned() },
        _ => unreadable(error),
    })?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(not_a_key("not a regular file"));
    }
    let mode = metadata.mode() & 0o7777;
    if metadata.uid() == geteuid().as_raw() && mode & 0o077 != 0 {
        return Err(Cause::PrivateKeyExposed { path: path.to_owned(), mode });
    }
    if metadata.len() > MAX {
        return Err(not_a_key("too large"));
    }
    // With room for all of it: what grows leaves copies behind that nobody wipes.
    let mut text = Zeroizing::new(String::with_capacity(MAX as usize + 64));
    match file.take(MAX).read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(not_a_key("not text")),
        Err(error) => Err(unreadable(error)),
    }
}

/// Checks that the text is a private key we can use; gives the public half's line where the form keeps it readable.
fn inspect(path: &Path, text: &str) -> Result<Option<String>, Cause> {
    let not_a_key = |found: &str| Cause::NotAPrivateKey { path: path.to_owned(), found: found.to_owned() };
    let encrypted = || Cause::PrivateKeyEncrypted { path: path.to_owned() };
    let label = text.lines().find_map(|line| line.trim_end().strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
    match label {
        Some("OPENSSH PRIVATE KEY") => {
            let key = OpenSshKey::parse(text).ok_or_else(|| not_a_key("damaged OpenSSH private key"))?;
            if key.cipher != b"none" {
                return Err(encrypted());
            }
            let line = host_key::line(&key.public);
            match line.split(' ').next().unwrap_or_default() {
                "ssh-ed25519" | "ssh-rsa" | "ecdsa-sha2-nistp256" | "ecdsa-sha2-nistp384" | "ecdsa-sha2-nistp521" => {
                    Ok(Some(line))
                }
                kind => Err(Cause::PrivateKeyUnsupported { path: path.to_owned(), kind: kind.to_owned() }),
            }
        }
        Some("ENCRYPTED PRIVATE KEY") => Err(encrypted()),
        Some(label) if label.ends_with("PRIVATE KEY") => {
            let is_encrypted = text.lines().any(|line| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED"));
            if is_encrypted { Err(encrypted()) } else { Ok(None) }
        }
        Some(label) => Err(not_a_key(&format!("it holds a {}", label.to_lowercase()))),
        None if text.starts_with("PuTTY-User-Key-File") => Err(not_a_key("a key in the form of PuTTY")),
        None if is_public_key(text) => Err(not_a_key("it is a public key")),
        None if text.is_empty() => Err(not_a_key("it is empty")),
        None => Err(not_a_key("it holds no key")),
    }
}

/// The unencrypted beginning of a key in OpenSSH's form.
struct OpenSshKey {
    cipher: Vec<u8>,
    public: Vec<u8>,
}

impl OpenSshKey {
    fn parse(text: &str) -> Option<OpenSshKey> {
        let mut body = Zeroizing::new(String::with_capacity(text.len()));
        body.extend(
            text.lines()
                .map(str::trim)
                .skip_while(|line| !line.starts_with("-----BEGIN "))
                .skip(1)
                .take_while(|line| !line.starts_with("-----END ")),
        );
        let bytes = Zeroizing::new(STANDARD.decode(body.as_bytes()).ok()?);
        let (cipher, rest) = string(bytes.strip_prefix(OPENSSH_MAGIC)?)?;
        let (_derivation, rest) = string(rest)?;
        let (_derivation_options, rest) = string(rest)?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        if u32::from_be_bytes(*count) != 1 {
            return None;
        }
        let (public, _) = string(rest)?;
        Some(OpenSshKey { cipher: cipher.to_vec(), public: public.to_vec() })
    }
}

fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

fn is_public_key(text: &str) -> bool {
    let mut words = text.split_whitespace();
    let kind = words.next().unwrap_or_default();
    (kind.starts_with("ssh-") || kind.starts_with("ecdsa-") || kind.starts_with("sk-"))
        && words.next().is_some_and(|word| word.starts_with("AAAA"))
}

/// What the file with `.pub` added holds, without its comment.
fn public_key_beside(path: &Path) -> Option<String> {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    let mut text = String::new();
    File::open(PathBuf::from(name)).ok()?.take(MAX).read_to_string(&mut text).ok()?;
    let words: Vec<&str> = text.split_whitespace().take(2).collect();
    is_public_key(&text).then(|| words.join(" "))
}

#[cfg(test)]
mod tests;
