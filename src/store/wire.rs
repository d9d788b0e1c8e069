//! The encoding that the worker protocol, nars and export streams share.
//!
//! - An *integer* is 8 bytes, little endian. Most are 32 bits wide, and their upper half must be zero ([`read_int`]);
//!   some use all 64 ([`read_u64`]).
//! - A *boolean* is the integer 0 or 1.
//! - A *string* is an integer, that many bytes, and zero bytes up to the next multiple of 8.
//! - A *list* is an integer and that many strings.
//!
//! Source: the daemon's `libutil/serialise.cc`. Like the daemon, this reader refuses padding that is not zero; it also
//! refuses booleans other than 0 and 1. The meaning of a string's bytes is not checked here.
//!
//! The functions make several small calls for one value, so readers and writers should be buffered.

use std::io::{self, Read, Write};

/// The bytes that are allocated for a string before they arrive.
const READ_CHUNK: usize = 64 << 10;

/// A fault of a value.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{value:#x} does not fit into 32 bits")]
    NotInt { value: u64 },
    #[error("{value:#x} is not a boolean")]
    NotBool { value: u64 },
    #[error("a string of {length} bytes is longer than the {max} allowed here")]
    TooLong { length: u64, max: usize },
    #[error("a list of {count} strings is longer than the {max} allowed here")]
    TooMany { count: u64, max: usize },
    #[error("the padding after a string is not zero")]
    Padding,
}

impl From<WireError> for io::Error {
    fn from(error: WireError) -> io::Error {
        match error {
            WireError::Io(error) => error,
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// Reads an integer of 64 bits.
pub fn read_u64<R: Read + ?Sized>(reader: &mut R) -> Result<u64, WireError> {
    let mut bytes = [0; 8];
    reader.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Reads an integer whose upper half must be zero.
pub fn read_int<R: Read + ?Sized>(reader: &mut R) -> Result<u32, WireError> {
    let value = read_u64(reader)?;
    u32::try_from(value).map_err(|_| WireError::NotInt { value })
}

pub fn read_bool<R: Read + ?Sized>(reader: &mut R) -> Result<bool, WireError> {
    match read_u64(reader)? {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(WireError::NotBool { value }),
    }
}

/// Reads a string of at most `max` bytes. Memory grows with the bytes that arrive, not with the announced length.
pub fn read_bytes<R: Read + ?Sized>(reader: &mut R, max: usize) -> Result<Vec<u8>, WireError> {
    let length = read_u64(reader)?;
    let length = match usize::try_from(length) {
        Ok(short) if short <= max => short,
        _ => return Err(WireError::TooLong { length, max }),
    };
    let padded = length + padding(length as u64);
    let mut bytes = Vec::with_capacity(padded.min(READ_CHUNK));
    if reader.take(padded as u64).read_to_end(&mut bytes)? < padded {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    if bytes[length..].iter().any(|&byte| byte != 0) {
        return Err(WireError::Padding);
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// Reads a list of at most `max_count` strings, each of at most `max_each` bytes.
pub fn read_list<R: Read + ?Sized>(
    reader: &mut R,
    max_count: usize,
    max_each: usize,
) -> Result<Vec<Vec<u8>>, WireError> {
    let count = read_count(reader, max_count)?;
    (0..count).map(|_| read_bytes(reader, max_each)).collect()
}

/// Reads the number of strings in a list, at most `max`; the caller reads the strings.
pub fn read_count<R: Read + ?Sized>(reader: &mut R, max: usize) -> Result<usize, WireError> {
    let count = read_u64(reader)?;
    match usize::try_from(count) {
        Ok(few) if few <= max => Ok(few),
        _ => Err(WireError::TooMany { count, max }),
    }
}

/// Reads the zero bytes after a string of `length` bytes that the caller has read.
pub fn read_padding<R: Read + ?Sized>(reader: &mut R, length: u64) -> Result<(), WireError> {
    let mut bytes = [0; 8];
    let bytes = &mut bytes[..padding(length)];
    reader.read_exact(bytes)?;
    if bytes.iter().any(|&byte| byte != 0) { Err(WireError::Padding) } else { Ok(()) }
}

/// Returns the number of zero bytes that follow a string of `length` bytes.
pub fn padding(length: u64) -> usize {
    (length.wrapping_neg() % 8) as usize
}

pub fn write_u64<W: Write + ?Sized>(writer: &mut W, value: u64) -> io::Result<()> {
    writer.write_all(&value.to_le_bytes())
}

pub fn write_int<W: Write + ?Sized>(writer: &mut W, value: u32) -> io::Result<()> {
    write_u64(writer, value.into())
}

pub fn write_bool<W: Write + ?Sized>(writer: &mut W, value: bool) -> io::Result<()> {
    write_u64(writer, value.into())
}

pub fn write_bytes<W: Write + ?Sized>(writer: &mut W, bytes: &[u8]) -> io::Result<()> {
    write_u64(writer, bytes.len() as u64)?;
    writer.write_all(bytes)?;
    write_padding(writer, bytes.len() as u64)
}

pub fn write_list<W, I>(writer: &mut W, strings: I) -> io::Result<()>
where
    W: Write + ?Sized,
    I: IntoIterator<Item: AsRef<[u8]>, IntoIter: ExactSizeIterator>,
{
    let strings = strings.into_iter();
    write_u64(writer, strings.len() as u64)?;
    strings.into_iter().try_for_each(|string| write_bytes(writer, string.as_ref()))
}

/// Writes the zero bytes after a string of `length` bytes that the caller has written.
pub fn write_padding<W: Write + ?Sized>(writer: &mut W, length: u64) -> io::Result<()> {
    writer.write_all(&[0; 8][..padding(length)])
}

#[cfg(test)]
mod tests;
