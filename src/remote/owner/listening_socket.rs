//! The socket at which hooks find an owner.

use std::io::{self, ErrorKind};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process;

use super::peer;
use crate::permissions::files;

/// A socket to connect to, for as long as this lives.
pub(super) struct ListeningSocket {
    listener: UnixListener,
    socket: PathBuf,
}

impl ListeningSocket {
    /// `prefix`: what its name begins with.
    pub fn make(prefix: &Path) -> io::Result<ListeningSocket> {
        let mut name = prefix.as_os_str().to_owned();
        name.push(format!("{}-0", process::id()));
        let socket = PathBuf::from(name);
        // It gets its name when somebody listens: one without is taken for that of an owner that was killed.
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

    /// Somebody who has connected and may ask; `None` if nobody waits.
    pub fn accept(&self) -> io::Result<Option<UnixStream>> {
        loop {
            match self.listener.accept() {
                Ok((control, _)) if peer::may_ask(&control) => return Ok(Some(control)),
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
        // What is left is removed by those who find nobody behind it.
        let _ = files::remove(&self.socket);
    }
}
