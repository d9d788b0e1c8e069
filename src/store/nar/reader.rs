//! Reading a nar from beginning to end, strictly.

use std::io::{self, Read};

use super::{MAX_ENTRY_NAME, MAX_LINK_TARGET, MAX_NAR_FILE_SIZE, NAR_MAGIC, NarPath, Visitor, check_target};
use crate::store::wire::{self, WireError};

/// The longest word of the grammar, in bytes, with its padding.
const MAX_WORD: usize = 16;

/// Reads one nar and calls `visitor` for each node. Returns the length of the nar in bytes.
///
/// It does not read beyond the nar. `reader` gets many small calls and should be buffered, as
/// [`HashingReader`](crate::store::export::HashingReader) is. The first error ends the reading; the calls of the
/// visitor up to then belong to an invalid nar.
pub fn read<R: Read + ?Sized>(reader: &mut R, visitor: &mut dyn Visitor) -> Result<u64, NarError> {
    let mut source = Source { reader, position: 0 };
    let mut path = NarPath::root();
    // The previous name, for each open directory. The root has no entry.
    let mut open: Vec<Vec<u8>> = Vec::new();
    source.expect(NAR_MAGIC)?;
    loop {
        if node(&mut source, &path, visitor)? {
            open.push(Vec::new());
        } else if open.is_empty() {
            return Ok(source.position);
        } else {
            source.expect(b")")?;
            path.pop();
        }
        // In the innermost open directory follows its next entry, or its end and those of the directories above that
        // end with it.
        while !entry(&mut source, &mut path, open.last_mut())? {
            visitor.leave_directory(&path).map_err(|error| NarError::visitor(&path, error))?;
            open.pop();
            if open.is_empty() {
                return Ok(source.position);
            }
            source.expect(b")")?;
            path.pop();
        }
    }
}

/// Reads a node up to its end, or, for a directory, up to the first entry (true).
fn node<R: Read + ?Sized>(
    source: &mut Source<'_, R>,
    path: &NarPath,
    visitor: &mut dyn Visitor,
) -> Result<bool, NarError> {
    source.expect(b"(")?;
    source.expect(b"type")?;
    let start = source.position;
    let mut word = [0; MAX_WORD];
    match source.word(&mut word)? {
        b"regular" => file(source, path, visitor)?,
        b"symlink" => {
            source.expect(b"target")?;
            let start = source.position;
            let target = source.string(MAX_LINK_TARGET)?;
            check_target(&target).map_err(|problem| NarError::Format { position: start, problem: problem.into() })?;
            source.expect(b")")?;
            visitor.symlink(path, &target).map_err(|error| NarError::visitor(path, error))?;
        }
        b"directory" => {
            visitor.directory(path).map_err(|error| NarError::visitor(path, error))?;
            return Ok(true);
        }
        other => return Err(unexpected(start, "a type of file", other)),
    }
    Ok(false)
}

/// Reads the words after "regular".
fn file<R: Read + ?Sized>(
    source: &mut Source<'_, R>,
    path: &NarPath,
    visitor: &mut dyn Visitor,
) -> Result<(), NarError> {
    let start = source.position;
    let mut word = [0; MAX_WORD];
    let executable = match source.word(&mut word)? {
        b"contents" => false,
        b"executable" => {
            source.expect(b"")?;
            source.expect(b"contents")?;
            true
        }
        other => return Err(unexpected(start, "'executable' or 'contents'", other)),
    };
    let start = source.position;
    let size = wire::read_u64(source).map_err(|error| source.wire(start, error))?;
    if size > MAX_NAR_FILE_SIZE {
        return Err(NarError::Format { position: start, problem: format!("a file of {size} bytes is too large") });
    }
    let mut contents = Contents { source, left: size, failure: None };
    let visited = visitor.file(path, executable, size, &mut contents);
    if visited.is_ok() && contents.left > 0 && contents.failure.is_none() {
        // The error, if there is one, is stored in `failure`.
        let _ = io::copy(&mut contents, &mut io::sink());
    }
    if let Some(error) = contents.failure {
        return Err(source.io(error));
    }
    visited.map_err(|error| NarError::visitor(path, error))?;
    let start = source.position;
    wire::read_padding(source, size).map_err(|error| source.wire(start, error))?;
    source.expect(b")")
}

/// Reads the beginning of a directory's next entry and returns true, or the directory's end and returns false.
fn entry<R: Read + ?Sized>(
    source: &mut Source<'_, R>,
    path: &mut NarPath,
    before: Option<&mut Vec<u8>>,
) -> Result<bool, NarError> {
    let start = source.position;
    let mut word = [0; MAX_WORD];
    match source.word(&mut word)? {
        b"entry" => {}
        b")" => return Ok(false),
        other => return Err(unexpected(start, "'entry' or ')'", other)),
    }
    source.expect(b"(")?;
    source.expect(b"name")?;
    let position = source.position;
    let name = source.string(MAX_ENTRY_NAME)?;
    path.push(&name).map_err(|bad| NarError::Format { position, problem: bad.to_string() })?;
    if let Some(before) = before {
        if *before >= name {
            let [name, before] = [&name, &*before].map(|name| name.escape_ascii());
            let problem = format!("the entries are out of order: '{name}' comes after '{before}'");
            return Err(NarError::Format { position, problem });
        }
        *before = name;
    }
    source.expect(b"node")?;
    Ok(true)
}

/// The reader, and the number of bytes read from it.
struct Source<'a, R: ?Sized> {
    reader: &'a mut R,
    position: u64,
}

impl<R: Read + ?Sized> Read for Source<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl<R: Read + ?Sized> Source<'_, R> {
    /// Reads any word of the grammar.
    fn word<'b>(&mut self, buffer: &'b mut [u8; MAX_WORD]) -> Result<&'b [u8], NarError> {
        let start = self.position;
        let length = wire::read_u64(self).map_err(|error| self.wire(start, error))?;
        let Some(word) = usize::try_from(length).ok().and_then(|length| buffer.get_mut(..length)) else {
            return Err(NarError::Format { position: start, problem: format!("no word has {length} bytes") });
        };
        self.read_exact(word).map_err(|error| self.io(error))?;
        wire::read_padding(self, length).map_err(|error| self.wire(start, error))?;
        Ok(word)
    }

    /// Reads this word of the grammar; any other is an error.
    fn expect(&mut self, expected: &[u8]) -> Result<(), NarError> {
        let start = self.position;
        let mut buffer = [0; MAX_WORD];
        match self.word(&mut buffer)? {
            word if word == expected => Ok(()),
            word => Err(unexpected(start, &format!("'{}'", expected.escape_ascii()), word)),
        }
    }

    fn string(&mut self, max: usize) -> Result<Vec<u8>, NarError> {
        let start = self.position;
        wire::read_bytes(self, max).map_err(|error| self.wire(start, error))
    }

    fn io(&self, error: io::Error) -> NarError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => NarError::Truncated { position: self.position },
            _ => NarError::Io { position: self.position, source: error },
        }
    }

    fn wire(&self, position: u64, error: WireError) -> NarError {
        match error {
            WireError::Io(error) => self.io(error),
            other => NarError::Format { position, problem: other.to_string() },
        }
    }
}

fn unexpected(position: u64, expected: &str, word: &[u8]) -> NarError {
    NarError::Format { position, problem: format!("expected {expected}, found '{}'", word.escape_ascii()) }
}

/// The bytes of one file. It distinguishes the reader's own error from that of the visitor.
struct Contents<'a, 'b, R: ?Sized> {
    source: &'a mut Source<'b, R>,
    left: u64,
    failure: Option<io::Error>,
}

impl<R: Read + ?Sized> Read for Contents<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if limit == 0 {
            return Ok(0);
        }
        let error = match self.source.read(&mut buffer[..limit]) {
            Ok(0) => io::ErrorKind::UnexpectedEof.into(),
            Ok(count) => {
                self.left -= count as u64;
                return Ok(count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => error,
        };
        let kind = error.kind();
        self.failure = Some(error);
        Err(kind.into())
    }
}

/// The reason why reading a nar ended early. Positions count bytes from the beginning of the nar.
#[derive(Debug, thiserror::Error)]
pub enum NarError {
    #[error("the nar cannot be read further than byte {position}")]
    Io { position: u64, source: io::Error },
    #[error("the nar ends early, at byte {position}")]
    Truncated { position: u64 },
    #[error("invalid nar, at byte {position}: {problem}")]
    Format { position: u64, problem: String },
    /// The visitor's own error: the nar is valid so far.
    #[error("'{path}' in the nar")]
    Visitor { path: String, source: io::Error },
}

impl NarError {
    fn visitor(path: &NarPath, error: io::Error) -> NarError {
        NarError::Visitor { path: path.to_string(), source: error }
    }
}
