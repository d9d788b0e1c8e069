//! Export streams: store items in transit between stores ("nar bundles").
//!
//! ```text
//! bundle := { u64 1, item } u64 0
//! item   := nar int "NIXE" path references deriver int 0
//!         | nar int "NIXE" path references deriver int 1 signature
//! ```
//!
//! `path`, `deriver` and `signature` are strings. `references` is a list of strings, sorted. The deriver is empty if
//! there is none. The items of a bundle follow their references. The signature is of the SHA-256 of the item, from the
//! first byte of the nar to the last of the deriver, padding included; [`HashingReader`] and [`HashingWriter`] compute
//! it as the data pass. The daemon's ExportPath returns one item, its ImportPaths reads a bundle. Sources: `exportPath`
//! and `importPath` of the daemon's `libstore/local-store.cc`, `guix/nar.scm`.
//!
//! The part after the nar is called the *trailer* here. It is read strictly: valid store paths, references sorted and
//! unique. Not checked here: the signature, whether the item was requested, and whether its references are allowed.

use std::io::{self, Read, Write};

use super::path::{PathError, StoreDir, StorePath};
use super::wire::{self, WireError};

pub use super::hashing::{HashingReader, HashingWriter};

/// The marker before each item of a bundle.
pub const ITEM_MARKER: u64 = 1;
/// The marker after the last item of a bundle.
pub const END_MARKER: u64 = 0;
/// The number between the nar and the rest of an item: "NIXE".
pub const EXPORT_MAGIC: u32 = 0x4558_494e;
/// The limit of references of an item.
pub const MAX_REFERENCES: usize = 1 << 16;
/// The size limit of a signature, in bytes. A signature by an RSA key of 4096 bits has 2500.
pub const MAX_SIGNATURE: usize = 16 << 10;

/// The metadata of a store item, which follow its nar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trailer {
    pub path: StorePath,
    /// The items it refers to, possibly itself. Sorted, unique.
    pub references: Vec<StorePath>,
    /// The derivation that produced it, if that is known.
    pub deriver: Option<StorePath>,
    /// The text of the signature, as bytes: in the rare case that a number looks like text, Guix writes it as text in
    /// ISO 8859-1.
    pub signature: Option<Vec<u8>>,
}

impl Trailer {
    /// Reads from the end of the nar to the end of the item. Also returns the SHA-256 that the signature must be of,
    /// provided that `reader` began a new digest at the first byte of the nar.
    pub fn read<R: Read>(store: &StoreDir, reader: &mut HashingReader<R>) -> Result<(Trailer, [u8; 32]), ExportError> {
        match part(reader, "the magic number", wire::read_int)? {
            EXPORT_MAGIC => {}
            number => return Err(ExportError::Magic { number, position: reader.count() }),
        }
        let path = read_path(store, reader, "the path")?;
        let count = part(reader, "the references", |reader| wire::read_count(reader, MAX_REFERENCES))?;
        let mut references: Vec<StorePath> = Vec::new();
        for _ in 0..count {
            let reference = read_path(store, reader, "the references")?;
            if references.last().is_some_and(|before| *before >= reference) {
                return Err(ExportError::Order { path, position: reader.count() });
            }
            references.push(reference);
        }
        let deriver = read_optional_path(store, reader, "the deriver")?;
        let digest = reader.digest();
        let signature = match part(reader, "whether there is a signature", wire::read_bool)? {
            true => Some(part(reader, "the signature", |reader| wire::read_bytes(reader, MAX_SIGNATURE))?),
            false => None,
        };
        Ok((Trailer { path, references, deriver, signature }, digest))
    }

    /// Writes the part that the signature covers besides the nar.
    pub fn write_signed_part<W: Write + ?Sized>(&self, writer: &mut W) -> io::Result<()> {
        wire::write_int(writer, EXPORT_MAGIC)?;
        wire::write_bytes(writer, self.path.as_ref())?;
        wire::write_list(writer, &self.references)?;
        wire::write_bytes(writer, self.deriver.as_ref().map_or(b"", AsRef::as_ref))
    }

    /// Writes the signature, or that there is none.
    pub fn write_signature<W: Write + ?Sized>(&self, writer: &mut W) -> io::Result<()> {
        wire::write_bool(writer, self.signature.is_some())?;
        self.signature.iter().try_for_each(|signature| wire::write_bytes(writer, signature))
    }
}

/// Reads one part of a trailer; `what` names it.
fn part<R: Read, T>(
    reader: &mut HashingReader<R>,
    what: &'static str,
    read: impl FnOnce(&mut HashingReader<R>) -> Result<T, WireError>,
) -> Result<T, ExportError> {
    read(reader).map_err(|error| ExportError::wire(what, reader.count(), error))
}

/// Reads a path or an empty string.
fn read_optional_path<R: Read>(
    store: &StoreDir,
    reader: &mut HashingReader<R>,
    what: &'static str,
) -> Result<Option<StorePath>, ExportError> {
    let path = part(reader, what, |reader| wire::read_bytes(reader, store.max_path()))?;
    let path = (!path.is_empty()).then(|| StorePath::parse(store, &path)).transpose();
    path.map_err(|cause| ExportError::Path { what, position: reader.count(), cause })
}

fn read_path<R: Read>(
    store: &StoreDir,
    reader: &mut HashingReader<R>,
    what: &'static str,
) -> Result<StorePath, ExportError> {
    let path = part(reader, what, |reader| wire::read_bytes(reader, store.max_path()))?;
    StorePath::parse(store, &path).map_err(|cause| ExportError::Path { what, position: reader.count(), cause })
}

/// Reads the marker before an item of a bundle; false at the bundle's end.
pub fn read_marker<R: Read + ?Sized>(reader: &mut R) -> Result<bool, ExportError> {
    match wire::read_u64(reader).map_err(|error| ExportError::wire("the marker", 0, error))? {
        ITEM_MARKER => Ok(true),
        END_MARKER => Ok(false),
        number => Err(ExportError::Marker { number }),
    }
}

/// The reason why an export stream cannot be read further. Positions are the bytes read from the beginning of the item.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("the export stream ends in {what}, at byte {position} of the item")]
    Truncated { what: &'static str, position: u64 },
    #[error("the export stream cannot be read further than {what}, at byte {position} of the item")]
    Io { what: &'static str, position: u64, source: io::Error },
    #[error("invalid export stream, in {what}, at byte {position} of the item: {problem}")]
    Format { what: &'static str, position: u64, problem: String },
    #[error("invalid export stream: the number before an item is {number:#x}")]
    Marker { number: u64 },
    #[error("invalid export stream, at byte {position} of the item: the number after the nar is {number:#x}")]
    Magic { number: u32, position: u64 },
    #[error("invalid export stream, in {what}, at byte {position} of the item: {cause}")]
    Path { what: &'static str, position: u64, cause: PathError },
    #[error(
        "invalid export stream, at byte {position} of the item: the references of '{path}' are not sorted, or one is there \
         twice"
    )]
    Order { path: StorePath, position: u64 },
}

impl ExportError {
    fn wire(what: &'static str, position: u64, error: WireError) -> ExportError {
        match error {
            WireError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                ExportError::Truncated { what, position }
            }
            WireError::Io(source) => ExportError::Io { what, position, source },
            other => ExportError::Format { what, position, problem: other.to_string() },
        }
    }
}

#[cfg(test)]
mod tests;
