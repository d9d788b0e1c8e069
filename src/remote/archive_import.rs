//! The way for large bundles over long links: `guix archive --import` on the other side.
//!
//! A daemon that imports asks for 32 KiB at a time, so each 32 KiB cost a round trip. The program over there answers it
//! at once, and the bundle goes over in one stream. It says on its standard error what went wrong; nobody listens,
//! since the same bundle sent the slow way tells it better.

use std::io::{self, Write};

use super::connection::Connection;
use super::error::Error;
use super::stream::DaemonStream;
use super::timeouts::SilencePolicy;
use crate::ssh::{self, Cause};

/// A running `guix archive --import`, which takes what is written to it. It is waited for as the daemon is that it
/// speaks to: a garbage collector may keep that from taking anything for minutes.
pub struct ArchiveImport {
    stream: DaemonStream,
}

impl DaemonStream {
    /// Starts `guix archive --import` on the other side, as patient as this stream; `None` where that cannot be.
    pub fn archive_import(&self) -> Result<Option<ArchiveImport>, Error> {
        ArchiveImport::start(self.connection(), self.silence_policy())
    }
}

impl ArchiveImport {
    /// `None` if the name of the daemon's socket cannot be told it.
    fn start(connection: &Connection, silence_policy: &SilencePolicy) -> Result<Option<ArchiveImport>, Error> {
        let socket = connection.machine().daemon_socket.to_string_lossy();
        let Some(command) = command(&socket) else { return Ok(None) };
        let stream = connection.command(command)?;
        Ok(Some(ArchiveImport { stream: DaemonStream::through(stream, connection.clone(), silence_policy.clone()) }))
    }

    /// Whether a write failed because the program has ended. Then there may be other ways to import.
    pub fn has_ended(error: &io::Error) -> bool {
        ssh::Error::in_io(error).is_some_and(|error| matches!(error.cause, Cause::ChannelClosed))
            || Error::is_channel_cut(error)
    }

    /// Whether all that was written has been imported.
    pub fn finish(self) -> io::Result<bool> {
        match self.stream.finish() {
            Err(error) if ArchiveImport::has_ended(&error) => Ok(false),
            status => Ok(status? == Some(0)),
        }
    }
}

/// The command for a shell over there; `None` if that could mistake a character of the socket's name.
fn command(socket: &str) -> Option<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._+-".contains(c);
    // Its own output would fill the window that nobody empties. Descriptor 3 keeps the channel's output open all the
    // same: the end of the output looks as if nobody read the input any more.
    socket.chars().all(is_plain).then(|| {
        format!("exec /bin/sh -c 'GUIX_DAEMON_SOCKET={socket} exec guix archive --import 3>&1 >/dev/null 2>&1'")
    })
}

impl Write for ArchiveImport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::command;

    #[test]
    fn no_shell_gets_what_it_could_mistake() {
        assert!(
            command("/var/guix/daemon-socket/socket")
                .is_some_and(|text| text.contains("=/var/guix/daemon-socket/socket "))
        );
        for character in (0..=255).map(char::from).filter(|c| !c.is_ascii_alphanumeric() && !"/._+-".contains(*c)) {
            assert_eq!(command(&format!("/a{character}b")), None, "{character:?}");
        }
    }
}
