//! A byte stream to the daemon of a build machine, read and written with patience.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::error::Error;
use super::patience::{LINK_FIRST, Patience};
use crate::daemon::Client;
use crate::ssh::{self, Cause, Channel};
use crate::store::path::StoreDir;

/// A byte stream to a machine's daemon. Reads and writes fail as those of [`Channel`] do, and with [`Error::Silent`] or
/// [`Error::Stopped`] inside when the daemon is silent for too long ([`Patience`]).
pub struct DaemonStream {
    // Before the connection: it ends while there is still a session.
    channel: Channel,
    connection: Connection,
    patience: Patience,
    /// When the greeting must be over, however it trickles.
    greeted_by: Option<Instant>,
}

impl DaemonStream {
    /// A stream that is patient enough for a greeting.
    pub(super) fn new(channel: Channel, connection: Connection) -> DaemonStream {
        let patience = Patience::greeting(connection.machine());
        let greeted_by = patience.limit.and_then(|limit| Instant::now().checked_add(limit));
        DaemonStream { channel, connection, patience, greeted_by }
    }

    /// How long the daemon may be silent from now on. The greeting is over.
    pub fn set_patience(&mut self, patience: Patience) {
        self.greeted_by = None;
        self.patience = patience;
    }

    /// How long it may be silent.
    pub fn patience(&self) -> &Patience {
        &self.patience
    }

    /// Whether the daemon still answers anybody, by a second greeting.
    fn check(&self, silence: Duration) -> Result<(), Error> {
        let cause = match self.connection.daemon() {
            Ok(stream) => match Client::connect(stream, StoreDir::default()) {
                Ok(_) => return Ok(()),
                Err(error) => error.to_string(),
            },
            // As where the account may run one relay and not two: that says nothing about the daemon.
            Err(Error::NoWay { .. }) => return Ok(()),
            Err(error) => error.to_string(),
        };
        Err(Error::Stopped { machine: self.connection.machine().address(), silence, cause })
    }
}

/// What is due while a daemon is silent.
struct Silence {
    start: Instant,
    next_check: Option<Duration>,
    next_line: Option<Duration>,
}

impl Silence {
    fn begins(patience: &Patience) -> Silence {
        Silence { start: Instant::now(), next_check: patience.check, next_line: patience.say }
    }

    /// When there is something to do.
    fn until(&self, patience: &Patience) -> Option<Instant> {
        let next = [patience.limit, self.next_check, self.next_line].into_iter().flatten().min()?;
        self.start.checked_add(next)
    }

    /// Does what is due; an error gives the daemon up.
    fn goes_on(&mut self, stream: &DaemonStream) -> Result<(), Error> {
        let DaemonStream { patience, connection, .. } = stream;
        let silence = self.start.elapsed();
        let is_due = |time: Option<Duration>| time.is_some_and(|time| time <= silence);
        if is_due(patience.limit) {
            return Err(Error::Silent { machine: connection.machine().address(), silence });
        }
        if is_due(self.next_check) {
            stream.check(silence)?;
            let silence = self.start.elapsed();
            self.next_check = patience.check.map(|time| silence + time);
        }
        if is_due(self.next_line) {
            log::info!("{}: its daemon has been silent for {} s", connection.machine().name, silence.as_secs());
            self.next_line = patience.say.map(|time| silence + time);
        }
        Ok(())
    }
}

impl Read for DaemonStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut silence = Silence::begins(&self.patience);
        loop {
            let until = [silence.until(&self.patience), self.greeted_by].into_iter().flatten().min();
            self.channel.set_deadline(until);
            match self.channel.read(buffer) {
                Err(error) if is_deadline(&error) => {
                    if self.greeted_by.is_some_and(|time| time <= Instant::now()) {
                        let (machine, limit) =
                            (self.connection.machine().address(), self.connection.machine().connect_timeout);
                        return Err(io::Error::new(io::ErrorKind::TimedOut, Error::NotGreeted { machine, limit }));
                    }
                    silence.goes_on(self).map_err(|error| io::Error::new(io::ErrorKind::TimedOut, error))?;
                }
                result => return result,
            }
        }
    }
}

impl Write for DaemonStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A write cannot be interrupted and taken up again, and whoever asked for bytes takes them.
        let limit = self.connection.machine().stall_timeout.saturating_add(LINK_FIRST);
        self.channel.set_deadline(Instant::now().checked_add(limit));
        self.channel.write(bytes).map_err(|error| match is_deadline(&error) {
            true => {
                let error = Error::Silent { machine: self.connection.machine().address(), silence: limit };
                io::Error::new(io::ErrorKind::TimedOut, error)
            }
            false => error,
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.channel.flush()
    }
}

fn is_deadline(error: &io::Error) -> bool {
    ssh::Error::in_io(error).is_some_and(|error| matches!(error.cause, Cause::Deadline))
}
