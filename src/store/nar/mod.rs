//! Nars: the archive format of store items.
//!
//! ```text
//! nar  := "nix-archive-1" node
//! node := "(" "type" ( "regular" [ "executable" "" ] "contents" size bytes padding
//!                    | "symlink" "target" target
//!                    | "directory" { "entry" "(" "name" name "node" node ")" } ) ")"
//! ```
//!
//! All words are strings as [`wire`](super::wire) writes them; `size` has 64 bits. The entries of a directory are
//! sorted by the bytes of their names and each name is there once; a name is not empty, `.` or `..` and has no `/` and
//! no NUL. Nothing else about a file is recorded: no owner, mode or time. So there is one nar for a tree, and its
//! SHA-256 (the *nar hash*) identifies the contents of a store item. Sources: `libutil/archive.cc` of the daemon,
//! `guix/serialization.scm`.
//!
//! [`read`] is stricter than both of those: what it accepts, [`Writer`] writes back byte for byte. It keeps no more of
//! the nar in memory than a name, a link target and the names that lead to them, each of bounded length.
//!
//! Not checked here: names that differ in case only, the sum of the sizes, where symbolic links lead, and what a file
//! system may refuse besides.

mod path;
mod reader;
mod writer;

pub use path::{BadName, MAX_NAME, MAX_PATH, NarPath};
pub use reader::{NarError, read};
pub use writer::Writer;

use std::io::{self, Read};

/// Longest target of a symbolic link, in bytes; the limit of the kernel.
pub const MAX_TARGET: usize = 4095;
/// Largest file, in bytes: what fits into the kernel's file offsets.
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// The word that a nar begins with.
pub const MAGIC: &[u8] = b"nix-archive-1";

/// What is called for each node of a tree, in the order of the nar. A node's path is empty at the root.
///
/// [`read`] calls it for what it reads, and [`Writer`] implements it: who walks a file system makes the same calls.
pub trait Visitor {
    /// A directory begins; its entries follow.
    fn directory(&mut self, path: &NarPath) -> io::Result<()>;

    /// All entries of the directory have been visited.
    fn leave_directory(&mut self, path: &NarPath) -> io::Result<()>;

    /// A regular file of `size` bytes. `contents` yields exactly these; what is left unread is skipped. Large buffers
    /// are handed through to the source without a copy in between.
    fn file(&mut self, path: &NarPath, executable: bool, size: u64, contents: &mut dyn Read) -> io::Result<()>;

    /// A symbolic link. `target` is neither empty nor has it a NUL; it may lead anywhere.
    fn symlink(&mut self, path: &NarPath, target: &[u8]) -> io::Result<()>;
}

/// Keeps nothing: for a nar that is only to be checked, or to be got over.
pub struct Nothing;

impl Visitor for Nothing {
    fn directory(&mut self, _: &NarPath) -> io::Result<()> {
        Ok(())
    }

    fn leave_directory(&mut self, _: &NarPath) -> io::Result<()> {
        Ok(())
    }

    fn file(&mut self, _: &NarPath, _: bool, _: u64, _: &mut dyn Read) -> io::Result<()> {
        Ok(())
    }

    fn symlink(&mut self, _: &NarPath, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

fn check_target(target: &[u8]) -> Result<(), &'static str> {
    match target {
        [] => Err("the target of a symbolic link is empty"),
        _ if target.len() > MAX_TARGET => Err("the target of a symbolic link is longer than 4095 bytes"),
        _ if target.contains(&0) => Err("the target of a symbolic link has a NUL"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
