//! Finds and reads the private key for the login, and checks it before anything is sent.
//!
//! Without `private_key` in the machine file, the key is the first of `~/.ssh/id_ed25519`, `id_ecdsa` and `id_rsa` that
//! exists. A leading `~/` is the home directory of the effective user in /etc/passwd. `HOME` is used only for a user
//! that is not in /etc/passwd, because a daemon that systemd starts has no such variable.
//!
//! A file that belongs to the effective user and is accessible to others is refused, as OpenSSH does. The supported
//! formats are that of OpenSSH (`openssh`) and those of PEM (`der`; RFC 7468, RFC 1421 for the headers of an encrypted
//! key).
//!
//! The key is in libgcrypt's secure memory (`login_key`), and the text of the file is wiped. libssh2 gets signatures
//! and never the key: libssh2, the crate `ssh2` and OpenSSL leave copies of the text and of the key in freed memory.

mod der;
mod encoding;
mod login_key;
mod mount_namespace;
mod openssh;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::geteuid;
use zeroize::Zeroizing;

use self::login_key::LoginKey;
use self::mount_namespace::exists_outside;
use self::openssh::OpenSshKey;
use super::error::Cause;
use super::host_key;
use crate::file_stamp::FileStamp;
use crate::gcrypt::Secret;
use crate::permissions::passwd::home_directory;

/// The size limit of a key file, in bytes. An RSA key of 16384 bits is about 13 KiB.
const MAX_KEY_FILE: u64 = 64 << 10;
const DEFAULT_KEY_NAMES: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// The private key for the login.
pub(super) struct PrivateKey {
    pub(super) path: PathBuf,
    /// The stamp of the file that was read.
    pub(super) stamp: FileStamp,
    key: LoginKey,
}

impl PrivateKey {
    /// Returns the public key, in the encoding of the protocol.
    pub(super) fn public(&self) -> &[u8] {
        self.key.public()
    }

    /// Returns the line for `authorized_keys`.
    pub(super) fn line(&self) -> String {
        host_key::line(self.public())
    }

    /// Returns the signature of the data of a login. The error is a message.
    pub(super) fn sign(&self, data: &[u8]) -> Result<Vec<u8>, String> {
        self.key.sign(data)
    }
}

/// Finds, reads and checks the key.
pub(super) fn load(configured: Option<&Path>) -> Result<PrivateKey, Cause> {
    let path = find(configured)?;
    let (text, stamp) = read(&path)?;
    let key = parse(&path, &text)?;
    Ok(PrivateKey { path, stamp, key })
}

/// Returns the stamp of the key's file; `None` if there is none.
pub fn stamp(configured: Option<&Path>) -> Option<FileStamp> {
    FileStamp::of(&find(configured).ok()?)
}

/// Returns the file of the configured key, or of the default one.
fn find(configured: Option<&Path>) -> Result<PathBuf, Cause> {
    match configured {
        Some(path) => match path.strip_prefix("~") {
            Ok(rest) => Ok(home_directory().ok_or(Cause::NoHome)?.join(rest)),
            Err(_) => Ok(path.to_owned()),
        },
        None => first_default(&home_directory().ok_or(Cause::NoHome)?),
    }
}

/// Returns the first default key that exists in the home directory.
fn first_default(home: &Path) -> Result<PathBuf, Cause> {
    let tried: Vec<PathBuf> = DEFAULT_KEY_NAMES.iter().map(|name| home.join(".ssh").join(name)).collect();
    if let Some(path) = tried.iter().find(|path| path.exists()) {
        return Ok(path.clone());
    }
    Err(match tried.iter().find(|path| exists_outside(path)) {
        Some(path) => Cause::PrivateKeyHidden { path: path.clone() },
        None => Cause::NoPrivateKey { tried },
    })
}

/// Reads the text of a key file, and the stamp of that file. Fails if the file is accessible to others.
fn read(path: &Path) -> Result<(Zeroizing<String>, FileStamp), Cause> {
    let unreadable = |error| Cause::PrivateKeyUnreadable { path: path.to_owned(), error };
    let not_a_key = |found: &str| Cause::NotAPrivateKey { path: path.to_owned(), found: found.to_owned() };
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound if exists_outside(path) => Cause::PrivateKeyHidden { path: path.to_owned() },
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
    if metadata.len() > MAX_KEY_FILE {
        return Err(not_a_key("too large"));
    }
    // The string has room for the whole file. If it grew, it would leave copies in freed memory that are not wiped.
    let mut text = Zeroizing::new(String::with_capacity(MAX_KEY_FILE as usize + 64));
    match file.take(MAX_KEY_FILE).read_to_string(&mut text) {
        Ok(_) => Ok((text, FileStamp::from(&metadata))),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(not_a_key("not text")),
        Err(error) => Err(unreadable(error)),
    }
}

/// Parses the text of a key.
fn parse(path: &Path, text: &str) -> Result<LoginKey, Cause> {
    let not_a_key = |found: &str| Cause::NotAPrivateKey { path: path.to_owned(), found: found.to_owned() };
    let encrypted = || Cause::PrivateKeyEncrypted { path: path.to_owned() };
    let unsupported = |kind: &str| Cause::PrivateKeyUnsupported { path: path.to_owned(), kind: kind.to_owned() };
    let mut labels = text.lines().filter_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
    // The parameters of a curve may precede the key.
    let first = labels.clone().next();
    let label = labels.find(|label| label.ends_with("PRIVATE KEY")).or(first);
    let key = |bytes: Option<Zeroizing<Vec<u8>>>, parse: fn(&[u8]) -> Option<Secret<'_>>| {
        let invalid = || not_a_key("it is damaged, or of another type than Ed25519, ECDSA and RSA");
        let bytes = bytes.ok_or_else(invalid)?;
        login_key(path, &parse(&bytes).ok_or_else(invalid)?)
    };
    match label {
        Some("OPENSSH PRIVATE KEY") => {
            let damaged = || not_a_key("damaged OpenSSH private key");
            let bytes = decode(text, "OPENSSH PRIVATE KEY").ok_or_else(damaged)?;
            let key = OpenSshKey::parse(&bytes).ok_or_else(damaged)?;
            match key.kind() {
                _ if key.is_encrypted() => return Err(encrypted()),
                b"ssh-ed25519" | b"ssh-rsa" => {}
                b"ecdsa-sha2-nistp256" | b"ecdsa-sha2-nistp384" | b"ecdsa-sha2-nistp521" => {}
                kind => return Err(unsupported(&String::from_utf8_lossy(kind))),
            }
            let own = login_key(path, &key.secret().ok_or_else(damaged)?)?;
            if own.public() == key.public { Ok(own) } else { Err(damaged()) }
        }
        Some("ENCRYPTED PRIVATE KEY") => Err(encrypted()),
        Some(label) if label.ends_with("PRIVATE KEY") => {
            if text.lines().any(|line| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED")) {
                return Err(encrypted());
            }
            let bytes = decode(text, label);
            match label {
                "RSA PRIVATE KEY" => key(bytes, der::pkcs1),
                "EC PRIVATE KEY" => key(bytes, |bytes| der::sec1(bytes, None)),
                "PRIVATE KEY" => key(bytes, der::pkcs8),
                other => Err(unsupported(other.trim_end_matches(" PRIVATE KEY"))),
            }
        }
        Some(label) => Err(not_a_key(&format!("it holds a {}", label.to_lowercase()))),
        None if text.starts_with("PuTTY-User-Key-File") => Err(not_a_key("a key in the form of PuTTY")),
        None if is_public_key(text) => Err(not_a_key("it is a public key")),
        None if text.is_empty() => Err(not_a_key("it is empty")),
        None => Err(not_a_key("it holds no key")),
    }
}

fn login_key(path: &Path, secret: &Secret<'_>) -> Result<LoginKey, Cause> {
    let unusable = |problem| Cause::NotAPrivateKey {
        path: path.to_owned(),
        found: format!("libgcrypt cannot use it ({problem})"),
    };
    LoginKey::new(secret).map_err(unusable)
}

/// Decodes the base64 text below a label.
fn decode(text: &str, label: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut body = Zeroizing::new(String::with_capacity(text.len()));
    body.extend(
        text.lines()
            .map(str::trim)
            .skip_while(|line| line.strip_prefix("-----BEGIN ").is_none_or(|rest| !rest.starts_with(label)))
            .skip(1)
            .take_while(|line| !line.starts_with("-----END ")),
    );
    // This has room for all bytes as well, for the same reason as in `read`.
    let mut bytes = Zeroizing::new(Vec::with_capacity(body.len()));
    STANDARD.decode_vec(body.as_bytes(), &mut bytes).ok()?;
    Some(bytes)
}

/// Returns whether the text is a public key in OpenSSH form.
fn is_public_key(text: &str) -> bool {
    let mut words = text.split_whitespace();
    let kind = words.next().unwrap_or_default();
    (kind.starts_with("ssh-") || kind.starts_with("ecdsa-") || kind.starts_with("sk-"))
        && words.next().is_some_and(|word| word.starts_with("AAAA"))
}

#[cfg(test)]
mod tests;
