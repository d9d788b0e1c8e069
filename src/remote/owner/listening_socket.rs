//! The socket on which an owner listens for hooks.

use std::io::{self, ErrorKind};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process;

use super::peer;
use crate::permissions::files;

/// A listening socket. Its file is removed when this is dropped.
pub(super) struct ListeningSocket {
    listener: UnixListener,
    socket: PathBuf,
}

impl ListeningSocket {
    /// Creates the socket `PREFIX` + `PID-0` and listens on it. `prefix` is a path.
    pub fn make(prefix: &Path) -> io::Result<ListeningSocket> {
        let mut name = prefix.as_os_str().to_owned();
        name.push(format!("{}-0", process::id()));
        let socket = PathBuf::from(name);
        // The socket gets its final name once it listens. A hook would remove a socket that does not listen as that of
        // a killed owner.
        let unnamed = socket.with_file_name(format!(".{}", process::id()));
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
