//! Imports large bundles over links with high latency, with `guix archive --import` on the build machine.
//!
//! A daemon that imports requests 32 KiB at a time, so each 32 KiB cost a round trip. `guix archive` on the machine
//! answers these requests without that latency, and receives the bundle in one stream. Its standard error is discarded.
//! If it fails, the caller sends the same bundle to the daemon, whose errors are more exact.

use std::io::{self, Write};

use super::connection::Connection;
use super::error::Error;
use super::stream::DaemonStream;
use super::timeouts::SilencePolicy;
use crate::ssh::{self, Cause};

/// A running `guix archive --import`, which imports the bundle that is written to it. Writes have the time limits of
/// the daemon, because a garbage collection can block the daemon, and so the import, for minutes.
pub struct ArchiveImport {
    stream: DaemonStream,
}

impl DaemonStream {
    /// Starts `guix archive --import` on the machine, with the silence policy of this stream. Returns `None` if the
    /// path of the daemon's socket has characters that a shell could interpret.
    pub fn archive_import(&self) -> Result<Option<ArchiveImport>, Error> {
        ArchiveImport::start(self.connection(), self.silence_policy())
    }
}

impl ArchiveImport {
    fn start(connection: &Connection, silence_policy: &SilencePolicy) -> Result<Option<ArchiveImport>, Error> {
        let socket = connection.machine().daemon_socket.to_string_lossy();
        let Some(command) = command(&socket) else { return Ok(None) };
        let stream = connection.open_command(command)?;
        Ok(Some(ArchiveImport {
            stream: DaemonStream::with_policy(stream, connection.clone(), silence_policy.clone()),
        }))
    }

    /// Returns whether a write failed because the program has ended. The caller can then import in another way.
    pub fn has_ended(error: &io::Error) -> bool {
        ssh::Error::in_io(error).is_some_and(|error| matches!(error.cause, Cause::ChannelClosed))
            || Error::is_channel_timeout(error)
    }

    /// Ends the input, waits for the program, and returns whether it has imported everything.
    pub fn finish(self) -> io::Result<bool> {
        match self.stream.finish() {
            Err(error) if ArchiveImport::has_ended(&error) => Ok(false),
            status => Ok(status? == Some(0)),
        }
    }
}

/// Returns the command for the shell of the machine; `None` if the shell could interpret a character of the socket's
/// path.
fn command(socket: &str) -> Option<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._+-".contains(c);
    // Nothing reads the program's output, so the output could fill the channel's window. Descriptor 3 keeps the output
    // of the channel open: an end of the output would look as if the program read no more input.
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
    fn no_shell_gets_a_character_that_it_could_interpret() {
        assert!(
            command("/var/guix/daemon-socket/socket")
                .is_some_and(|text| text.contains("=/var/guix/daemon-socket/socket "))
        );
        for character in (0..=255).map(char::from).filter(|c| !c.is_ascii_alphanumeric() && !"/._+-".contains(*c)) {
            assert_eq!(command(&format!("/a{character}b")), None, "{character:?}");
        }
    }
}
