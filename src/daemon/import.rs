//! `ImportPaths`: the daemon pulls a bundle as fast as it can store it.

use std::io::{self, Read, Write};

use super::client::{Client, MAX_PATHS};
use super::error::Error;
use super::frames::Frame;
use super::operation::{Operation, WireRequest};
use crate::store::path::StorePath;

/// The bytes that the daemon requests at a time; each request costs a round trip. A piece of this size is prepared
/// while the daemon processes the last one.
const WRITE_CHUNK: usize = 32 << 10;

impl<S: Read + Write> Client<S> {
    /// Imports the items of `bundle`, including its markers, and returns their paths. The daemon reads and verifies
    /// every item, but skips those that are valid already. It stores item by item: after an error the items before it
    /// are imported.
    ///
    /// If `bundle` fails, the client ends the import, drops the bytes read since the daemon's last request, and stays
    /// usable.
    pub fn import_paths(&mut self, bundle: &mut dyn Read) -> Result<Vec<StorePath>, Error> {
        let request = WireRequest::new(Operation::ImportPaths);
        let operation = request.operation.name();
        self.link.start(&request)?;
        let mut ahead = Ahead::default();
        ahead.fill(bundle);
        while let Frame::Read(wanted) = self.import_frame()? {
            let cause = match ahead.answer(wanted as usize) {
                Ok(answer) => {
                    self.link.send(answer)?;
                    ahead.fill(bundle);
                    continue;
                }
                Err(cause) => cause,
            };
            // An empty answer is the end of the data: the daemon stops with an error of its own.
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
            Frame::Read(0) => Err(self.link.unexpected("a request for no bytes")),
            frame @ Frame::Write(_) => Err(self.link.unexpected(format!("{frame:?}"))),
            frame => Ok(frame),
        }
    }
}

/// Data that is prepared for the next request.
#[derive(Default)]
struct Ahead {
    /// A piece of the bundle, with space for its length before it and padding after it.
    piece: Vec<u8>,
    /// Bytes of the bundle in the piece.
    size: usize,
    /// The last answer, if it was only a part of the piece.
    part: Vec<u8>,
    /// The error with which the bundle cannot be read.
    failure: Option<io::Error>,
}

impl Ahead {
    /// Reads the next piece, unless some of the last one is left. At the end of the bundle the piece is empty.
    fn fill(&mut self, bundle: &mut dyn Read) {
        if self.size > 0 {
            return;
        }
        self.piece.resize(8 + WRITE_CHUNK, 0);
        while self.size < WRITE_CHUNK && self.failure.is_none() {
            match bundle.read(&mut self.piece[8 + self.size..]) {
                Ok(0) => break,
                Ok(read) => self.size += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => self.failure = Some(error),
            }
        }
    }

    /// Returns an answer of up to `wanted` bytes: the length, the bytes, padding.
    fn answer(&mut self, wanted: usize) -> io::Result<&[u8]> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if self.size == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the bundle ends too early"));
        }
        let size = wanted.min(self.size);
        if size < self.size {
            self.part.clear();
            self.part.extend_from_slice(&[0; 8]);
            self.part.extend(self.piece.drain(8..8 + size));
            self.size -= size;
            return Ok(finished(&mut self.part, size));
        }
        self.size = 0;
        Ok(finished(&mut self.piece, size))
    }
}

/// Writes the length before `size` bytes, and padding after them.
fn finished(answer: &mut Vec<u8>, size: usize) -> &[u8] {
    answer.truncate(8 + size);
    answer.resize((8 + size).next_multiple_of(8), 0);
    answer[..8].copy_from_slice(&(size as u64).to_le_bytes());
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(bundle: &[u8], wishes: &[usize]) -> Vec<Vec<u8>> {
        let mut bundle = bundle;
        let mut ahead = Ahead::default();
        ahead.fill(&mut bundle);
        let mut answers = Vec::new();
        for wanted in wishes {
            let answer = ahead.answer(*wanted).unwrap().to_vec();
            assert!(answer.len() % 8 == 0 && answer.len() >= 8);
            let size = u64::from_le_bytes(answer[..8].try_into().unwrap()) as usize;
            assert!(answer[8 + size..].iter().all(|byte| *byte == 0) && answer.len() < 8 + size + 8);
            answers.push(answer[8..8 + size].to_vec());
            ahead.fill(&mut bundle);
        }
        assert_eq!(ahead.answer(1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        answers
    }

    #[test]
    fn requests_of_any_size_get_the_bundle_in_order() {
        let bundle: Vec<u8> = (0..WRITE_CHUNK + 100).map(|number| number as u8).collect();
        for wishes in [
            &[WRITE_CHUNK, WRITE_CHUNK][..],
            &[1 << 20, 1 << 20],
            &[7, 1, WRITE_CHUNK, 50, 50],
            &[WRITE_CHUNK - 1, 1, 99, 1],
        ] {
            let answers = answers(&bundle, wishes);
            assert_eq!(answers.concat(), bundle, "{wishes:?}");
            assert!(answers.iter().zip(wishes).all(|(answer, wanted)| answer.len() <= *wanted));
        }
    }

    #[test]
    fn a_failing_bundle_reports_its_error_on_request() {
        struct Failing(usize);
        impl Read for Failing {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if self.0 == 0 {
                    return Err(io::Error::other("damaged"));
                }
                let size = self.0.min(buffer.len());
                self.0 -= size;
                Ok(size)
            }
        }
        let mut ahead = Ahead::default();
        let mut bundle = Failing(WRITE_CHUNK);
        ahead.fill(&mut bundle);
        assert_eq!(ahead.answer(WRITE_CHUNK).unwrap().len(), 8 + WRITE_CHUNK);
        ahead.fill(&mut bundle);
        assert_eq!(ahead.answer(WRITE_CHUNK).unwrap_err().to_string(), "damaged");
    }
}
