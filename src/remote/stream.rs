//! A byte stream to the daemon of a build machine, with time limits for its silence.

use std::io::{self, Read, Write};
use std::mem;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::error::Error;
use super::session_stream::{DeadlinePassed, SessionStream, StreamCloser};
use super::stall_detector::{Due, Progress, StallDetector};
use super::timeouts::{SilencePolicy, greeting_timeout, recheck_timeout, reused_greeting_timeout};
use crate::daemon::{self, Client};
use crate::store::path::StoreDir;

/// A byte stream to a machine's daemon. Reads and writes fail as those of `SessionStream` do. If the daemon is silent
/// for too long ([`SilencePolicy`]), the error contains [`Error::Silent`] or [`Error::Unresponsive`].
pub struct DaemonStream {
    stream: SessionStream,
    connection: Connection,
    silence_policy: SilencePolicy,
    stall_detector: StallDetector,
    /// The time by which the daemon must have sent its whole greeting, and the time allowed for it.
    greeting_deadline: Option<(Instant, Duration)>,
    has_written: bool,
    /// A byte that [`wait`](DaemonStream::wait) has read.
    peeked: Option<u8>,
    /// The last time at which bytes were read or written.
    last_moved: Instant,
}

impl Connection {
    /// Opens a new stream to the socket of the machine's daemon.
    ///
    /// If the SSH server does not forward to sockets, `guix repl` on the machine passes the bytes
    /// ([`warning`](Connection::warning)).
    pub fn daemon(&self) -> Result<DaemonStream, Error> {
        let limit = match self.is_reused() && !self.has_reached_daemon() {
            // After a failure the caller opens a new connection.
            true => reused_greeting_timeout(self.machine(), Duration::ZERO),
            false => greeting_timeout(self.machine(), self.has_reached_daemon()),
        };
        self.daemon_within(limit)
    }

    /// Opens a new stream to the daemon. `limit` is the time allowed to open the channel, and again for the greeting.
    pub(super) fn daemon_within(&self, limit: Duration) -> Result<DaemonStream, Error> {
        let stream = self.open_daemon(limit)?;
        self.set_daemon_reached();
        Ok(DaemonStream::awaiting_greeting(stream, self.clone(), limit))
    }
}

impl DaemonStream {
    /// Returns a stream whose daemon must send its whole greeting within `limit`.
    fn awaiting_greeting(stream: SessionStream, connection: Connection, limit: Duration) -> DaemonStream {
        let greeting_deadline = Instant::now().checked_add(limit).map(|time| (time, limit));
        DaemonStream {
            greeting_deadline,
            ..DaemonStream::with_policy(stream, connection, SilencePolicy::greeting(limit))
        }
    }

    /// Returns a stream with this silence policy.
    pub(super) fn with_policy(
        stream: SessionStream,
        connection: Connection,
        silence_policy: SilencePolicy,
    ) -> DaemonStream {
        let stall_detector = StallDetector::default();
        DaemonStream {
            stream,
            connection,
            silence_policy,
            stall_detector,
            greeting_deadline: None,
            has_written: false,
            peeked: None,
            last_moved: Instant::now(),
        }
    }

    /// Returns a stream to a daemon that has been greeted before and must answer the first request within `limit`.
    pub(super) fn resumed(stream: SessionStream, connection: Connection, limit: Duration) -> DaemonStream {
        DaemonStream::with_policy(stream, connection, SilencePolicy::greeting(limit))
    }

    /// Returns whether another hook has used the stream before. Then the daemon has started `guix authenticate` for it.
    pub fn is_resumed(&self) -> bool {
        self.stream.is_resumed()
    }

    /// Returns the connection of the stream.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Greets the daemon, and returns its client.
    pub fn greet(self, store: StoreDir) -> Result<Client<DaemonStream>, daemon::Error> {
        Ok(DaemonStream::count_requests(Client::connect(self, store)?))
    }

    /// Makes each request of the client count as progress of its stream.
    pub(super) fn count_requests(mut client: Client<DaemonStream>) -> Client<DaemonStream> {
        let progress = client.stream_mut().progress();
        client.on_request(Box::new(move || progress.step()));
        client
    }

    /// Sets the silence policy, and begins a new phase: the silence so far does not count.
    pub fn set_silence_policy(&mut self, silence_policy: SilencePolicy) {
        self.silence_policy = silence_policy;
        self.stall_detector.begin_phase();
    }

    /// Returns the handle with which a reader of the stream reports progress.
    pub fn progress(&self) -> Progress {
        self.stall_detector.progress().clone()
    }

    /// Returns a handle with which another thread ends the stream.
    pub fn closer(&self) -> io::Result<StreamCloser> {
        self.stream.closer()
    }

    /// Returns the silence policy.
    pub fn silence_policy(&self) -> &SilencePolicy {
        &self.silence_policy
    }

    /// Returns whether the owner process of the session has ended or is stopped. That is not a failure of the machine.
    pub fn has_lost_owner(&self) -> bool {
        self.stream.has_lost_owner()
    }

    /// Returns whether the SSH server closed the channel of the stream because it was idle ([`Error::ChannelTimeout`]).
    pub fn is_channel_timeout(&self) -> bool {
        self.stream.is_channel_timeout()
    }

    /// Fails with [`Error::ChannelTimeout`] if the SSH server closed the channel because it was idle.
    fn check_channel_timeout(&self, kind: io::ErrorKind) -> io::Result<()> {
        if !self.is_channel_timeout() {
            return Ok(());
        }
        let (machine, silence) = (self.connection.machine().address(), self.last_moved.elapsed());
        Err(io::Error::new(kind, Error::ChannelTimeout { machine, silence }))
    }

    /// Returns the stream without the silence policy.
    pub(super) fn into_session_stream(self) -> SessionStream {
        self.stream
    }

    /// Returns whether no byte has arrived that was not read.
    pub(super) fn is_between_replies(&self) -> bool {
        self.peeked.is_none()
    }

    /// Waits until a byte can be read, at most for `limit`. An error appears at the next read.
    pub fn wait(&mut self, limit: Duration) {
        if self.peeked.is_some() {
            return;
        }
        let mut byte = [0];
        self.stream.set_deadline(Instant::now().checked_add(limit));
        self.peeked = matches!(self.stream.read(&mut byte), Ok(1)).then_some(byte[0]);
    }

    /// Ends the input of a command, discards its output until the end, and returns its exit status.
    pub(super) fn finish(mut self) -> io::Result<Option<i32>> {
        self.stream.send_eof()?;
        // `Read` would fail here: a command that succeeds after a silence looks as if the server had closed the
        // channel.
        let mut output = [0; 4096];
        while self.apply_policy(|stream| stream.read(&mut output), |size| *size)? > 0 {}
        Ok(self.stream.command_exit().status)
    }

    /// Checks that the daemon still responds, with a greeting on a second channel.
    fn recheck(&mut self, silence: Duration) -> Result<(), Error> {
        self.stream.check_owner()?;
        let limit = recheck_timeout(self.connection.machine(), self.silence_policy.report);
        let cause = match self.connection.daemon_within(limit) {
            Ok(stream) => match Client::connect(stream, StoreDir::default()) {
                Ok(_) => return Ok(()),
                Err(error) => error.to_string(),
            },
            // For example, the account may run only one relay. That is not a failure of the daemon.
            Err(Error::NoRoute { .. }) => return Ok(()),
            Err(error @ (Error::OwnerEnded { .. } | Error::OwnerStopped { .. })) => return Err(error),
            Err(error) => error.to_string(),
        };
        Err(Error::Unresponsive { machine: self.connection.machine().address(), silence, cause })
    }
}

impl DaemonStream {
    /// Fails if the time allowed for the greeting has passed.
    fn check_greeting(&self) -> Result<(), Error> {
        match self.greeting_deadline {
            Some((time, limit)) if time <= Instant::now() => {
                Err(Error::NotGreeted { machine: self.connection.machine().address(), limit })
            }
            _ => Ok(()),
        }
    }

    /// Runs a read or a write under the silence policy, and repeats it after each interruption. `size` returns the
    /// number of bytes that it moved.
    fn apply_policy<T>(
        &mut self,
        mut operation: impl FnMut(&mut SessionStream) -> io::Result<T>,
        size: impl Fn(&T) -> usize,
    ) -> io::Result<T> {
        let given_up = |error: Error| io::Error::new(io::ErrorKind::TimedOut, error);
        loop {
            if self.stall_detector.progress().is_stopped() {
                return Err(io::Error::other("the reader has stopped the stream"));
            }
            self.stall_detector.apply_progress();
            while let Some(due) = self.stall_detector.due(&self.silence_policy) {
                self.handle_due(due).map_err(given_up)?;
            }
            let begin = Instant::now();
            let due = self.stall_detector.time_until_due(&self.silence_policy).and_then(|time| begin.checked_add(time));
            self.stream.set_deadline([due, self.greeting_deadline.map(|(time, _)| time)].into_iter().flatten().min());
            let result = operation(&mut self.stream);
            self.stall_detector.add_wait(begin.elapsed());
            match result {
                Err(error) if is_deadline(&error) => self.check_greeting().map_err(given_up)?,
                Ok(value) => {
                    self.add_bytes(size(&value));
                    return Ok(value);
                }
                Err(error) => {
                    self.check_channel_timeout(error.kind())?;
                    return Err(error);
                }
            }
        }
    }

    /// Counts bytes that were read or written.
    fn add_bytes(&mut self, size: usize) {
        self.stall_detector.add_bytes(size as u64, &self.silence_policy);
        if size > 0 {
            self.last_moved = Instant::now();
        }
    }

    /// Performs an action that is due. The error ends the stream.
    fn handle_due(&mut self, due: Due) -> Result<(), Error> {
        let machine = || self.connection.machine().address();
        let (silence, bytes) = (self.stall_detector.silence(), self.stall_detector.bytes());
        match due {
            Due::NotStarted => Err(Error::NotStarted { machine: machine(), wait: self.stall_detector.build_wait() }),
            Due::GiveUp if !self.stall_detector.is_silent() => {
                Err(Error::TooSlow { machine: machine(), bytes, time: silence })
            }
            Due::GiveUp => {
                self.stream.check_owner()?;
                Err(Error::Silent { machine: self.connection.machine().address(), silence })
            }
            Due::Report => {
                self.report_silence();
                Ok(())
            }
            Due::Recheck => {
                // During a check no line can be printed.
                if self.silence_policy.report.is_some() {
                    self.report_silence();
                }
                let begin = Instant::now();
                let checked = self.recheck(silence);
                self.stall_detector.add_wait(begin.elapsed());
                checked
            }
        }
    }

    /// Logs how long the stream has made no progress.
    fn report_silence(&self) {
        let (name, seconds) = (&self.connection.machine().name, self.stall_detector.silence().as_secs());
        if self.silence_policy.build_start.is_some() && !self.stall_detector.build_wait().is_zero() {
            log::info!("{name}: the build has not begun there for {} s", self.stall_detector.build_wait().as_secs());
        } else if self.stall_detector.is_silent() {
            log::info!("{name}: its daemon has been silent for {seconds} s");
        } else {
            log::info!("{name}: only {} bytes have passed in {seconds} s", self.stall_detector.bytes());
        }
    }
}

impl Read for DaemonStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match (buffer, self.peeked) {
            ([to, ..], Some(peeked)) => {
                (*to, self.peeked) = (peeked, None);
                Ok(1)
            }
            (buffer, _) => {
                let size = self.apply_policy(|stream| stream.read(buffer), |size| *size)?;
                if size == 0 && !buffer.is_empty() {
                    self.check_channel_timeout(io::ErrorKind::UnexpectedEof)?;
                }
                Ok(size)
            }
        }
    }
}

impl Write for DaemonStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if mem::replace(&mut self.has_written, true) {
            // A client sends its second message only after the greeting.
            self.greeting_deadline = None;
        }
        self.apply_policy(|stream| stream.write(bytes), |size| *size)
    }

    /// Does nothing, because writes are not buffered.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns whether the error says that the deadline of the stream has passed.
fn is_deadline(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<DeadlinePassed>())
}
