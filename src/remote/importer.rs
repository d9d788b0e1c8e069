//! The way for large bundles over long links: `guix archive --import` on the other side.
//!
//! A daemon that imports asks for 32 KiB at a time, so each 32 KiB cost a round trip. The program over there answers it at
//! once, and the bundle goes over in one stream. It says on its standard error what went wrong; nobody listens, since the same
//! bundle sent the slow way tells it better.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::connection::Connection;
use crate::ssh::{Channel, Error};

/// A running `guix archive --import`, which takes what is written to it.
pub struct Importer {
    channel: Channel,
    /// How long it may take nothing.
    patience: Duration,
}

impl Importer {
    /// `None` if the name of the daemon's socket cannot be told it.
    pub(super) fn start(connection: &Connection) -> Result<Option<Importer>, Error> {
        let machine = connection.machine();
        let socket = machine.daemon_socket.to_string_lossy();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._+-".contains(c);
        if !socket.chars().all(is_plain) {
            return Ok(None);
        }
        // Its own output would fill the window that nobody empties. Descriptor 3 keeps the channel's output open all the same:
        // the end of the output looks as if nobody read the input any more.
        let command =
            format!("exec /bin/sh -c 'GUIX_DAEMON_SOCKET={socket} exec guix archive --import 3>&1 >/dev/null 2>&1'");
        let channel = connection.session().exec(&command)?;
        Ok(Some(Importer { channel, patience: machine.stall_timeout }))
    }

    /// Whether all that was written has been imported.
    pub fn finish(mut self) -> Result<bool, Error> {
        self.channel.set_deadline(Instant::now().checked_add(self.patience));
        Ok(self.channel.output(0)?.status == Some(0))
    }
}

impl Write for Importer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.channel.set_deadline(Instant::now().checked_add(self.patience));
        self.channel.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.channel.flush()
    }
}
