//! Reading a log that grows, and decompressing it.

use std::io::{self, Read};
use std::thread;
use std::time::Duration;

use flate2::read::GzDecoder;

/// How often a log that is followed is checked for more.
pub const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How the daemon compressed a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Bzip2,
}

/// The endings of log files.
pub const LOCAL_NAMES: [(&str, Compression); 3] =
    [(".gz", Compression::Gzip), ("", Compression::None), (".bz2", Compression::Bzip2)];

/// Returns a reader of the text of a log. The error is the compression, if this program cannot undo it.
pub fn decoder<'a>(log: impl Read + 'a, kind: Compression) -> Result<Box<dyn Read + 'a>, Compression> {
    match kind {
        Compression::None => Ok(Box::new(log)),
        Compression::Gzip => Ok(Box::new(GzDecoder::new(log))),
        Compression::Bzip2 => Err(kind),
    }
}

/// A file that has its end only when its writer is done.
pub struct Follow<R, W> {
    file: R,
    is_running: W,
    /// The writer was done before the last read.
    is_over: bool,
}

impl<R: Read, W: Fn() -> bool> Follow<R, W> {
    /// Follows `file` while `is_running`.
    pub fn new(file: R, is_running: W) -> Follow<R, W> {
        Follow { file, is_running, is_over: false }
    }
}

impl<R: Read, W: Fn() -> bool> Read for Follow<R, W> {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.file.read(piece)?;
            if count > 0 || piece.is_empty() || self.is_over {
                return Ok(count);
            }
            // The next read returns the text that it wrote before its end.
            self.is_over = !(self.is_running)();
            if !self.is_over {
                thread::sleep(POLL_INTERVAL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::io::Write;

    use flate2::write::GzEncoder;

    use super::*;

    /// A file that has its next piece at the next read; an empty one is its end for now.
    struct Growing(RefCell<VecDeque<Vec<u8>>>);

    impl Read for &Growing {
        fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
            let next = self.0.borrow_mut().pop_front().unwrap_or_default();
            piece[..next.len()].copy_from_slice(&next);
            Ok(next.len())
        }
    }

    fn text(pieces: &[&[u8]], kind: Compression) -> io::Result<String> {
        let file = Growing(RefCell::new(pieces.iter().map(|piece| piece.to_vec()).collect()));
        let is_running = || file.0.borrow().len() > 1;
        let mut text = String::new();
        decoder(Follow::new(&file, is_running), kind).unwrap().read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn a_log_is_followed_to_what_was_written_last() {
        let pieces: [&[u8]; 5] = [b"one ", b"", b"two ", b"", b"three"];
        assert_eq!(text(&pieces, Compression::None).unwrap(), "one two three");
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(b"one two three").unwrap();
        let whole = encoder.finish().unwrap();
        let (first, second) = whole.split_at(15);
        assert_eq!(text(&[first, b"", b"", second], Compression::Gzip).unwrap(), "one two three");
        assert_eq!(text(&[first], Compression::Gzip).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(decoder(io::empty(), Compression::Bzip2).err(), Some(Compression::Bzip2));
    }
}
