//! Requests out, frames in: the layer under the operations.
//!
//! A request is gathered in memory and leaves in one write. Then the daemon speaks in frames until `LAST` or `ERROR`;
//! the values of a reply follow `LAST`. Nothing is ever sent between a request and the end of its reply, but the answer
//! to a `READ` frame: the daemon takes any byte that arrives while it works for the end of the connection.

use std::io::{self, BufReader, Read, Write};

use super::build_trace::{FrameReader, TraceSink};
use super::error::Error;
use super::operation::WireRequest;
use crate::store::path::{StoreDir, StorePath};
use crate::store::wire::{self, WireError};
use crate::text::printable;

const NEXT: u64 = 0x6f6c_6d67;
const WRITE: u64 = 0x6461_7416;
const READ: u64 = 0x6461_7461;
const LAST: u64 = 0x616c_7473;
const ERROR: u64 = 0x6378_7470;

/// Largest frame of log text or data accepted, in bytes. The daemon's own are 64 KiB at most, log text that it writes
/// in one piece aside. Frames pass through a small buffer whatever their size.
const MAX_FRAME: u64 = 64 << 20;
/// Largest error message accepted, in bytes.
const MAX_MESSAGE: usize = 1 << 20;
/// How much of an error message is kept, in bytes.
const KEPT_MESSAGE: usize = 16 << 10;
/// Most log text that an operation may bring where nobody wants it, in bytes. It never ends otherwise: text that
/// arrives counts as a sign of life.
const MAX_UNHEARD: u64 = 1 << 20;
/// Bytes of a frame before what it holds.
const FRAME_HEAD: u64 = 16;
/// Longest name in the store that is accepted in a list of what was deleted, in bytes.
const MAX_NAME: usize = 4096;

/// Receives log text: any bytes, not divided into lines.
pub type Log = Box<dyn FnMut(&[u8]) + Send>;

/// A frame that is for the operation to deal with.
#[derive(Debug)]
pub(super) enum Frame {
    /// The reply follows.
    Last,
    /// Data follow: this many bytes, then padding.
    Write(u64),
    /// The daemon wants at least one byte and no more than this many.
    Read(u64),
}

pub(super) struct FrameStream<S> {
    stream: Counted<S>,
    log: Option<Log>,
    /// Receives the build trace, where frames are to be told apart.
    trace: Option<TraceSink>,
    frames: FrameReader,
    /// Is called when a request begins.
    on_request: Option<Box<dyn FnMut() + Send>>,
    /// How much log text has been dropped during the operation at hand, frames included.
    unheard: u64,
    /// What is going on, for errors.
    operation: &'static str,
    /// Whether the next byte in each direction is known to begin a request or a reply.
    usable: bool,
}

impl<S: Read + Write> FrameStream<S> {
    pub fn new(stream: S) -> FrameStream<S> {
        let stream = Counted { reader: BufReader::with_capacity(64 << 10, stream), count: 0 };
        FrameStream {
            stream,
            log: None,
            trace: None,
            frames: FrameReader::default(),
            on_request: None,
            unheard: 0,
            operation: "handshake",
            usable: true,
        }
    }

    pub fn set_log(&mut self, log: Option<Log>, trace: Option<TraceSink>) {
        (self.log, self.trace) = (log, trace);
    }

    pub fn on_request(&mut self, callback: Box<dyn FnMut() + Send>) {
        self.on_request = Some(callback);
    }

    pub fn stream_mut(&mut self) -> &mut S {
        self.stream.reader.get_mut()
    }

    /// The stream, if nothing is left to be read.
    pub fn into_stream(self) -> Option<S> {
        let Counted { reader, .. } = self.stream;
        (self.usable && reader.buffer().is_empty()).then(|| reader.into_inner())
    }

    pub fn is_usable(&self) -> bool {
        self.usable
    }

    /// Sends a request. From here on the connection counts as broken until `finish` says otherwise.
    pub fn start(&mut self, request: &WireRequest) -> Result<(), Error> {
        self.operation = request.operation.name();
        if !self.usable {
            return Err(Error::Broken { operation: self.operation });
        }
        self.usable = false;
        self.unheard = 0;
        if let Some(callback) = &mut self.on_request {
            callback();
        }
        self.send(&request.bytes)
    }

    /// The reply has been read to its end, or the daemon refused: the next request may follow.
    pub fn finish(&mut self) {
        self.usable = true;
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let stream = self.stream.reader.get_mut();
        let sent = stream.write_all(bytes).and_then(|()| stream.flush());
        sent.map_err(|cause| Error::Link { operation: self.operation, cause })
    }

    /// The next frame that is not log text. An `ERROR` frame is an error that leaves the connection usable.
    pub fn frame(&mut self) -> Result<Frame, Error> {
        loop {
            match self.u64()? {
                NEXT => self.log_text()?,
                WRITE => return Ok(Frame::Write(self.frame_size()?)),
                READ => return Ok(Frame::Read(u64::from(self.int()?))),
                LAST => return Ok(Frame::Last),
                ERROR => {
                    let message = self.bytes(MAX_MESSAGE)?;
                    let message = printable(String::from_utf8_lossy(&message).trim_end(), KEPT_MESSAGE);
                    let status = self.int()?;
                    self.finish();
                    return Err(Error::Daemon { operation: self.operation, message, status });
                }
                other => return Err(self.unexpected(format!("a frame of type {other:#x}"))),
            }
        }
    }

    /// Frames up to `LAST`, where no data may come.
    pub fn last(&mut self) -> Result<(), Error> {
        match self.frame()? {
            Frame::Last => Ok(()),
            frame => Err(self.unexpected(format!("{frame:?}"))),
        }
    }

    fn log_text(&mut self) -> Result<(), Error> {
        let size = self.frame_size()?;
        if self.log.is_none() {
            self.unheard += FRAME_HEAD + size;
            if self.unheard > MAX_UNHEARD {
                return Err(
                    self.unexpected(format!("more than {MAX_UNHEARD} bytes of log text where nothing is built"))
                );
            }
        }
        let mut left = size;
        let mut buffer = [0; 8 << 10];
        self.frames.begin();
        while left > 0 {
            let part = left.min(buffer.len() as u64) as usize;
            self.data(&mut buffer[..part])?;
            match (&mut self.log, &self.trace) {
                (Some(log), None) => log(&buffer[..part]),
                (Some(log), Some(_)) => self.frames.piece(&buffer[..part], log),
                (None, _) => (),
            }
            left -= part as u64;
        }
        if let Some(trace) = &mut self.trace
            && let Some(event) = self.frames.end()
        {
            trace(&event);
        }
        self.padding(size)
    }

    fn frame_size(&mut self) -> Result<u64, Error> {
        let size = u64::from(self.int()?);
        if size > MAX_FRAME {
            return Err(self.unexpected(format!("a frame of {size} bytes")));
        }
        Ok(size)
    }

    /// Fills `buffer` from within a frame.
    pub fn data(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        self.stream.read_exact(buffer).map_err(|cause| Error::Link { operation: self.operation, cause })
    }

    pub fn padding(&mut self, size: u64) -> Result<(), Error> {
        let read = wire::read_padding(&mut self.stream, size);
        read.map_err(|error| self.failed(error))
    }

    pub fn u64(&mut self) -> Result<u64, Error> {
        let read = wire::read_u64(&mut self.stream);
        read.map_err(|error| self.failed(error))
    }

    pub fn int(&mut self) -> Result<u32, Error> {
        let read = wire::read_int(&mut self.stream);
        read.map_err(|error| self.failed(error))
    }

    pub fn bool(&mut self) -> Result<bool, Error> {
        let read = wire::read_bool(&mut self.stream);
        read.map_err(|error| self.failed(error))
    }

    pub fn bytes(&mut self, max: usize) -> Result<Vec<u8>, Error> {
        let read = wire::read_bytes(&mut self.stream, max);
        read.map_err(|error| self.failed(error))
    }

    /// The value that stands for "done" in a reply that says nothing else.
    pub fn done(&mut self) -> Result<(), Error> {
        match self.int()? {
            1 => Ok(()),
            other => Err(self.unexpected(format!("{other} instead of 1"))),
        }
    }

    pub fn path(&mut self, store: &StoreDir) -> Result<StorePath, Error> {
        let bytes = self.bytes(store.max_path())?;
        StorePath::parse(store, &bytes).map_err(|error| self.unexpected(error.to_string()))
    }

    /// A path, or nothing where the daemon has none to tell.
    pub fn optional_path(&mut self, store: &StoreDir) -> Result<Option<StorePath>, Error> {
        let bytes = self.bytes(store.max_path())?;
        let path = (!bytes.is_empty()).then(|| StorePath::parse(store, &bytes)).transpose();
        path.map_err(|error| self.unexpected(error.to_string()))
    }

    /// A list of at most `max` paths.
    pub fn paths(&mut self, store: &StoreDir, max: usize) -> Result<Vec<StorePath>, Error> {
        let count = wire::read_count(&mut self.stream, max);
        let count = count.map_err(|error| self.failed(error))?;
        (0..count).map(|_| self.path(store)).collect()
    }

    /// A list of at most `max` names of any form.
    pub fn names(&mut self, max: usize) -> Result<Vec<Vec<u8>>, Error> {
        let read = wire::read_list(&mut self.stream, max, MAX_NAME);
        read.map_err(|error| self.failed(error))
    }

    pub fn unexpected(&self, what: impl Into<String>) -> Error {
        Error::Protocol { operation: self.operation, position: self.stream.count, what: what.into() }
    }

    fn failed(&self, error: WireError) -> Error {
        match error {
            WireError::Io(cause) => Error::Link { operation: self.operation, cause },
            malformed => self.unexpected(malformed.to_string()),
        }
    }
}

/// A buffered reader, and how many bytes have been taken from it.
struct Counted<S> {
    reader: BufReader<S>,
    count: u64,
}

impl<S: Read> Read for Counted<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}
