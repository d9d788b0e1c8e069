//! Where in a nar a node is.

use std::fmt;

/// Longest path of a node below the root, in bytes. guix-daemon works with whole paths, of which the kernel takes none
/// that is longer; and so directories are nested 2048 deep at the most.
pub const MAX_PATH: usize = 4095;
/// Longest name of a directory entry, in bytes; the limit of file systems.
pub const MAX_NAME: usize = 255;

/// The names that lead from the root of a nar to a node. Empty for the root itself. Names are bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NarPath {
    /// The names with `/` between them.
    bytes: Vec<u8>,
    /// Where in `bytes` each name begins.
    starts: Vec<usize>,
}

impl NarPath {
    /// The path of the root.
    pub fn root() -> NarPath {
        NarPath::default()
    }

    /// Goes down to the entry `name`.
    pub fn push(&mut self, name: &[u8]) -> Result<(), BadName> {
        check_name(name)?;
        let slash = usize::from(!self.starts.is_empty());
        if self.bytes.len() + slash + name.len() > MAX_PATH {
            return Err(BadName::new(name, "the path that it ends is longer than 4095 bytes"));
        }
        if !self.starts.is_empty() {
            self.bytes.push(b'/');
        }
        self.starts.push(self.bytes.len());
        self.bytes.extend_from_slice(name);
        Ok(())
    }

    /// Goes back up. Stays where it is at the root.
    pub fn pop(&mut self) {
        if let Some(start) = self.starts.pop() {
            self.bytes.truncate(start.saturating_sub(1));
        }
    }

    /// The last name; `None` at the root.
    pub fn name(&self) -> Option<&[u8]> {
        self.starts.last().map(|&start| &self.bytes[start..])
    }

    /// How many names there are; 0 at the root.
    pub fn depth(&self) -> usize {
        self.starts.len()
    }

    /// The names with `/` between them; empty at the root.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// For messages: bytes that are not printable ASCII are escaped.
impl fmt::Display for NarPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.starts.is_empty() { f.write_str("/") } else { self.bytes.escape_ascii().fmt(f) }
    }
}

/// A name that no directory entry can have, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad name '{name}': {problem}")]
pub struct BadName {
    name: String,
    problem: &'static str,
}

impl BadName {
    fn new(name: &[u8], problem: &'static str) -> BadName {
        BadName { name: name[..name.len().min(MAX_NAME)].escape_ascii().to_string(), problem }
    }
}

fn check_name(name: &[u8]) -> Result<(), BadName> {
    let problem = match name {
        b"" => "it is empty",
        b"." | b".." => "it stands for a directory",
        _ if name.len() > MAX_NAME => "it is longer than 255 bytes",
        _ if name.contains(&b'/') => "it has a slash",
        _ if name.contains(&0) => "it has a NUL",
        _ => return Ok(()),
    };
    Err(BadName::new(name, problem))
}
