//! `ImportPaths`: the daemon pulls a bundle, as fast as it can store it.

use std::io::{self, Read, Write};

use super::client::{Client, MAX_PATHS};
use super::error::Error;
use super::link::Frame;
use super::operation::{Operation, Request};
use crate::store::path::StorePath;

/// Most bytes sent in one answer. The daemon asks for 32 KiB; each answer costs a round trip.
const MAX_ANSWER: usize = 64 << 10;

impl<S: Read + Write> Client<S> {
    /// Imports the items of `bundle`, markers included, and returns their paths. The daemon reads and verifies every item
    /// but leaves those that are valid already. It stores item by item: an error leaves those before it imported.
    ///
    /// When `bundle` fails, the daemon is told so, what was read since its last question is dropped, and the client stays
    /// usable.
    pub fn import_paths(&mut self, bundle: &mut dyn Read) -> Result<Vec<StorePath>, Error> {
        let request = Request::new(Operation::ImportPaths);
        let operation = request.operation.name();
        self.link.start(&request)?;
        let mut answer = Vec::new();
        while let Frame::Read(wanted) = self.import_frame()? {
            let cause = match fill(&mut answer, wanted as usize, bundle) {
                Ok(0) => io::Error::new(io::ErrorKind::UnexpectedEof, "the bundle ends too early"),
                Ok(_) => {
                    self.link.send(&answer)?;
                    continue;
                }
                Err(cause) => cause,
            };
            // An empty answer is the end of the data: the daemon gives up with an error of its own.
            self.link.send(&0u64.to_le_bytes())?;
            return Err(match self.link.last() {
                Err(Error::Daemon { .. }) => Error::Source { operation, cause },
                Err(error) => error,
                Ok(()) => self.link.unexpected("success after half a bundle"),
            });
        }
        let paths = self.link.paths(&self.store, MAX_PATHS)?;
        self.link.finish();
        Ok(paths)
    }

    fn import_frame(&mut self) -> Result<Frame, Error> {
        match self.link.frame()? {
            Frame::Read(0) => Err(self.link.unexpected("a wish for no bytes")),
            frame @ Frame::Write(_) => Err(self.link.unexpected(format!("{frame:?}"))),
            frame => Ok(frame),
        }
    }
}

/// Makes an answer of up to `wanted` bytes from `bundle`: the length, the bytes, padding. Returns the length.
fn fill(answer: &mut Vec<u8>, wanted: usize, bundle: &mut dyn Read) -> io::Result<usize> {
    answer.resize(8 + wanted.min(MAX_ANSWER), 0);
    let mut size = 0;
    while 8 + size < answer.len() {
        match bundle.read(&mut answer[8 + size..]) {
            Ok(0) => break,
            Ok(read) => size += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    answer.truncate(8 + size);
    answer.resize((8 + size).next_multiple_of(8), 0);
    answer[..8].copy_from_slice(&(size as u64).to_le_bytes());
    Ok(size)
}
