//! The state of an owner, and the requests that change it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::HANDSHAKE_TIMEOUT;
use super::clients::Client;
use super::listening_socket::ListeningSocket;
use super::message::{Frames, KeepOpen, Reply, Report, Request, send};
use super::status_probe::StatusProbe;
use super::streams::{BUFFER_SIZE, IdleStream, Stream};
use super::traffic::Traffic;
use crate::ssh::{self, Cause, PendingChannel, Session, Target};

/// The most hooks that are served at the same time. Further ones wait until the owner accepts them.
pub(super) const CLIENTS_MAX: usize = 128;

/// The most streams that are in use at the same time. Further ones are refused.
const STREAMS_MAX: usize = 256;

/// A session with its clients and its streams.
pub(super) struct Server {
    pub session: Session,
    pub machine: String,
    pub clients: Vec<Client>,
    /// The streams to open, in this order.
    pub openings: VecDeque<PendingStream>,
    pub streams: Vec<Stream>,
    pub idle: Vec<IdleStream>,
    /// The socket for other hooks; `None` before the first request to stay open, and in a retired owner.
    pub listening: Option<Listening>,
    /// Whether it accepts no new hooks any more.
    pub is_retired: bool,
    /// A socket that is readable after SIGTERM; `None` in a thread.
    pub terminated: Option<UnixStream>,
    /// The time of the login.
    pub opened_at: Instant,
    /// The last time at which the owner had a client or a stream in use.
    pub last_used: Instant,
    /// The time of the last bytes from the SSH server.
    pub last_received: Instant,
    /// The time of the last keep-alive request, or of the last bytes if these came later.
    pub last_probed: Instant,
    /// Whether channels can be opened. False after the opening of one has timed out.
    pub can_open: bool,
    /// Whether libssh2 may hold data for a stream that it has already read from the socket.
    pub may_have_buffered: bool,
    pub traffic: Traffic,
    pub status_probe: StatusProbe,
    pub buffer: Vec<u8>,
}

/// The socket of an owner that stays open for other hooks.
pub(super) struct Listening {
    pub socket: ListeningSocket,
    pub settings: KeepOpen,
    /// The owner retires when this process ends.
    pub daemon: Option<OwnedFd>,
}

/// A stream that is not open yet.
pub(super) struct PendingStream {
    pub opening: PendingChannel,
    pub limit: Duration,
    /// The time by which it must be open; `None` before its opening has begun.
    pub until: Option<Instant>,
    pub data: UnixStream,
    pub status: Frames,
}

impl Server {
    /// Returns the state after login, with the hook that has started the owner as the only client.
    pub fn new(
        session: Session,
        machine: String,
        control: Frames,
        terminated: Option<UnixStream>,
    ) -> io::Result<Server> {
        let now = Instant::now();
        Ok(Server {
            session,
            machine,
            clients: vec![Client::starter(control)?],
            openings: VecDeque::new(),
            streams: Vec::new(),
            idle: Vec::new(),
            listening: None,
            is_retired: false,
            terminated,
            opened_at: now,
            last_used: now,
            last_received: now,
            last_probed: now,
            can_open: true,
            may_have_buffered: false,
            traffic: Traffic::new(now),
            status_probe: StatusProbe::default(),
            buffer: vec![0; BUFFER_SIZE],
        })
    }

    /// Returns the number of open streams of hooks.
    fn streams_in_use(&self) -> usize {
        self.streams.len().saturating_sub(self.status_probe.streams())
    }

    /// Returns whether a hook uses the session.
    pub fn is_in_use(&self) -> bool {
        !self.clients.is_empty() || self.streams.len() + self.openings.len() > self.status_probe.streams()
    }

    /// Returns when the next probe of the idle owner is to begin; `None` if none is.
    pub fn next_probe(&self) -> Option<Instant> {
        let is_idle = self.listening.is_some() && self.can_open && !self.is_in_use();
        self.status_probe.next(self.last_used).filter(|_| is_idle)
    }

    /// Begins the next probe, if it is time.
    pub fn probe_if_due(&mut self) -> io::Result<()> {
        let (Some(listening), now) = (&self.listening, Instant::now()) else { return Ok(()) };
        if self.next_probe().is_none_or(|time| time > now) {
            return Ok(());
        }
        let opening = self.session.open(Target::Command(listening.settings.probe.clone()));
        let ((data, status), (_, limit)) = (self.status_probe.begin(now)?, self.session.silence_limits());
        self.openings.push_back(PendingStream { opening, limit, until: None, data, status });
        Ok(())
    }

    /// Accepts no new hooks any more, and closes the idle streams.
    pub fn retire(&mut self) {
        self.is_retired = true;
        self.listening = None;
        self.idle.clear();
        // The closing of a channel may read data for another.
        self.may_have_buffered = true;
    }

    /// Accepts the hooks that have connected.
    pub fn accept(&mut self) {
        let Some(listening) = &self.listening else { return };
        while self.clients.len() < CLIENTS_MAX {
            match listening.socket.accept() {
                Ok(Some(control)) => self.clients.extend(Client::new(control, Instant::now() + HANDSHAKE_TIMEOUT)),
                Ok(None) => return,
                // The same error would return at once.
                Err(_) => return self.retire(),
            }
        }
    }

    /// Serves a request with its descriptors.
    pub fn serve_request(&mut self, (request, mut descriptors): (Request, VecDeque<OwnedFd>)) {
        let mut next = || descriptors.pop_front();
        match request {
            // The owner has its session already.
            Request::Start(_) => {}
            Request::Open { target, limit } => {
                if let (Some(data), Some(status)) = (next(), next()) {
                    let (data, status) = (UnixStream::from(data), Frames::new(status.into()));
                    let opening = self.session.open(target);
                    self.openings.push_back(PendingStream { opening, limit, until: None, data, status });
                }
            }
            Request::Resume { stream, unless_busy } => {
                if let (Some(data), Some(status)) = (next(), next()) {
                    let status = Frames::new(status.into());
                    // A build does not need a second session after a large transfer has ended.
                    if unless_busy && self.streams_in_use() > 0 && self.traffic.is_busy(Instant::now()) {
                        let _ = send(status.socket(), &Reply::Busy, &[]);
                    } else {
                        self.resume(&stream, data.into(), status);
                    }
                }
            }
            Request::KeepOpen(settings) => self.keep_open(settings, next()),
            Request::Report => {
                if let Some(status) = next() {
                    let _ = send(&status.into(), &Reply::Report(self.report()), &[]);
                }
            }
            Request::LastProbe => {
                if let Some(status) = next() {
                    let _ = send(&status.into(), &Reply::LastProbe(self.status_probe.output()), &[]);
                }
            }
            Request::Retire => self.retire(),
        }
    }

    /// Listens for other hooks, or changes for how long.
    fn keep_open(&mut self, settings: KeepOpen, daemon: Option<OwnedFd>) {
        if let Some(listening) = &mut self.listening {
            listening.settings = settings;
        } else if !self.is_retired && self.terminated.is_some() {
            // Without a socket no other hook finds the session.
            let socket = ListeningSocket::make(&settings.socket).ok();
            self.listening = socket.map(|socket| Listening { socket, settings, daemon });
        }
    }

    /// Gives the last idle stream of this name to a hook.
    fn resume(&mut self, name: &str, data: UnixStream, status: Frames) {
        let compressed = self.session.compressed();
        while let Some(at) = self.idle.iter().rposition(|idle| idle.name == name) {
            let mut idle = self.idle.remove(at);
            if !idle.is_usable() {
                continue;
            }
            let reply = Reply::Resumed { greeting: idle.greeting, compressed };
            if send(status.socket(), &reply, &[]).is_ok() {
                self.streams.extend(idle.into_stream(data, status));
            } else {
                self.idle.push(idle);
            }
            return;
        }
        let _ = send(status.socket(), &Reply::NoStream { compressed }, &[]);
    }

    /// Continues to open the first pending stream, and then the next ones, until the SSH server must reply. The error
    /// is a failure of the session.
    pub fn open_next(&mut self) -> Result<(), ssh::Error> {
        while let Some(pending) = self.openings.front_mut() {
            let until = *pending.until.get_or_insert_with(|| Instant::now() + pending.limit);
            let opened = if !self.can_open || self.streams.len() >= STREAMS_MAX {
                Err(self.session.unusable_error())
            } else {
                pending.opening.step()
            };
            let opened = match opened {
                Ok(None) if until > Instant::now() => return Ok(()),
                Ok(None) => {
                    self.can_open = false;
                    // The idle streams are left: their channels are open. No request to stay open changes this.
                    (self.listening, self.is_retired) = (None, true);
                    Err(self.session.open_timeout_error(pending.limit))
                }
                Ok(Some(channel)) => Ok(channel),
                Err(error) if is_session_error(&error) && self.can_open => return Err(error),
                Err(error) => Err(error),
            };
            let Some(PendingStream { opening, data, status, .. }) = self.openings.pop_front() else { return Ok(()) };
            match opened {
                Ok(channel) => {
                    if send(status.socket(), &Reply::Opened, &[]).is_ok() {
                        self.streams.extend(Stream::new(channel, opening.is_command(), data, status));
                        self.may_have_buffered = true;
                    }
                }
                Err(error) => drop(send(status.socket(), &Reply::Refused(error), &[])),
            }
        }
        Ok(())
    }

    fn report(&self) -> Report {
        let [sent, received] = self.traffic.bytes();
        Report {
            machine: self.machine.clone(),
            age: self.opened_at.elapsed().as_secs(),
            streams: self.streams_in_use(),
            idle: self.idle.len(),
            sent,
            received,
        }
    }
}

/// Returns whether an error affects the whole session, and so all streams.
fn is_session_error(error: &ssh::Error) -> bool {
    !matches!(
        error.cause,
        Cause::SocketRefused { .. } | Cause::CommandRefused(_) | Cause::ChannelClosed | Cause::Ssh { .. }
    )
}
