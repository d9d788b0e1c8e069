//! `ImportPaths`: the daemon pulls a bundle, as fast as it can store it.

use std::io::{self, Read, Write};

use super::client::{Client, MAX_PATHS};
use super::error::Error;
use super::frames::Frame;
use super::operation::{Operation, WireRequest};
use crate::store::path::StorePath;

/// What the daemon asks for at a time, in bytes; each answer costs a round trip. So much is made ready for the next
/// question while the daemon works on the last answer.
const PIECE: usize = 32 << 10;

impl<S: Read + Write> Client<S> {
    /// Imports the items of `bundle`, markers included, and returns their paths. The daemon reads and verifies every
    /// item but leaves those that are valid already. It stores item by item: an error leaves those before it imported.
    ///
    /// When `bundle` fails, the daemon is told so, what was read since its last question is dropped, and the client
    /// stays usable.
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

/// What is ready to be sent.
#[derive(Default)]
struct Ahead {
    /// A piece of the bundle with room for its length before it, and then for padding.
    piece: Vec<u8>,
    /// Bytes of the bundle in the piece.
    size: usize,
    /// What was answered last, where that was only a part of the piece.
    part: Vec<u8>,
    /// Why the bundle cannot be read.
    failure: Option<io::Error>,
}

impl Ahead {
    /// Reads on, unless there is something left. The end of the bundle leaves nothing.
    fn fill(&mut self, bundle: &mut dyn Read) {
        if self.size > 0 {
            return;
        }
        self.piece.resize(8 + PIECE, 0);
        while self.size < PIECE && self.failure.is_none() {
            match bundle.read(&mut self.piece[8 + self.size..]) {
                Ok(0) => break,
                Ok(read) => self.size += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => self.failure = Some(error),
            }
        }
    }

    /// An answer of up to `wanted` bytes: the length, the bytes, padding.
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

/// Puts the length before `size` bytes, and padding after them.
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
    fn whatever_is_asked_for_the_bundle_comes_in_order() {
        let bundle: Vec<u8> = (0..PIECE + 100).map(|number| number as u8).collect();
        for wishes in [&[PIECE, PIECE][..], &[1 << 20, 1 << 20], &[7, 1, PIECE, 50, 50], &[PIECE - 1, 1, 99, 1]] {
            let answers = answers(&bundle, wishes);
            assert_eq!(answers.concat(), bundle, "{wishes:?}");
            assert!(answers.iter().zip(wishes).all(|(answer, wanted)| answer.len() <= *wanted));
        }
    }

    #[test]
    fn a_bundle_that_fails_says_so_when_it_is_asked() {
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
        let mut bundle = Failing(PIECE);
        ahead.fill(&mut bundle);
        assert_eq!(ahead.answer(PIECE).unwrap().len(), 8 + PIECE);
        ahead.fill(&mut bundle);
        assert_eq!(ahead.answer(PIECE).unwrap_err().to_string(), "damaged");
    }
}
