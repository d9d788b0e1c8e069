//! Writing a nar.

use std::io::{self, Read, Write};

use super::{MAX_NAR_FILE_SIZE, NAR_MAGIC, NarPath, Visitor, check_target};
use crate::store::wire;

/// The bytes of a file that are copied at a time.
const COPY_CHUNK: usize = 128 << 10;

/// Writes a nar: one call of [`Visitor`] a node, in the order of the nar, then [`finish`](Writer::finish).
///
/// Entries must come sorted by their bytes. A node that violates the grammar is refused with
/// [`InvalidInput`](io::ErrorKind::InvalidInput) before any of it is written. It is not checked that the paths of a
/// directory's entries begin with the directory's own: only their number of names and the last name are used.
pub struct Writer<W> {
    writer: W,
    /// The previous name, for each open directory.
    open: Vec<Vec<u8>>,
    complete: bool,
    /// Words that are written together.
    words: Vec<u8>,
    chunk: Vec<u8>,
}

impl<W: Write> Writer<W> {
    pub fn new(writer: W) -> Writer<W> {
        Writer { writer, open: Vec::new(), complete: false, words: Vec::new(), chunk: Vec::new() }
    }

    /// Returns the writer, which is not flushed. An error if the nar is not complete.
    pub fn finish(self) -> io::Result<W> {
        if self.complete { Ok(self.writer) } else { Err(invalid("the nar is not complete")) }
    }

    /// Writes the words before a node: the magic word at the root, the name elsewhere.
    fn begin(&mut self, path: &NarPath) -> io::Result<()> {
        if self.complete || path.depth() != self.open.len() {
            return Err(invalid(&format!("'{path}' is not the next node")));
        }
        self.words.clear();
        match (path.name(), self.open.last_mut()) {
            (Some(name), Some(before)) => {
                if *before.as_slice() >= *name {
                    return Err(invalid(&format!("'{path}' comes after '{}'", before.escape_ascii())));
                }
                before.clear();
                before.extend_from_slice(name);
                self.words(&[b"entry", b"(", b"name", name, b"node"])
            }
            _ => self.words(&[NAR_MAGIC]),
        }
    }

    /// Writes the words after a node.
    fn end(&mut self, path: &NarPath) -> io::Result<()> {
        self.words(&[b")"])?;
        if path.depth() > 0 {
            self.words(&[b")"])?;
        } else {
            self.complete = true;
        }
        self.writer.write_all(&self.words)?;
        self.words.clear();
        Ok(())
    }

    fn words(&mut self, words: &[&[u8]]) -> io::Result<()> {
        words.iter().try_for_each(|word| wire::write_bytes(&mut self.words, word))
    }
}

impl<W: Write> Visitor for Writer<W> {
    fn directory(&mut self, path: &NarPath) -> io::Result<()> {
        self.begin(path)?;
        self.words(&[b"(", b"type", b"directory"])?;
        self.writer.write_all(&self.words)?;
        self.words.clear();
        self.open.push(Vec::new());
        Ok(())
    }

    fn leave_directory(&mut self, path: &NarPath) -> io::Result<()> {
        if self.open.len() != path.depth() + 1 {
            return Err(invalid(&format!("the directory '{path}' is not the innermost")));
        }
        self.open.pop();
        self.end(path)
    }

    /// Writes a file. `contents` must have `size` bytes; further bytes are not read.
    fn file(&mut self, path: &NarPath, executable: bool, size: u64, contents: &mut dyn Read) -> io::Result<()> {
        if size > MAX_NAR_FILE_SIZE {
            return Err(invalid(&format!("'{path}' is too large")));
        }
        self.begin(path)?;
        self.words(&[b"(", b"type", b"regular"])?;
        if executable {
            self.words(&[b"executable", b""])?;
        }
        self.words(&[b"contents"])?;
        wire::write_u64(&mut self.words, size)?;
        self.writer.write_all(&self.words)?;
        self.words.clear();
        self.copy(path, size, contents)?;
        wire::write_padding(&mut self.words, size)?;
        self.end(path)
    }

    fn symlink(&mut self, path: &NarPath, target: &[u8]) -> io::Result<()> {
        check_target(target).map_err(|problem| invalid(&format!("'{path}': {problem}")))?;
        self.begin(path)?;
        self.words(&[b"(", b"type", b"symlink", b"target", target])?;
        self.end(path)
    }
}

impl<W: Write> Writer<W> {
    fn copy(&mut self, path: &NarPath, size: u64, contents: &mut dyn Read) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            let limit = usize::try_from(left).map_or(COPY_CHUNK, |left| left.min(COPY_CHUNK));
            if self.chunk.len() < limit {
                self.chunk.resize(limit, 0);
            }
            match contents.read(&mut self.chunk[..limit]) {
                Ok(0) => {
                    let message = format!("'{path}' has {left} bytes less than its size of {size}");
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
                }
                Ok(count) => {
                    self.writer.write_all(&self.chunk[..count])?;
                    left -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("cannot write this nar: {problem}"))
}
