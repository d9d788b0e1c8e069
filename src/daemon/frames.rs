//! Requests out, frames in: the layer under the operations.
//!
//! A request is collected in memory and sent in one write. Then the daemon sends frames until `STDERR_LAST` or `STDERR_ERROR`; the
//! values of a reply follow `STDERR_LAST`. Between a request and the end of its reply the client sends only the answer to a
//! `STDERR_READ` frame: the daemon takes any other byte during its work for the end of the connection.

use std::io::{self, BufReader, Read, Write};

use super::build_trace::{FrameReader, TraceSink};
use super::error::Error;
use super::operation::WireRequest;
use crate::store::path::{StoreDir, StorePath};
use crate::store::wire::{self, WireError};
use crate::text::printable;

const STDERR_NEXT: u64 = 0x6f6c_6d67;
const STDERR_WRITE: u64 = 0x6461_7416;
const STDERR_READ: u64 = 0x6461_7461;
const STDERR_LAST: u64 = 0x616c_7473;
const STDERR_ERROR: u64 = 0x6378_7470;

/// The size limit of a frame of log text or data, in bytes. The daemon's own frames are at most 64 KiB, except log text
/// that it writes in one piece. Frames pass through a small buffer whatever their size.
const MAX_FRAME: u64 = 64 << 20;
/// The size limit of an error message, in bytes.
const MAX_MESSAGE: usize = 1 << 20;
/// The bytes of an error message that are stored.
const STORED_MESSAGE: usize = 16 << 10;
/// The limit of log text that an operation may send without a log sink, in bytes. Without this limit an operation might
/// never end, because log text counts as a sign of life.
const MAX_DROPPED_LOG: u64 = 1 << 20;
/// The bytes of a frame before its contents.
const FRAME_HEADER: u64 = 16;
/// The longest store name that is accepted in a list of deleted files, in bytes.
const MAX_NAME: usize = 4096;

/// Receives log text: any bytes, not divided into lines.
pub type Log = Box<dyn FnMut(&[u8]) + Send>;

/// A frame for the operation to handle.
#[derive(Debug)]
pub(super) enum Frame {
    /// The reply follows.
    Last,
    /// Data follow: this many bytes, then padding.
    Write(u64),
    /// The daemon requests at least one byte and at most this many.
    Read(u64),
}

pub(super) struct FrameStream<S> {
    stream: Counted<S>,
    log: Option<Log>,
    /// Receives the build trace, if frames are split.
    trace: Option<TraceSink>,
    frames: FrameReader,
    /// A function that is called when a request begins.
    on_request: Option<Box<dyn FnMut() + Send>>,
    /// The bytes of log text, including frames, that were dropped during this operation.
    dropped_log: u64,
    /// The current operation, for errors.
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
            dropped_log: 0,
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

    /// Returns the stream, if no data are left to be read.
    pub fn into_stream(self) -> Option<S> {
        let Counted { reader, .. } = self.stream;
        (self.usable && reader.buffer().is_empty()).then(|| reader.into_inner())
    }

    pub fn is_usable(&self) -> bool {
        self.usable
    }

    /// Sends a request. From here on the connection counts as broken until `finish` is called.
    pub fn start(&mut self, request: &WireRequest) -> Result<(), Error> {
        self.operation = request.operation.name();
        if !self.usable {
            return Err(Error::Broken { operation: self.operation });
        }
        self.usable = false;
        self.dropped_log = 0;
        if let Some(callback) = &mut self.on_request {
            callback();
        }
        self.send(&request.bytes)
    }

    /// Ends a request, after its reply has been read to the end or the daemon returned an error.
    pub fn finish(&mut self) {
        self.usable = true;
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let stream = self.stream.reader.get_mut();
        let sent = stream.write_all(bytes).and_then(|()| stream.flush());
        sent.map_err(|cause| Error::Link { operation: self.operation, cause })
    }

    /// Reads the next frame that is not log text. An `STDERR_ERROR` frame is an error that leaves the connection usable.
    pub fn frame(&mut self) -> Result<Frame, Error> {
        loop {
            match self.u64()? {
                STDERR_NEXT => self.log_text()?,
                STDERR_WRITE => return Ok(Frame::Write(self.frame_size()?)),
                STDERR_READ => return Ok(Frame::Read(u64::from(self.int()?))),
                STDERR_LAST => return Ok(Frame::Last),
                STDERR_ERROR => {
                    let message = self.bytes(MAX_MESSAGE)?;
                    let message = printable(String::from_utf8_lossy(&message).trim_end(), STORED_MESSAGE);
                    let status = self.int()?;
                    self.finish();
                    return Err(Error::Daemon { operation: self.operation, message, status });
                }
                other => return Err(self.unexpected(format!("a frame of type {other:#x}"))),
            }
        }
    }

    /// Reads frames up to `STDERR_LAST`; data frames are an error.
    pub fn last(&mut self) -> Result<(), Error> {
        match self.frame()? {
            Frame::Last => Ok(()),
            frame => Err(self.unexpected(format!("{frame:?}"))),
        }
    }

    fn log_text(&mut self) -> Result<(), Error> {
        let size = self.frame_size()?;
        if self.log.is_none() {
            self.dropped_log += FRAME_HEADER + size;
            if self.dropped_log > MAX_DROPPED_LOG {
                return Err(
                    self.unexpected(format!("more than {MAX_DROPPED_LOG} bytes of log text where nothing is built"))
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

    /// Fills `buffer` from the current frame.
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

    /// Reads the value that means "done" in a reply without other values.
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

    /// Reads a path, or an empty string, which is `None`.
    pub fn optional_path(&mut self, store: &StoreDir) -> Result<Option<StorePath>, Error> {
        let bytes = self.bytes(store.max_path())?;
        let path = (!bytes.is_empty()).then(|| StorePath::parse(store, &bytes)).transpose();
        path.map_err(|error| self.unexpected(error.to_string()))
    }

    /// Reads a list of at most `max` paths.
    pub fn paths(&mut self, store: &StoreDir, max: usize) -> Result<Vec<StorePath>, Error> {
        let count = wire::read_count(&mut self.stream, max);
        let count = count.map_err(|error| self.failed(error))?;
        (0..count).map(|_| self.path(store)).collect()
    }

    /// Reads a list of at most `max` names of any form.
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

/// A buffered reader that counts the bytes read from it.
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
