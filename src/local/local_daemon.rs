//! A connection to this machine's daemon, for programs that it has not started.
//!
//! The daemon serves each connection in a process of its own. That process holds the temporary roots of the connection,
//! and ends with it, together with a build or an import that it does. So a cancelled operation needs no other clean-up
//! than the end of the connection.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::event::PollFlags;
use thiserror::Error;

use super::directories::Directories;
use crate::cancel;
use crate::daemon::{self, Client};

/// A client of this machine's daemon.
pub type LocalDaemon = Client<LocalStream>;

/// A stream to this machine's daemon. Its reads and writes fail if the work of the thread is cancelled.
#[derive(Debug)]
pub struct LocalStream(UnixStream);

/// This machine's daemon cannot be used.
#[derive(Debug, Error)]
pub enum LocalDaemonError {
    #[error("cannot connect to guix-daemon at '{}': {cause}", socket.display())]
    Connect { socket: PathBuf, cause: io::Error },
    #[error("guix-daemon of this machine: {0}")]
    Daemon(#[from] daemon::Error),
}

/// Connects to the daemon of these directories.
pub fn connect_to_daemon(directories: &Directories) -> Result<LocalDaemon, LocalDaemonError> {
    let socket = directories.daemon_socket();
    let connect = || {
        let stream = UnixStream::connect(&socket)?;
        stream.set_nonblocking(true)?;
        Ok(LocalStream(stream))
    };
    match connect() {
        Ok(stream) => Ok(Client::connect(stream, directories.store.clone())?),
        Err(cause) => Err(LocalDaemonError::Connect { socket, cause }),
    }
}

impl LocalStream {
    fn repeat<T>(
        &mut self,
        wanted: PollFlags,
        mut operation: impl FnMut(&mut UnixStream) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            cancel::check()?;
            match operation(&mut self.0) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    cancel::poll(self.0.as_fd(), wanted, None)?;
                }
                result => return result,
            }
        }
    }
}

impl Read for LocalStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.repeat(PollFlags::IN, |stream| stream.read(buffer))
    }
}

impl Write for LocalStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.repeat(PollFlags::OUT, |stream| stream.write(bytes))
    }

    /// Does nothing, because writes are not buffered.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
