//! Reading and writing that does not outlast the one who waits for it.
//!
//! A pipe or terminal may have nothing to read for ever. So each read and write waits with `poll`, and looks up now
//! and then whether anyone still waits for the interpreter. If not, the thread ends its work here.

use super::super::leash::{LOOK_UP, Leash, Spot};
use super::super::shared::Shared;
use mlua::Lua;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

/// Who waits, and for whom.
#[derive(Clone)]
pub(super) struct Waits {
    leash: Arc<Leash>,
    /// Where in the user's files the waiting began.
    spot: Option<Spot>,
}

impl Waits {
    /// A wait that begins here.
    pub fn new(lua: &Lua, shared: &Rc<Shared>) -> Waits {
        Waits { leash: Arc::clone(&shared.leash), spot: shared.spot(lua, 0) }
    }

    pub fn abandoned(&self) -> bool {
        self.leash.abandoned()
    }

    pub fn leash(&self) -> &Leash {
        &self.leash
    }

    pub fn park(&self) -> ! {
        self.leash.park(self.spot.clone())
    }

    /// A file to be read and written with this wait.
    pub fn on(&self, file: impl Into<OwnedFd>) -> Patient {
        Patient { file: File::from(file.into()), waits: self.clone() }
    }
}

/// A file whose reads and writes can be given up.
pub(super) struct Patient {
    file: File,
    waits: Waits,
}

impl Patient {
    /// Waits until the file is ready, or for as long as one may wait without looking up.
    fn ready(&self, flags: PollFlags) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.file, flags)];
        let time = Timespec { tv_sec: 0, tv_nsec: LOOK_UP.subsec_nanos().into() };
        let ready = match poll(&mut fds, Some(&time)) {
            Ok(count) => Ok(count > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        };
        // Only now: what is given up is killed, and its pipes are ready then.
        if self.waits.abandoned() {
            self.waits.park();
        }
        ready
    }
}

impl AsFd for Patient {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ready(PollFlags::IN)? {}
        self.file.read(buffer)
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        while !self.ready(PollFlags::OUT)? {}
        // A pipe that is ready takes this many bytes without blocking.
        self.file.write(&bytes[..bytes.len().min(4096)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Patient {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}
