//! Reading and writing that ends when the evaluation is cancelled.
//!
//! A pipe or terminal may never have data to read. So each read and write waits with `poll`, and checks at intervals
//! for cancellation. On cancellation the thread parks here.

use super::super::cancellation::{CancelState, POLL_INTERVAL, SourceLocation};
use super::super::context::Context;
use mlua::Lua;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

/// A wait that can be cancelled.
#[derive(Clone)]
pub(super) struct Canceller {
    cancel_state: Arc<CancelState>,
    /// The location in the user's files where the wait began.
    location: Option<SourceLocation>,
}

impl Canceller {
    /// Begins a wait at the caller's location.
    pub fn new(lua: &Lua, context: &Rc<Context>) -> Canceller {
        Canceller { cancel_state: Arc::clone(&context.cancel_state), location: context.location(lua, 0) }
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancel_state.is_cancelled()
    }

    pub fn cancel_state(&self) -> &CancelState {
        &self.cancel_state
    }

    pub fn park(&self) -> ! {
        self.cancel_state.park(self.location.clone())
    }

    /// Parks this thread if the evaluation is cancelled.
    pub fn park_if_cancelled(&self) {
        if self.is_cancelled() {
            self.park();
        }
    }

    /// Returns a file whose reads and writes use this wait.
    pub fn on(&self, file: impl Into<OwnedFd>) -> CancellableIo {
        CancellableIo { file: File::from(file.into()), canceller: self.clone() }
    }
}

/// A file whose reads and writes can be cancelled.
pub(super) struct CancellableIo {
    file: File,
    canceller: Canceller,
}

impl CancellableIo {
    /// Waits until the file is ready, or until the next check for cancellation.
    fn ready(&self, flags: PollFlags) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.file, flags)];
        let time = Timespec { tv_sec: 0, tv_nsec: POLL_INTERVAL.subsec_nanos().into() };
        let ready = match poll(&mut fds, Some(&time)) {
            Ok(count) => Ok(count > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        };
        // The check comes after the wait: cancellation kills programs, and makes their pipes ready.
        self.canceller.park_if_cancelled();
        ready
    }
}

impl AsFd for CancellableIo {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Read for CancellableIo {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ready(PollFlags::IN)? {}
        self.file.read(buffer)
    }
}

impl Write for CancellableIo {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        while !self.ready(PollFlags::OUT)? {}
        // A pipe that is ready accepts this many bytes without blocking.
        self.file.write(&bytes[..bytes.len().min(4096)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for CancellableIo {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}
