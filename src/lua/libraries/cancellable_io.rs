//! Reading and writing that does not outlast the one who waits for it.
//!
//! A pipe or terminal may have nothing to read for ever. So each read and write waits with `poll`, and looks up now
//! and then whether anyone still waits for the interpreter. If not, the thread ends its work here.

use super::super::cancellation::{CancelState, POLL_INTERVAL, SourceLocation};
use super::super::context::Context;
use mlua::Lua;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

/// Who waits, and for whom.
#[derive(Clone)]
pub(super) struct Canceller {
    cancel_state: Arc<CancelState>,
    /// Where in the user's files the waiting began.
    location: Option<SourceLocation>,
}

impl Canceller {
    /// A wait that begins here.
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

    /// Ends the work of this thread if nobody waits for it any more.
    pub fn park_if_cancelled(&self) {
        if self.is_cancelled() {
            self.park();
        }
    }

    /// A file to be read and written with this wait.
    pub fn on(&self, file: impl Into<OwnedFd>) -> CancellableIo {
        CancellableIo { file: File::from(file.into()), canceller: self.clone() }
    }
}

/// A file whose reads and writes can be given up.
pub(super) struct CancellableIo {
    file: File,
    canceller: Canceller,
}

impl CancellableIo {
    /// Waits until the file is ready, or for as long as one may wait without looking up.
    fn ready(&self, flags: PollFlags) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.file, flags)];
        let time = Timespec { tv_sec: 0, tv_nsec: POLL_INTERVAL.subsec_nanos().into() };
        let ready = match poll(&mut fds, Some(&time)) {
            Ok(count) => Ok(count > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        };
        // Only now: what is given up is killed, and its pipes are ready then.
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
        // A pipe that is ready takes this many bytes without blocking.
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
