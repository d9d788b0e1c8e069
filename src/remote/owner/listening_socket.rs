//! The socket on which an owner listens for hooks.

use std::io::{self, ErrorKind};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use super::peer;
use crate::permissions::files;

/// The number of the next socket of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A listening socket. Its file is removed when this is dropped.
pub(super) struct ListeningSocket {
    listener: UnixListener,
    socket: PathBuf,
}

impl ListeningSocket {
    /// Creates the socket `PREFIX` + `PID-NUMBER` and listens on it. The number is 0 in an owner process; several owners
    /// can be threads of one process. `prefix` is a path.
    pub fn make(prefix: &Path) -> io::Result<ListeningSocket> {
        let mut name = prefix.as_os_str().to_owned();
        let own = format!("{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        name.push(&own);
        let socket = PathBuf::from(name);
        // The socket gets its final name once it listens. A hook would remove a socket that does not listen as that of
        // a killed owner.
        let unnamed = socket.with_file_name(format!(".{own}"));
        let _ = files::remove(&unnamed);
        let listener = files::listen(&unnamed)?;
        listener.set_nonblocking(true)?;
        files::rename(&unnamed, &socket)?;
        Ok(ListeningSocket { listener, socket })
    }

    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Accepts the next client that the owner may serve; `None` if no client waits.
    pub fn accept(&self) -> io::Result<Option<UnixStream>> {
        loop {
            match self.listener.accept() {
                Ok((control, _)) if peer::is_authorized(&control) => return Ok(Some(control)),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for ListeningSocket {
    fn drop(&mut self) {
        // If this fails, the next hook removes the socket.
        let _ = files::remove(&self.socket);
    }
}
