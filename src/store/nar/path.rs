//! The path of a node in a nar.

use std::fmt;

/// The longest path of a node below the root, in bytes. guix-daemon works with whole paths, and the kernel accepts no
/// longer one; so directories are nested at most 2048 deep.
pub const MAX_NAR_PATH: usize = 4095;
/// The longest name of a directory entry, in bytes; the limit of file systems.
pub const MAX_ENTRY_NAME: usize = 255;

/// The names from the root of a nar to a node. Empty for the root itself. Names are bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NarPath {
    /// The names, separated by `/`.
    bytes: Vec<u8>,
    /// The position in `bytes` at which each name begins.
    starts: Vec<usize>,
}

impl NarPath {
    /// Returns the path of the root.
    pub fn root() -> NarPath {
        NarPath::default()
    }

    /// Enters the entry `name`.
    pub fn push(&mut self, name: &[u8]) -> Result<(), BadName> {
        check_name(name)?;
        let slash = usize::from(!self.starts.is_empty());
        if self.bytes.len() + slash + name.len() > MAX_NAR_PATH {
            return Err(BadName::new(name, "the path that it ends is longer than 4095 bytes"));
        }
        if !self.starts.is_empty() {
            self.bytes.push(b'/');
        }
        self.starts.push(self.bytes.len());
        self.bytes.extend_from_slice(name);
        Ok(())
    }

    /// Goes up; at the root it stays.
    pub fn pop(&mut self) {
        if let Some(start) = self.starts.pop() {
            self.bytes.truncate(start.saturating_sub(1));
        }
    }

    /// Returns the last name; `None` at the root.
    pub fn name(&self) -> Option<&[u8]> {
        self.starts.last().map(|&start| &self.bytes[start..])
    }

    /// Returns the number of names; 0 at the root.
    pub fn depth(&self) -> usize {
        self.starts.len()
    }

    /// Returns the names, separated by `/`; empty at the root.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Writes the path for messages: bytes that are not printable ASCII are escaped.
impl fmt::Display for NarPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.starts.is_empty() { f.write_str("/") } else { self.bytes.escape_ascii().fmt(f) }
    }
}

/// A name that no directory entry can have, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad name '{name}': {problem}")]
pub struct BadName {
    name: String,
    problem: &'static str,
}

impl BadName {
    fn new(name: &[u8], problem: &'static str) -> BadName {
        BadName { name: name[..name.len().min(MAX_ENTRY_NAME)].escape_ascii().to_string(), problem }
    }
}

fn check_name(name: &[u8]) -> Result<(), BadName> {
    let problem = match name {
        b"" => "it is empty",
        b"." | b".." => "it stands for a directory",
        _ if name.len() > MAX_ENTRY_NAME => "it is longer than 255 bytes",
        _ if name.contains(&b'/') => "it has a slash",
        _ if name.contains(&0) => "it has a NUL",
        _ => return Ok(()),
    };
    Err(BadName::new(name, problem))
}
