//! Items of this store as a bundle that another store can import. Each is read from the file system, hashed and signed
//! as it is sent.
//!
//! Before an item is signed, its size and hash are compared with the database, so that damaged items are not sent under
//! this machine's name. The format is that of [`store::export`](crate::store::export). Memory does not grow with the
//! size of the items.

use std::io::{self, Cursor, Read};
use std::vec;

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::content_address::read_nar;
use super::database::Item;
use super::dump::Dump;
use super::store::Store;
use crate::store::base16;
use crate::store::export::{END_MARKER, ITEM_MARKER, Trailer};
use crate::store::path::StorePath;

/// A bundle of signed items, with the markers before and after them.
///
/// The errors of its `read` are [`ExportError`] inside `io::Error`; after one, nothing more can be read.
pub struct Bundle<'a, F> {
    store: &'a Store,
    sign: F,
    items: vec::IntoIter<Item>,
    current: Option<Reading>,
    /// Bytes that were made, and the number of them that was read.
    made: Cursor<Vec<u8>>,
    ended: bool,
}

/// An item whose nar is being read.
struct Reading {
    item: Item,
    nar: Dump,
    /// The hash of all bytes since the nar began.
    hasher: Sha256,
    size: u64,
}

impl<'a, F: FnMut(&[u8; 32]) -> io::Result<Vec<u8>>> Bundle<'a, F> {
    /// Makes a bundle of `items`, which must be sorted with their references first. `sign` makes the signature of a
    /// digest.
    pub fn new(store: &'a Store, items: Vec<Item>, sign: F) -> Bundle<'a, F> {
        Bundle { store, sign, items: items.into_iter(), current: None, made: Cursor::default(), ended: false }
    }

    /// Reads from the current nar; returns 0 at its end, and if there is none.
    fn read_nar(&mut self, buffer: &mut [u8]) -> Result<usize, ExportError> {
        let Some(Reading { item, nar, hasher, size }) = &mut self.current else { return Ok(0) };
        let count = nar.read(buffer).map_err(|cause| ExportError::Read { path: item.path.clone(), cause })?;
        hasher.update(&buffer[..count]);
        *size += count as u64;
        Ok(count)
    }

    /// Makes the bytes between a nar and the next one.
    fn advance(&mut self) -> Result<(), ExportError> {
        self.made.set_position(0);
        let made = self.made.get_mut();
        made.clear();
        if let Some(reading) = self.current.take() {
            reading.trailer(&mut self.sign, made)?;
        }
        if let Some(item) = self.items.next() {
            let nar = read_nar(self.store, &item.path)
                .map_err(|cause| ExportError::Read { path: item.path.clone(), cause })?;
            self.current = Some(Reading { item, nar, hasher: Sha256::new(), size: 0 });
            made.extend_from_slice(&ITEM_MARKER.to_le_bytes());
        } else if !self.ended {
            self.ended = true;
            made.extend_from_slice(&END_MARKER.to_le_bytes());
        }
        Ok(())
    }
}

impl<F: FnMut(&[u8; 32]) -> io::Result<Vec<u8>>> Read for Bundle<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let count = self.made.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            let count = self.read_nar(buffer).map_err(io::Error::other)?;
            if count > 0 {
                return Ok(count);
            }
            self.advance().map_err(io::Error::other)?;
            if self.made.get_ref().is_empty() {
                return Ok(0);
            }
        }
    }
}

impl Reading {
    /// Returns the bytes after the nar, if the nar has the recorded size and hash.
    fn trailer(
        mut self,
        sign: &mut impl FnMut(&[u8; 32]) -> io::Result<Vec<u8>>,
        made: &mut Vec<u8>,
    ) -> Result<(), ExportError> {
        let found: [u8; 32] = self.hasher.clone().finalize().into();
        if found != self.item.nar_hash || ![0, self.size].contains(&self.item.nar_size) {
            return Err(ExportError::Damaged {
                path: self.item.path,
                found: base16::encode(&found),
                size: self.size,
                registered: base16::encode(&self.item.nar_hash),
                registered_size: self.item.nar_size,
            });
        }
        let Item { path, references, deriver, .. } = self.item;
        let mut trailer = Trailer { path, references, deriver, signature: None };
        let signature = trailer.write_signed_part(made).and_then(|()| {
            self.hasher.update(&made);
            sign(&self.hasher.finalize().into())
        });
        let written = signature.and_then(|signature| {
            trailer.signature = Some(signature);
            trailer.write_signature(made)
        });
        written.map_err(|cause| ExportError::Sign { path: trailer.path, cause })
    }
}

/// The reason why an item cannot be sent.
#[derive(Debug, Error)]
pub enum ExportError {
    #[error("cannot read '{path}': {cause}")]
    Read { path: StorePath, cause: io::Error },
    #[error(
        "'{path}' is damaged: its nar has {size} bytes with hash {found}, but {registered_size} with {registered} were \
         registered; try `guix gc --verify=contents,repair`"
    )]
    Damaged { path: StorePath, found: String, size: u64, registered: String, registered_size: u64 },
    #[error("cannot sign '{path}': {cause}")]
    Sign { path: StorePath, cause: io::Error },
}

#[cfg(test)]
mod tests;
