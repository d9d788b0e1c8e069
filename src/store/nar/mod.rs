//! Nars: the archive format of store items.
//!
//! ```text
//! nar  := "nix-archive-1" node
//! node := "(" "type" ( "regular" [ "executable" "" ] "contents" size bytes padding
//!                    | "symlink" "target" target
//!                    | "directory" { "entry" "(" "name" name "node" node ")" } ) ")"
//! ```
//!
//! All words are strings in the form of [`wire`](super::wire); `size` has 64 bits. The entries of a directory are
//! sorted by the bytes of their names, and each name occurs once. A name is not empty, `.` or `..` and has no `/` and
//! no NUL. A nar has no other metadata of a file: no owner, mode or time. So a tree has exactly one nar, and its
//! SHA-256 (the *nar hash*) identifies the contents of a store item. Sources: `libutil/archive.cc` of the daemon,
//! `guix/serialization.scm`.
//!
//! [`read`] is stricter than both of those: [`Writer`] writes every nar that it accepts back byte for byte. It holds in
//! memory only a name, a link target and the names of the directories above, each of bounded length.
//!
//! Not checked here: names that differ in case only, the sum of the sizes, the targets of symbolic links, and other
//! restrictions of a file system.

mod compare;
mod path;
mod reader;
mod writer;

pub use compare::{NodeDifference, Which, compare};
pub use path::{BadName, MAX_ENTRY_NAME, MAX_NAR_PATH, NarPath};
pub use reader::{NarError, read};
pub use writer::Writer;

use std::io::{self, Read};

/// The longest target of a symbolic link, in bytes; the limit of the kernel.
pub const MAX_LINK_TARGET: usize = 4095;
/// The largest file, in bytes: the limit of the kernel's file offsets.
pub const MAX_NAR_FILE_SIZE: u64 = i64::MAX as u64;

/// The first word of a nar.
pub const NAR_MAGIC: &[u8] = b"nix-archive-1";

/// Gets a call for each node of a tree, in the order of the nar. A node's path is empty at the root.
///
/// [`read`] makes the calls as it reads, and [`Writer`] implements the trait: a walk of a file system makes the same
/// calls.
pub trait Visitor {
    /// Visits a directory; its entries follow.
    fn directory(&mut self, path: &NarPath) -> io::Result<()>;

    /// Ends a directory, after all of its entries.
    fn leave_directory(&mut self, path: &NarPath) -> io::Result<()>;

    /// Visits a regular file of `size` bytes. `contents` yields exactly these; unread bytes are skipped. Large buffers are
    /// filled by the source directly, without a copy.
    fn file(&mut self, path: &NarPath, executable: bool, size: u64, contents: &mut dyn Read) -> io::Result<()>;

    /// Visits a symbolic link. `target` is not empty and has no NUL; it may refer to any path.
    fn symlink(&mut self, path: &NarPath, target: &[u8]) -> io::Result<()>;
}

/// A visitor that stores nothing, for a nar that is only checked or skipped.
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
        _ if target.len() > MAX_LINK_TARGET => Err("the target of a symbolic link is longer than 4095 bytes"),
        _ if target.contains(&0) => Err("the target of a symbolic link has a NUL"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
