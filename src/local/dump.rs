//! The nar of a tree in the file system, as a reader.
//!
//! It is a reader and not a walk that writes, because a daemon that imports pulls. It holds one open directory, one
//! open file, and for each level the remaining names. The format is that of [`nar`](crate::store::nar): entries sorted
//! by their bytes, executable if the owner may execute. A file other than a regular file, directory or symbolic link is
//! an error.
//!
//! Not checked here: that the tree does not change meanwhile. A file that became shorter is an error; other changes
//! only change the hash.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::vec;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::directory_walk::DirectoryWalk;
use super::files;
use crate::store::nar::{NAR_MAGIC, NarPath};
use crate::store::wire;

/// Reads the nar of a tree. After an error nothing more can be read.
pub struct Dump {
    /// Words that were made, and the number of their bytes that was read.
    made: Cursor<Vec<u8>>,
    /// The current directory, which is the topmost of the tree or below it.
    open: Option<DirectoryWalk>,
    /// The remaining entries of it and of those above it, outermost first.
    left: Vec<vec::IntoIter<CString>>,
    /// Its path in the tree.
    path: NarPath,
    /// The file whose contents come next.
    file: Option<Contents>,
}

struct Contents {
    file: File,
    size: u64,
    left: u64,
}

impl Dump {
    /// Returns the nar of the file `name` in `parent`.
    pub fn new(parent: impl AsFd, name: &CStr) -> io::Result<Dump> {
        let mut dump =
            Dump { made: Cursor::default(), open: None, left: Vec::new(), path: NarPath::root(), file: None };
        dump.words(&[NAR_MAGIC]);
        let node = Node::find(parent.as_fd(), name)?;
        dump.begin(node)?;
        Ok(dump)
    }

    /// Makes the words up to the next file's contents, or to the next entry or end of a directory. At the end it makes
    /// none.
    fn advance(&mut self) -> io::Result<()> {
        self.made.set_position(0);
        self.made.get_mut().clear();
        if let Some(contents) = self.file.take() {
            self.made.get_mut().resize(wire::padding(contents.size), 0);
            self.end();
            return Ok(());
        }
        let (Some(directory), Some(names)) = (&mut self.open, self.left.last_mut()) else { return Ok(()) };
        let Some(name) = names.next() else {
            self.left.pop();
            if directory.leave()?.is_none() {
                self.open = None;
            }
            self.end();
            return Ok(());
        };
        let node = Node::find(directory.current(), &name)?;
        self.path.push(name.to_bytes()).map_err(io::Error::other)?;
        self.words(&[b"entry", b"(", b"name", name.to_bytes(), b"node"]);
        self.begin(node)
    }

    /// Makes the words of a node: those before its contents or its first entry, or all if it has neither.
    fn begin(&mut self, node: Node) -> io::Result<()> {
        self.words(&[b"(", b"type"]);
        match node {
            Node::File { file, size, executable } => {
                self.words(&[b"regular"]);
                if executable {
                    self.words(&[b"executable", b""]);
                }
                self.words(&[b"contents"]);
                self.made.get_mut().extend_from_slice(&size.to_le_bytes());
                self.file = Some(Contents { file, size, left: size });
            }
            Node::Directory { fd, names } => {
                self.words(&[b"directory"]);
                self.left.push(names.into_iter());
                match &mut self.open {
                    Some(open) => open.enter(fd)?,
                    None => self.open = Some(DirectoryWalk::new(fd)),
                }
            }
            Node::Link { target } => {
                self.words(&[b"symlink", b"target", target.to_bytes()]);
                self.end();
            }
        }
        Ok(())
    }

    /// Makes the end of a node and of its entry.
    fn end(&mut self) {
        self.words(&[b")"]);
        if self.path.depth() > 0 {
            self.path.pop();
            self.words(&[b")"]);
        }
    }

    fn words(&mut self, words: &[&[u8]]) {
        let made = self.made.get_mut();
        for word in words {
            made.extend_from_slice(&(word.len() as u64).to_le_bytes());
            made.extend_from_slice(word);
            made.resize(made.len() + wire::padding(word.len() as u64), 0);
        }
    }
}

impl Read for Dump {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let count = self.made.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            match &mut self.file {
                Some(contents) if contents.left > 0 => return contents.read(buffer),
                None if self.open.is_none() => return Ok(0),
                _ => self.advance()?,
            }
        }
    }
}

impl Contents {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = self.file.read(&mut buffer[..limit])?;
        if count == 0 && limit > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file became shorter"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// Something in the file system that a nar can hold.
enum Node {
    File { file: File, size: u64, executable: bool },
    Directory { fd: OwnedFd, names: Vec<CString> },
    Link { target: CString },
}

impl Node {
    fn find(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<Node> {
        let status = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(status.st_mode) {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(parent, name, flags, Mode::empty())?.into();
                let size = u64::try_from(status.st_size).map_err(io::Error::other)?;
                Ok(Node::File { file, size, executable: Mode::from_raw_mode(status.st_mode).contains(Mode::XUSR) })
            }
            FileType::Directory => {
                let fd = files::open_directory(parent, name)?;
                Ok(Node::Directory { names: files::names(&fd)?, fd })
            }
            FileType::Symlink => Ok(Node::Link { target: rustix::fs::readlinkat(parent, name, Vec::new())? }),
            other => {
                let name = name.to_bytes().escape_ascii();
                Err(io::Error::other(format!("'{name}' is neither file, directory nor symbolic link ({other:?})")))
            }
        }
    }
}

#[cfg(test)]
mod tests;
