//! A byte stream to the daemon of a build machine, read and written with patience.

use std::io::{self, Read, Write};
use std::mem;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::error::Error;
use super::importer::Importer;
use super::patience::{Patience, hello_again};
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
    /// When the greeting must be over, however it trickles, and how long it may have taken then.
    greeted_by: Option<(Instant, Duration)>,
    has_written: bool,
    /// What was read while it was waited for.
    first: Option<u8>,
}

impl DaemonStream {
    pub(super) fn new(channel: Channel, connection: Connection, patience: Patience) -> DaemonStream {
        DaemonStream { channel, connection, patience, greeted_by: None, has_written: false, first: None }
    }

    /// A stream whose daemon must have greeted within `limit`.
    pub(super) fn to_be_greeted(channel: Channel, connection: Connection, limit: Duration) -> DaemonStream {
        let greeted_by = Instant::now().checked_add(limit).map(|time| (time, limit));
        DaemonStream { greeted_by, ..DaemonStream::new(channel, connection, Patience::greeting(limit)) }
    }

    /// The connection that carries it.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Starts `guix archive --import` on the other side, as patient as this stream; `None` where that cannot be.
    pub fn importer(&self) -> Result<Option<Importer>, Error> {
        Ok(Importer::start(&self.connection, &self.patience)?)
    }

    /// How long the daemon may be silent from now on.
    pub fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// How long it may be silent.
    pub fn patience(&self) -> &Patience {
        &self.patience
    }

    /// Waits until there is something to read, for so long at the most. What goes wrong shows with the next read.
    pub fn wait(&mut self, limit: Duration) {
        if self.first.is_some() {
            return;
        }
        let mut byte = [0];
        self.channel.set_deadline(Instant::now().checked_add(limit));
        self.first = matches!(self.channel.read(&mut byte), Ok(1)).then_some(byte[0]);
    }

    /// Says that nothing more will be written, and takes what comes until the end.
    pub(super) fn finish(mut self) -> io::Result<Channel> {
        self.channel.send_eof()?;
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.channel)
    }

    /// Whether the daemon still answers anybody, by a second greeting.
    fn check(&self, silence: Duration) -> Result<(), Error> {
        let limit = hello_again(self.connection.machine(), self.patience.say);
        let cause = match self.connection.daemon_within(limit) {
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
        let is_check_due = is_due(self.next_check);
        // Nothing can be said during a check.
        if is_due(self.next_line) || (is_check_due && patience.say.is_some()) {
            log::info!("{}: its daemon has been silent for {} s", connection.machine().name, silence.as_secs());
            self.next_line = patience.say.map(|time| silence + time);
        }
        if is_check_due {
            stream.check(silence)?;
            let silence = self.start.elapsed();
            self.next_check = patience.check.map(|time| silence + time);
        }
        Ok(())
    }
}

impl DaemonStream {
    fn check_greeting(&self) -> Result<(), Error> {
        match self.greeted_by {
            Some((time, limit)) if time <= Instant::now() => {
                Err(Error::NotGreeted { machine: self.connection.machine().address(), limit })
            }
            _ => Ok(()),
        }
    }

    /// Does what can be interrupted and taken up again.
    fn patiently<T>(&mut self, mut operation: impl FnMut(&mut Channel) -> io::Result<T>) -> io::Result<T> {
        let mut silence = Silence::begins(&self.patience);
        loop {
            let greeted_by = self.greeted_by.map(|(time, _)| time);
            self.channel.set_deadline([silence.until(&self.patience), greeted_by].into_iter().flatten().min());
            match operation(&mut self.channel) {
                Err(error) if is_deadline(&error) => {
                    self.check_greeting().map_err(|error| io::Error::new(io::ErrorKind::TimedOut, error))?;
                    silence.goes_on(self).map_err(|error| io::Error::new(io::ErrorKind::TimedOut, error))?;
                }
                result => return result,
            }
        }
    }
}

impl Read for DaemonStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match (buffer, self.first) {
            ([to, ..], Some(first)) => {
                (*to, self.first) = (first, None);
                Ok(1)
            }
            (buffer, _) => self.patiently(|channel| channel.read(buffer)),
        }
    }
}

impl Write for DaemonStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if mem::replace(&mut self.has_written, true) {
            // Whoever says more has been greeted.
            self.greeted_by = None;
        }
        if !bytes.is_empty() {
            self.patiently(Channel::wait_for_room)?;
        }
        // The write itself cannot be interrupted; it only needs the link, which has its own limit.
        self.channel.set_deadline(None);
        self.channel.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.channel.flush()
    }
}

fn is_deadline(error: &io::Error) -> bool {
    ssh::Error::in_io(error).is_some_and(|error| matches!(error.cause, Cause::Deadline))
}
