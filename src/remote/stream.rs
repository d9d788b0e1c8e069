//! A byte stream to the daemon of a build machine, read and written with patience.

use std::io::{self, Read, Write};
use std::mem;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::error::Error;
use super::pace::{Due, Pace, Progress};
use super::session_stream::{DeadlinePassed, SessionStream};
use super::timeouts::{SilencePolicy, greeting_timeout, recheck_timeout, reused_greeting_timeout};
use crate::daemon::{self, Client};
use crate::store::path::StoreDir;

/// A byte stream to a machine's daemon. Reads and writes fail as those of [`SessionStream`] do, and with [`Error::Silent`] or
/// [`Error::Unresponsive`] inside when the daemon is silent for too long ([`SilencePolicy`]).
pub struct DaemonStream {
    stream: SessionStream,
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
}

impl Connection {
    /// Opens a stream to the socket of the machine's daemon. Each call gives a new one.
    ///
    /// Where the SSH server does not forward to sockets, `guix repl` on the other side passes the bytes
    /// ([`warning`](Connection::warning)).
    pub fn daemon(&self) -> Result<DaemonStream, Error> {
        let limit = match self.is_reused() && !self.is_up() {
            // Where it fails a new connection is made.
            true => reused_greeting_timeout(self.machine(), Duration::ZERO),
            false => greeting_timeout(self.machine(), self.is_up()),
        };
        self.daemon_within(limit)
    }

    /// The same within this time for opening the channel, which is also what the greeting may take.
    pub(super) fn daemon_within(&self, limit: Duration) -> Result<DaemonStream, Error> {
        let stream = self.open_daemon(limit)?;
        self.set_up();
        Ok(DaemonStream::to_be_greeted(stream, self.clone(), limit))
    }
}

impl DaemonStream {
    /// A stream whose daemon must have greeted within `limit`.
    fn to_be_greeted(stream: SessionStream, connection: Connection, limit: Duration) -> DaemonStream {
        let greeted_by = Instant::now().checked_add(limit).map(|time| (time, limit));
        DaemonStream { greeted_by, ..DaemonStream::through(stream, connection, SilencePolicy::greeting(limit)) }
    }

    /// A stream that is read and written with this patience.
    pub(super) fn through(
        stream: SessionStream,
        connection: Connection,
        silence_policy: SilencePolicy,
    ) -> DaemonStream {
        let pace = Pace::default();
        DaemonStream {
            stream,
            connection,
            silence_policy,
            pace,
            greeted_by: None,
            has_written: false,
            first: None,
            moved: Instant::now(),
        }
    }

    /// A stream to a daemon that has been greeted, and must answer the first request within `limit`.
    pub(super) fn resumed(stream: SessionStream, connection: Connection, limit: Duration) -> DaemonStream {
        DaemonStream::through(stream, connection, SilencePolicy::greeting(limit))
    }

    /// Whether another hook has had it before, so that the daemon has signed over it.
    pub fn is_resumed(&self) -> bool {
        self.stream.is_resumed()
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

    /// Whether the process that owns the session has ended since, for reasons of its own, or is stopped.
    pub fn has_lost_owner(&self) -> bool {
        self.stream.has_lost_owner()
    }

    /// Whether the stream ended because the SSH server closed its channel for the silence on it ([`Error::ChannelCut`]).
    pub fn is_channel_timeout(&self) -> bool {
        self.stream.is_channel_timeout()
    }

    /// Fails with an error of its own if the stream ended because the server closed its channel.
    fn check_cut(&self, kind: io::ErrorKind) -> io::Result<()> {
        if !self.is_channel_timeout() {
            return Ok(());
        }
        let (machine, silence) = (self.connection.machine().address(), self.moved.elapsed());
        Err(io::Error::new(kind, Error::ChannelCut { machine, silence }))
    }

    pub(super) fn into_session_stream(self) -> SessionStream {
        self.stream
    }

    /// Whether all that has come has been read.
    pub(super) fn is_between_replies(&self) -> bool {
        self.first.is_none()
    }

    /// Waits until there is something to read, for so long at the most. What goes wrong shows with the next read.
    pub fn wait(&mut self, limit: Duration) {
        if self.first.is_some() {
            return;
        }
        let mut byte = [0];
        self.stream.set_deadline(Instant::now().checked_add(limit));
        self.first = matches!(self.stream.read(&mut byte), Ok(1)).then_some(byte[0]);
    }

    /// Says that nothing more will be written, takes what comes until the end, and returns the exit status of the command
    /// that it leads to.
    pub(super) fn finish(mut self) -> io::Result<Option<i32>> {
        self.stream.send_eof()?;
        // Not by `Read`: a command that ended well after a silence looks as if the server had closed the channel.
        let mut output = [0; 4096];
        while self.within_silence_policy(|stream| stream.read(&mut output), |size| *size)? > 0 {}
        Ok(self.stream.ended().status)
    }

    /// Whether the daemon still answers anybody, by a second greeting.
    fn check(&mut self, silence: Duration) -> Result<(), Error> {
        self.stream.check()?;
        let limit = recheck_timeout(self.connection.machine(), self.silence_policy.report);
        let cause = match self.connection.daemon_within(limit) {
            Ok(stream) => match Client::connect(stream, StoreDir::default()) {
                Ok(_) => return Ok(()),
                Err(error) => error.to_string(),
            },
            // As where the account may run one relay and not two: that says nothing about the daemon.
            Err(Error::NoRoute { .. }) => return Ok(()),
            Err(error @ (Error::OwnerEnded { .. } | Error::OwnerStopped { .. })) => return Err(error),
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
        mut operation: impl FnMut(&mut SessionStream) -> io::Result<T>,
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
            self.stream.set_deadline([due, self.greeted_by.map(|(time, _)| time)].into_iter().flatten().min());
            let result = operation(&mut self.stream);
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
                self.stream.check()?;
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
                let size = self.within_silence_policy(|stream| stream.read(buffer), |size| *size)?;
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
        self.within_silence_policy(|stream| stream.write(bytes), |size| *size)
    }

    /// Does nothing: what was written is on its way.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_deadline(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<DeadlinePassed>())
}
