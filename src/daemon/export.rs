//! `ExportPath`: the daemon pushes an item, and a function of the caller reads it.

use std::io::{self, Read, Write};

use super::client::Client;
use super::error::{Error, ExportError};
use super::frames::{Frame, FrameStream};
use super::operation::{Operation, WireRequest};
use crate::store::path::StorePath;

impl<S: Read + Write> Client<S> {
    /// Calls `consume` with a reader of the item of `path` (nar and trailer, no marker), signed by the daemon if `sign`
    /// is true, and returns its result. `consume` must read the item to its end.
    ///
    /// A failure of the daemon or the link reaches `consume` as an error of its reader, and is returned here as itself.
    pub fn export_path<T, E>(
        &mut self,
        path: &StorePath,
        sign: bool,
        consume: impl FnOnce(&mut dyn Read) -> Result<T, E>,
    ) -> Result<T, ExportError<E>> {
        self.start_export(path, sign)?;
        self.finish_export(consume)
    }

    /// Requests an export. [`finish_export`](Client::finish_export) must follow before any other operation.
    pub fn start_export(&mut self, path: &StorePath, sign: bool) -> Result<(), Error> {
        self.link.start(&WireRequest::new(Operation::ExportPath).path(path).bool(sign))
    }

    /// Reads the export of [`start_export`](Client::start_export).
    pub fn finish_export<T, E>(
        &mut self,
        consume: impl FnOnce(&mut dyn Read) -> Result<T, E>,
    ) -> Result<T, ExportError<E>> {
        let mut item = ItemReader { link: &mut self.link, left: 0, size: 0, end: None };
        let result = consume(&mut item);
        if let Some(Err(error)) = item.end {
            return Err(error.into());
        }
        let value = result.map_err(ExportError::Consumer)?;
        // The consumer may not have read up to the end. The daemon reports some errors, such as a failed signature,
        // after the data.
        match item.next() {
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(_)) => return Err(self.link.unexpected("data after the end of the item").into()),
            None => (),
        }
        self.link.done()?;
        self.link.finish();
        Ok(value)
    }
}

/// The data of `WRITE` frames as one stream.
struct ItemReader<'a, S> {
    link: &'a mut FrameStream<S>,
    /// The remaining bytes of the current frame.
    left: u64,
    /// The bytes of the current frame, for its padding.
    size: u64,
    /// Set when no more data will come: after `LAST`, or after an error.
    end: Option<Result<(), Error>>,
}

impl<S: Read + Write> ItemReader<'_, S> {
    /// Reads up to the next data, and returns the remaining bytes of the frame. `None` at the end.
    fn next(&mut self) -> Option<Result<u64, Error>> {
        loop {
            if self.left > 0 {
                return Some(Ok(self.left));
            }
            if self.end.is_some() {
                return None;
            }
            match self.link.frame() {
                Ok(Frame::Write(size)) => (self.left, self.size) = (size, size),
                Ok(Frame::Last) => self.end = Some(Ok(())),
                Ok(frame) => return Some(Err(self.link.unexpected(format!("{frame:?}")))),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn read_frame(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let Some(left) = self.next().transpose()? else { return Ok(0) };
        let part = left.min(buffer.len() as u64) as usize;
        self.link.data(&mut buffer[..part])?;
        self.left -= part as u64;
        if self.left == 0 {
            self.link.padding(self.size)?;
        }
        Ok(part)
    }
}

impl<S: Read + Write> Read for ItemReader<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if let Some(Err(error)) = &self.end {
            return Err(io::Error::other(error.to_string()));
        }
        self.read_frame(buffer).map_err(|error| {
            let copy = io::Error::other(error.to_string());
            self.end = Some(Err(error));
            copy
        })
    }
}
