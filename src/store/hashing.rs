//! SHA-256 of the bytes that pass through a reader or a writer.

use std::io::{self, BufRead, Read, Write};

use sha2::{Digest, Sha256};

/// The bytes that are read ahead.
const BUFFER_SIZE: usize = 128 << 10;

/// A buffered reader that hashes and counts the bytes taken from it; bytes that are only read ahead do not count. Reads
/// into buffers as large as its own (128 KiB) go straight to the inner reader when nothing is buffered.
pub struct HashingReader<R> {
    inner: R,
    buffer: Box<[u8]>,
    /// The number of bytes of the inner reader in `buffer`.
    filled: usize,
    /// The number of these that were taken.
    taken: usize,
    /// The number of taken bytes that were hashed. Hashing waits until there are many bytes to hash.
    hashed: usize,
    hasher: Sha256,
    count: u64,
}

impl<R> HashingReader<R> {
    pub fn new(inner: R) -> HashingReader<R> {
        let buffer = vec![0; BUFFER_SIZE].into_boxed_slice();
        HashingReader { inner, buffer, filled: 0, taken: 0, hashed: 0, hasher: Sha256::new(), count: 0 }
    }

    /// Returns the SHA-256 of the bytes taken since the beginning or the last [`reset`](Self::reset).
    pub fn digest(&mut self) -> [u8; 32] {
        self.catch_up();
        self.hasher.clone().finalize().into()
    }

    /// Returns the number of bytes taken since the beginning or the last reset.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Begins a new digest and a new count with the next byte.
    pub fn reset(&mut self) {
        self.catch_up();
        self.hasher = Sha256::new();
        self.count = 0;
    }

    /// Returns the inner reader. Bytes that were read ahead are lost.
    pub fn into_inner(self) -> R {
        self.inner
    }

    fn catch_up(&mut self) {
        self.hasher.update(&self.buffer[self.hashed..self.taken]);
        self.hashed = self.taken;
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.filled && out.len() >= self.buffer.len() {
            self.catch_up();
            let count = self.inner.read(out)?;
            self.hasher.update(&out[..count]);
            self.count += count as u64;
            return Ok(count);
        }
        let available = self.fill_buf()?;
        let count = available.len().min(out.len());
        out[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl<R: Read> BufRead for HashingReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken == self.filled {
            self.catch_up();
            (self.filled, self.taken, self.hashed) = (0, 0, 0);
            self.filled = self.inner.read(&mut self.buffer)?;
        }
        Ok(&self.buffer[self.taken..self.filled])
    }

    fn consume(&mut self, amount: usize) {
        let taken = (self.taken + amount).min(self.filled);
        self.count += (taken - self.taken) as u64;
        self.taken = taken;
    }
}

/// A writer that hashes and counts the bytes that the inner writer accepts. It does not buffer.
pub struct HashingWriter<W> {
    inner: W,
    hasher: Sha256,
    count: u64,
}

impl<W> HashingWriter<W> {
    pub fn new(inner: W) -> HashingWriter<W> {
        HashingWriter { inner, hasher: Sha256::new(), count: 0 }
    }

    /// Returns the SHA-256 of the bytes written since the beginning or the last [`reset`](Self::reset).
    pub fn digest(&self) -> [u8; 32] {
        self.hasher.clone().finalize().into()
    }

    /// Returns the number of bytes written since the beginning or the last reset.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Begins a new digest and a new count with the next byte.
    pub fn reset(&mut self) {
        self.hasher = Sha256::new();
        self.count = 0;
    }

    pub fn into_inner(self) -> W {
        self.inner
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha256(bytes: &[u8]) -> [u8; 32] {
        Sha256::digest(bytes).into()
    }

    #[test]
    fn reading_hashes_the_bytes_taken() {
        let bytes: Vec<u8> = (0..3 * BUFFER_SIZE + 77).map(|index| index as u8).collect();
        let mut reader = HashingReader::new(&bytes[..]);
        let mut position = 0;
        // The sizes are below and above the buffer's, so that both ways of reading alternate.
        for size in [1, 7, 0, BUFFER_SIZE - 8, BUFFER_SIZE, 5, BUFFER_SIZE + 1, 64] {
            let mut out = vec![0; size];
            let count = reader.read(&mut out).unwrap();
            assert_eq!(out[..count], bytes[position..position + count]);
            position += count;
            assert_eq!(reader.digest(), sha256(&bytes[..position]));
            assert_eq!(reader.count(), position as u64);
        }
        reader.reset();
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, bytes[position..]);
        assert_eq!(reader.digest(), sha256(&rest));
        assert_eq!(reader.count(), rest.len() as u64);
    }

    #[test]
    fn reading_ahead_does_not_count() {
        let mut reader = HashingReader::new(&b"hello, world"[..]);
        assert_eq!(reader.fill_buf().unwrap(), b"hello, world");
        reader.consume(5);
        assert_eq!((reader.digest(), reader.count()), (sha256(b"hello"), 5));
        // A reader with a large buffer gets the bytes that were read ahead, too.
        let mut rest = vec![0; 2 * BUFFER_SIZE];
        assert_eq!(reader.read(&mut rest).unwrap(), 7);
        assert_eq!(rest[..7], *b", world");
        assert_eq!((reader.digest(), reader.count()), (sha256(b"hello, world"), 12));
    }

    #[test]
    fn writing_hashes_the_bytes_accepted() {
        let mut room = [0; 8];
        let mut writer = HashingWriter::new(&mut room[..]);
        writer.write_all(b"hello").unwrap();
        assert_eq!(writer.digest(), sha256(b"hello"));
        writer.reset();
        assert!(writer.write_all(b"world").is_err());
        assert_eq!((writer.digest(), writer.count()), (sha256(b"wor"), 3));
    }
}
