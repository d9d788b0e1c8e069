//! Store directories and store paths: their valid forms, and the computation of an item's path.
//!
//! A store path is `<store>/<32 characters>-<name>`. The 32 characters are 20 bytes in base 32. The name consists of
//! `A-Za-z0-9+-._?=` and does not begin with a dot. The daemon enforces this only for paths that it makes itself. From
//! a client or an import it accepts any name without a slash, even `..`, so all paths from outside go through
//! [`StorePath::parse`].
//!
//! The 20 bytes are a SHA-256 folded by exclusive or. Its input is `TYPE:sha256:HEX:STORE:NAME`, where TYPE and HEX
//! depend on the origin of the contents (the functions below). Source: `makeStorePath` and its callers in the daemon's
//! `libstore/store-api.cc`.
//!
//! Not checked here: whether the item exists, and whether its contents match its path.
#![deny(missing_docs)]

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{HashAlgorithm, base16, base32};

/// Characters in the hash part of a store path.
pub const HASH_PART_LENGTH: usize = 32;

/// The longest name, in bytes. Guix itself has no limit; this one leaves room in a file name of 255 bytes for the
/// hash part and for the suffixes of the daemon and of this crate: `.lock`, `.chroot`, `.tmp`.
pub const MAX_NAME: usize = 211;

/// Longest store directory, in bytes.
const MAX_DIRECTORY: usize = 255;

/// The directory that holds the store. Default `/gnu/store`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoreDir(Arc<str>);

impl StoreDir {
    /// Checks a directory. It must be absolute, in its shortest form (no `//`, `.`, `..`, trailing slash) and
    /// printable.
    pub fn new(directory: &str) -> Result<StoreDir, PathError> {
        let good = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(|byte| byte.is_ascii_graphic());
        match directory.strip_prefix('/') {
            Some(rest) if directory.len() <= MAX_DIRECTORY && rest.split('/').all(good) => {
                Ok(StoreDir(directory.into()))
            }
            _ => Err(PathError::Directory { directory: shown(directory.as_bytes()) }),
        }
    }

    /// Returns the directory as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the length of the longest store path in this directory, in bytes: a limit for readers.
    pub fn max_path(&self) -> usize {
        self.0.len() + 1 + HASH_PART_LENGTH + 1 + MAX_NAME
    }
}

impl Default for StoreDir {
    fn default() -> StoreDir {
        StoreDir("/gnu/store".into())
    }
}

impl AsRef<Path> for StoreDir {
    fn as_ref(&self) -> &Path {
        Path::new(&*self.0)
    }
}

impl fmt::Display for StoreDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The path of a store item, valid in form. Ordered by bytes. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath(Arc<str>);

impl StorePath {
    /// Parses a store path as a whole: no trailing slash, and no file below the item.
    pub fn parse(store: &StoreDir, path: &[u8]) -> Result<StorePath, PathError> {
        let outside = || PathError::Outside { path: shown(path), store: store.as_str().to_owned() };
        let base = path.strip_prefix(store.as_str().as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
        let base = base.filter(|base| !base.is_empty() && !base.contains(&b'/')).ok_or_else(outside)?;
        let invalid = |problem| PathError::Invalid { path: shown(path), problem };
        let Some((hash, rest)) = base.split_at_checked(HASH_PART_LENGTH) else {
            return Err(invalid("the hash part is too short"));
        };
        if !hash.iter().all(|&character| base32::is_digit(character)) {
            return Err(invalid("the hash part has a character that is not base 32"));
        }
        let name = rest.strip_prefix(b"-").ok_or_else(|| invalid("no '-' follows the hash part"))?;
        check_name(name).map_err(invalid)?;
        match str::from_utf8(path) {
            Ok(text) => Ok(StorePath(text.into())),
            Err(_) => Err(invalid("it is not text")),
        }
    }

    /// Hashes and folds `TYPE:sha256:HEX:STORE:NAME`.
    fn make(store: &StoreDir, kind: &str, hash: &[u8; 32], name: &str) -> Result<StorePath, PathError> {
        check_name(name.as_bytes()).map_err(|problem| PathError::Name { name: shown(name.as_bytes()), problem })?;
        let subject = format!("{kind}:sha256:{}:{store}:{name}", base16::encode(hash));
        let mut folded = [0; 20];
        for (index, byte) in Sha256::digest(subject.as_bytes()).iter().enumerate() {
            folded[index % 20] ^= byte;
        }
        Ok(StorePath(format!("{store}/{}-{name}", base32::encode(&folded)).into()))
    }

    /// Returns the whole path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the part after the store directory: hash part and name.
    pub fn base_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// Returns the 32 characters that begin the base name.
    pub fn hash_part(&self) -> &str {
        &self.base_name()[..HASH_PART_LENGTH]
    }

    /// Returns the part after the hash and its dash, such as `hello-2.12.drv`.
    pub fn name(&self) -> &str {
        &self.base_name()[HASH_PART_LENGTH + 1..]
    }

    /// Returns whether the name ends in `.drv`.
    pub fn is_derivation(&self) -> bool {
        self.0.ends_with(".drv")
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for StorePath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl AsRef<[u8]> for StorePath {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl AsRef<Path> for StorePath {
    fn as_ref(&self) -> &Path {
        Path::new(&*self.0)
    }
}

/// Returns the path of a text file with this SHA-256 and these `references`, in any order.
/// Derivations are such files, named `<name>.drv`.
pub fn text_path(
    store: &StoreDir,
    name: &str,
    text_sha256: &[u8; 32],
    references: &[StorePath],
) -> Result<StorePath, PathError> {
    let mut references: Vec<&str> = references.iter().map(StorePath::as_str).collect();
    references.sort_unstable();
    references.dedup();
    let mut kind = String::from("text");
    for reference in references {
        kind.push(':');
        kind.push_str(reference);
    }
    StorePath::make(store, &kind, text_sha256, name)
}

/// Returns the path of a tree that was added as it is, from the SHA-256 of its nar.
pub fn source_path(store: &StoreDir, name: &str, nar_sha256: &[u8; 32]) -> Result<StorePath, PathError> {
    StorePath::make(store, "source", nar_sha256, name)
}

/// Returns the path of output `id` of a derivation, from the hash that [`derivation`](super::derivation) computes.
/// `name` is the derivation's; outputs other than `out` get `-id` appended to it.
pub fn output_path(store: &StoreDir, id: &str, drv_hash: &[u8; 32], name: &str) -> Result<StorePath, PathError> {
    let kind = format!("output:{id}");
    match id {
        "out" => StorePath::make(store, &kind, drv_hash, name),
        _ => StorePath::make(store, &kind, drv_hash, &format!("{name}-{id}")),
    }
}

/// Returns the path of a fixed output. With `recursive`, `hash` is that of the nar and not of the file's bytes.
pub fn fixed_output_path(
    store: &StoreDir,
    name: &str,
    recursive: bool,
    algorithm: HashAlgorithm,
    hash: &[u8],
) -> Result<StorePath, PathError> {
    if recursive
        && algorithm == HashAlgorithm::Sha256
        && let Ok(nar_sha256) = hash.try_into()
    {
        return source_path(store, name, nar_sha256);
    }
    let prefix = if recursive { "r:" } else { "" };
    let subject = format!("fixed:out:{prefix}{algorithm}:{}:", base16::encode(hash));
    StorePath::make(store, "output:out", &Sha256::digest(subject.as_bytes()).into(), name)
}

/// Checks whether `name` may be the name of a store item; the error is the reason why not.
pub fn check_name(name: &[u8]) -> Result<(), &'static str> {
    let allowed = |&byte: &u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte);
    match name {
        [] => Err("the name is empty"),
        [b'.', ..] => Err("the name begins with a dot"),
        _ if name.len() > MAX_NAME => Err("the name is longer than 211 bytes"),
        _ if !name.iter().all(allowed) => Err("the name has a character that is not allowed"),
        _ => Ok(()),
    }
}

/// Escapes and shortens bytes from outside for a message.
fn shown(bytes: &[u8]) -> String {
    match bytes.split_at_checked(400) {
        Some((head, [_, ..])) => format!("{}...", head.escape_ascii()),
        _ => bytes.escape_ascii().to_string(),
    }
}

/// The reason why a text is not a store path or directory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The messages say it.
pub enum PathError {
    #[error("'{directory}' cannot be a store directory: it must be an absolute path in its shortest form")]
    Directory { directory: String },
    #[error("'{path}' is not directly inside the store '{store}'")]
    Outside { path: String, store: String },
    #[error("'{path}' is not a store path: {problem}")]
    Invalid { path: String, problem: &'static str },
    #[error("'{name}' cannot name a store item: {problem}")]
    Name { name: String, problem: &'static str },
}

#[cfg(test)]
mod tests;
