//! A byte stream to the daemon of a build machine, read and written with patience.

use std::io::{self, Read, Write};
use std::mem;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::error::Error;
use super::pace::{Due, Pace, Progress};
use super::persisted_stream::{DeadlinePassed, PersistedStream};
use super::timeouts::{SilencePolicy, greeting_timeout, recheck_timeout};
use super::transport::{CUT_SILENCE, Transport};
use crate::daemon::{self, Client};
use crate::ssh::{self, Cause, Channel};
use crate::store::path::StoreDir;

/// A byte stream to a machine's daemon. Reads and writes fail as those of [`Channel`] do, and with [`Error::Silent`] or
/// [`Error::Unresponsive`] inside when the daemon is silent for too long ([`SilencePolicy`]).
pub struct DaemonStream {
    // Before the connection: it ends while there is still a session.
    transport: Transport,
    connection: Connection,
    silence_policy: SilencePolicy,
    pace: Pace,
    /// When the greeting must be over, however it trickles, and how long it may have taken then.
    greeted_by: Option<(Instant, Duration)>,
    has_written: bool,
    /// What was read while it was waited for.
    first: Option<u8>,
    /// When a byte last came or went.
    moved: Instant,
    is_cut: bool,
}

impl Connection {
    /// Opens a stream to the socket of the machine's daemon. Each call gives a new one.
    ///
    /// Where the SSH server does not forward to sockets, `guix repl` on the other side passes the bytes
    /// ([`warning`](Connection::warning)).
    pub fn daemon(&self) -> Result<DaemonStream, Error> {
        self.daemon_within(greeting_timeout(self.machine(), self.is_up()))
    }

    /// The same within this time for opening the channel, which is also what the greeting may take.
    pub(super) fn daemon_within(&self, limit: Duration) -> Result<DaemonStream, Error> {
        let session = self.session()?;
        session.set_request_timeout(limit);
        let channel = self.channel(&session)?;
        self.set_up();
        session.set_request_timeout(greeting_timeout(self.machine(), true));
        Ok(DaemonStream::to_be_greeted(channel, self.clone(), limit))
    }
}

impl DaemonStream {
    fn new(transport: Transport, connection: Connection, silence_policy: SilencePolicy) -> DaemonStream {
        let pace = Pace::default();
        DaemonStream {
            transport,
            connection,
            silence_policy,
            pace,
            greeted_by: None,
            has_written: false,
            first: None,
            moved: Instant::now(),
            is_cut: false,
        }
    }

    /// A stream whose daemon must have greeted within `limit`.
    fn to_be_greeted(channel: Channel, connection: Connection, limit: Duration) -> DaemonStream {
        let greeted_by = Instant::now().checked_add(limit).map(|time| (time, limit));
        DaemonStream { greeted_by, ..DaemonStream::through(channel, connection, SilencePolicy::greeting(limit)) }
    }

    /// A stream through a channel.
    pub(super) fn through(channel: Channel, connection: Connection, silence_policy: SilencePolicy) -> DaemonStream {
        DaemonStream::new(Transport::Channel(channel), connection, silence_policy)
    }

    /// A stream to a daemon that has been greeted, and must answer the first request within `limit`.
    pub(super) fn persisted(persisted: PersistedStream, connection: Connection, limit: Duration) -> DaemonStream {
        let silence_policy = SilencePolicy::greeting(limit);
        DaemonStream::new(Transport::Persisted(persisted), connection, silence_policy)
    }

    /// Whether it is borrowed, so that the daemon has signed over it before.
    pub fn is_reused(&self) -> bool {
        matches!(self.transport, Transport::Persisted(_))
    }

    /// The connection that carries it.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Greets the daemon; the error is the client's.
    pub fn greet(self, store: StoreDir) -> Result<Client<DaemonStream>, daemon::Error> {
        Ok(DaemonStream::followed(Client::connect(self, store)?))
    }

    /// A client whose requests count as progress.
    pub(super) fn followed(mut client: Client<DaemonStream>) -> Client<DaemonStream> {
        let progress = client.stream_mut().progress();
        client.on_request(Box::new(move || progress.step()));
        client
    }

    /// How long the daemon may be silent from now on.
    pub fn set_silence_policy(&mut self, silence_policy: SilencePolicy) {
        self.silence_policy = silence_policy;
        self.pace.begin();
    }

    /// Through which whoever reads the stream says that it makes progress.
    pub fn progress(&self) -> Progress {
        self.pace.progress().clone()
    }

    /// How long it may be silent.
    pub fn silence_policy(&self) -> &SilencePolicy {
        &self.silence_policy
    }

    /// Whether it was borrowed, and the process that kept it has ended since, for reasons of its own.
    pub fn has_lost_holder(&self) -> bool {
        matches!(&self.transport, Transport::Persisted(persisted) if persisted.has_lost_holder())
    }

    /// Whether it ended since the SSH server closed its channel for the silence on it ([`Error::ChannelCut`]).
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The stream is at its end, or broken: an error of its own if the server closed its channel.
    fn check_cut(&mut self, kind: io::ErrorKind) -> io::Result<()> {
        let silence = self.moved.elapsed();
        self.is_cut |= silence >= CUT_SILENCE && self.transport.was_closed_by_server();
        if !self.is_cut {
            return Ok(());
        }
        Err(io::Error::new(kind, Error::ChannelCut { machine: self.connection.machine().address(), silence }))
    }

    pub(super) fn into_parts(self) -> (Transport, Connection) {
        (self.transport, self.connection)
    }

    /// Whether all that has come has been read.
    pub(super) fn is_between_replies(&self) -> bool {
        let is_read = match &self.transport {
            Transport::Channel(channel) => channel.is_empty(),
            Transport::Persisted(_) => true,
        };
        is_read && self.first.is_none()
    }

    /// Waits until there is something to read, for so long at the most. What goes wrong shows with the next read.
    pub fn wait(&mut self, limit: Duration) {
        if self.first.is_some() {
            return;
        }
        let mut byte = [0];
        self.transport.set_deadline(Instant::now().checked_add(limit));
        self.first = matches!(self.transport.read(&mut byte), Ok(1)).then_some(byte[0]);
    }

    /// Says that nothing more will be written, and takes what comes until the end. Not of a stream that is borrowed.
    pub(super) fn finish(mut self) -> io::Result<Channel> {
        if let Transport::Channel(channel) = &mut self.transport {
            channel.send_eof()?;
            io::copy(&mut self, &mut io::sink())?;
        }
        match self.transport {
            Transport::Channel(channel) => Ok(channel),
            Transport::Persisted(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether the process that carries it still does, where there is one.
    fn check_holder(&mut self) -> Result<(), Error> {
        match &mut self.transport {
            Transport::Persisted(persisted) => persisted.check(),
            Transport::Channel(_) => Ok(()),
        }
    }

    /// Whether the daemon still answers anybody, by a second greeting.
    fn check(&mut self, silence: Duration) -> Result<(), Error> {
        self.check_holder()?;
        let limit = recheck_timeout(self.connection.machine(), self.silence_policy.report);
        let cause = match self.connection.daemon_within(limit) {
            Ok(stream) => match Client::connect(stream, StoreDir::default()) {
                Ok(_) => return Ok(()),
                Err(daemon::Error::Link { cause, .. })
                    if self.connection.is_reused() && ssh::Error::in_io(&cause).is_some() =>
                {
                    return Ok(());
                }
                Err(error) => error.to_string(),
            },
            // As where the account may run one relay and not two: that says nothing about the daemon.
            Err(Error::NoRoute { .. }) => return Ok(()),
            // Nor does a login beside a connection that is borrowed.
            Err(Error::Ssh(_)) if self.connection.is_reused() => return Ok(()),
            Err(error) => error.to_string(),
        };
        Err(Error::Unresponsive { machine: self.connection.machine().address(), silence, cause })
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

    /// Does what can be interrupted and taken up again; `size` is the number of bytes that it moved.
    fn within_silence_policy<T>(
        &mut self,
        mut operation: impl FnMut(&mut Transport) -> io::Result<T>,
        size: impl Fn(&T) -> usize,
    ) -> io::Result<T> {
        let given_up = |error: Error| io::Error::new(io::ErrorKind::TimedOut, error);
        loop {
            if self.pace.progress().is_stopped() {
                return Err(io::Error::other("no more is wanted"));
            }
            self.pace.follow();
            while let Some(due) = self.pace.due(&self.silence_policy) {
                self.settle(due).map_err(given_up)?;
            }
            let begin = Instant::now();
            let due = self.pace.next(&self.silence_policy).and_then(|time| begin.checked_add(time));
            self.transport.set_deadline([due, self.greeted_by.map(|(time, _)| time)].into_iter().flatten().min());
            let result = operation(&mut self.transport);
            self.pace.waited(begin.elapsed());
            match result {
                Err(error) if is_deadline(&error) => self.check_greeting().map_err(given_up)?,
                Ok(value) => {
                    self.moved(size(&value));
                    return Ok(value);
                }
                Err(error) => {
                    self.check_cut(error.kind())?;
                    return Err(error);
                }
            }
        }
    }

    fn moved(&mut self, size: usize) {
        self.pace.moved(size as u64, &self.silence_policy);
        if size > 0 {
            self.moved = Instant::now();
        }
    }

    /// Does what is due; an error gives the daemon up.
    fn settle(&mut self, due: Due) -> Result<(), Error> {
        let machine = || self.connection.machine().address();
        let (silence, bytes) = (self.pace.silence(), self.pace.bytes());
        match due {
            Due::NotStarted => Err(Error::NotStarted { machine: machine(), wait: self.pace.wait() }),
            Due::GiveUp if !self.pace.is_silent() => Err(Error::TooSlow { machine: machine(), bytes, time: silence }),
            Due::GiveUp => {
                self.check_holder()?;
                Err(Error::Silent { machine: self.connection.machine().address(), silence })
            }
            Due::Line => {
                self.say();
                Ok(())
            }
            Due::Check => {
                // Nothing can be said during a check.
                if self.silence_policy.report.is_some() {
                    self.say();
                }
                let begin = Instant::now();
                let checked = self.check(silence);
                self.pace.waited(begin.elapsed());
                checked
            }
        }
    }

    fn say(&self) {
        let (name, seconds) = (&self.connection.machine().name, self.pace.silence().as_secs());
        if self.silence_policy.wait.is_some() && !self.pace.wait().is_zero() {
            log::info!("{name}: the build has not begun there for {} s", self.pace.wait().as_secs());
        } else if self.pace.is_silent() {
            log::info!("{name}: its daemon has been silent for {seconds} s");
        } else {
            log::info!("{name}: only {} bytes have passed in {seconds} s", self.pace.bytes());
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
            (buffer, _) => {
                let size = self.within_silence_policy(|transport| transport.read(buffer), |size| *size)?;
                if size == 0 && !buffer.is_empty() {
                    self.check_cut(io::ErrorKind::UnexpectedEof)?;
                }
                Ok(size)
            }
        }
    }
}

impl Write for DaemonStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if mem::replace(&mut self.has_written, true) {
            // Whoever says more has been greeted.
            self.greeted_by = None;
        }
        if self.is_reused() {
            return self.within_silence_policy(|transport| transport.write(bytes), |size| *size);
        }
        // It would take the bytes all the same.
        if self.moved.elapsed() >= CUT_SILENCE && self.transport.is_closed_by_server() {
            self.check_cut(io::ErrorKind::BrokenPipe)?;
        }
        if !bytes.is_empty() {
            self.within_silence_policy(Transport::wait_for_room, |()| 0)?;
        }
        // The write itself cannot be interrupted; it only needs the link, which has its own limit.
        self.transport.set_deadline(None);
        let size = self.transport.write(bytes)?;
        self.moved(size);
        Ok(size)
    }

    /// Does nothing: what was written is on its way.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_deadline(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<DeadlinePassed>())
        || ssh::Error::in_io(error).is_some_and(|error| matches!(error.cause, Cause::Deadline))
}
