//! What an owner has, and what is asked of it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::HANDSHAKE_TIMEOUT;
use super::clients::Client;
use super::listening_socket::ListeningSocket;
use super::message::{Frames, Keep, Reply, Report, Request, send};
use super::streams::{BUFFER_SIZE, IdleStream, Stream};
use crate::ssh::{self, Cause, Opening, Session};

/// How many hooks are served at the same time. More wait to be accepted.
pub(super) const CLIENTS_MAX: usize = 128;

/// How many streams there may be at the same time, those that are to be opened included.
const STREAMS_MAX: usize = 256;

/// A session, and all that goes over it.
pub(super) struct Server {
    pub session: Session,
    pub machine: String,
    pub clients: Vec<Client>,
    /// In the order in which they are opened.
    pub openings: VecDeque<Waiting>,
    pub streams: Vec<Stream>,
    pub idle: Vec<IdleStream>,
    pub kept: Option<Kept>,
    /// Whether it must not be kept any more.
    pub is_retired: bool,
    /// Readable after SIGTERM.
    pub terminated: Option<UnixStream>,
    pub start: Instant,
    pub last_used: Instant,
    /// When something came over the link last, and when something was asked for.
    pub heard: Instant,
    pub asked: Instant,
    /// Whether a channel can be opened: not after one that was given up.
    pub can_open: bool,
    /// Whether there is something to be passed on that no socket tells of.
    pub has_more: bool,
    pub bytes: [u64; 2],
    pub buffer: Vec<u8>,
}

/// That the owner is there for others.
pub(super) struct Kept {
    pub socket: ListeningSocket,
    pub terms: Keep,
    /// The process with which this ends.
    pub daemon: Option<OwnedFd>,
}

/// A stream that is to be opened.
pub(super) struct Waiting {
    pub opening: Opening,
    pub limit: Duration,
    /// Since it is being opened.
    pub until: Option<Instant>,
    pub data: UnixStream,
    pub status: Frames,
}

impl Server {
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
            kept: None,
            is_retired: false,
            terminated,
            start: now,
            last_used: now,
            heard: now,
            asked: now,
            can_open: true,
            has_more: false,
            bytes: [0; 2],
            buffer: vec![0; BUFFER_SIZE],
        })
    }

    /// Is not there for others any more.
    pub fn retire(&mut self) {
        self.is_retired = true;
        self.kept = None;
        self.idle.clear();
    }

    pub fn accept(&mut self) {
        let Some(kept) = &self.kept else { return };
        while self.clients.len() < CLIENTS_MAX {
            match kept.socket.accept() {
                Ok(Some(control)) => self.clients.extend(Client::new(control, Instant::now() + HANDSHAKE_TIMEOUT)),
                Ok(None) => return,
                // It would be there to be accepted again at once.
                Err(_) => return self.retire(),
            }
        }
    }

    pub fn serve_request(&mut self, (request, mut descriptors): (Request, VecDeque<OwnedFd>)) {
        let mut next = || descriptors.pop_front();
        match request {
            // Nobody else's session.
            Request::Start(_) => {}
            Request::Open { target, limit } => {
                if let (Some(data), Some(status)) = (next(), next()) {
                    let (data, status) = (UnixStream::from(data), Frames::new(status.into()));
                    let opening = self.session.open(target);
                    self.openings.push_back(Waiting { opening, limit, until: None, data, status });
                }
            }
            Request::Resume { stream } => {
                if let (Some(data), Some(status)) = (next(), next()) {
                    self.resume(&stream, data.into(), Frames::new(status.into()));
                }
            }
            Request::Keep(terms) => self.keep(terms, next()),
            Request::Report => {
                if let Some(status) = next() {
                    let _ = send(&status.into(), &Reply::Report(self.report()), &[]);
                }
            }
            Request::Retire => self.retire(),
        }
    }

    /// Makes the session available to other hooks, or changes for how long it is.
    fn keep(&mut self, terms: Keep, daemon: Option<OwnedFd>) {
        if let Some(kept) = &mut self.kept {
            kept.terms = terms;
        } else if !self.is_retired && self.terminated.is_some() {
            // Without a socket no hook finds it.
            self.kept = ListeningSocket::make(&terms.socket).ok().map(|socket| Kept { socket, terms, daemon });
        }
    }

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

    /// Goes on with the stream that is being opened.
    pub fn open_next(&mut self) -> Result<(), ssh::Error> {
        while let Some(waiting) = self.openings.front_mut() {
            let until = *waiting.until.get_or_insert_with(|| Instant::now() + waiting.limit);
            let opened = if !self.can_open || self.streams.len() >= STREAMS_MAX {
                Err(self.session.out_of_use())
            } else {
                waiting.opening.step()
            };
            let opened = match opened {
                Ok(None) if until > Instant::now() => return Ok(()),
                Ok(None) => {
                    self.can_open = false;
                    self.kept = None;
                    Err(self.session.not_opened(waiting.limit))
                }
                Ok(Some(channel)) => Ok(channel),
                Err(error) if is_of_session(&error) && self.can_open => return Err(error),
                Err(error) => Err(error),
            };
            let Some(Waiting { opening, data, status, .. }) = self.openings.pop_front() else { return Ok(()) };
            match opened {
                Ok(channel) => {
                    if send(status.socket(), &Reply::Opened, &[]).is_ok() {
                        self.streams.extend(Stream::new(channel, opening.is_command(), data, status));
                        self.has_more = true;
                    }
                }
                Err(error) => drop(send(status.socket(), &Reply::Refused(error), &[])),
            }
        }
        Ok(())
    }

    fn report(&self) -> Report {
        let [sent, received] = self.bytes;
        Report {
            machine: self.machine.clone(),
            age: self.start.elapsed().as_secs(),
            streams: self.streams.len(),
            idle: self.idle.len(),
            sent,
            received,
        }
    }
}

/// Whether an error is that of all streams.
fn is_of_session(error: &ssh::Error) -> bool {
    !matches!(
        error.cause,
        Cause::SocketRefused { .. } | Cause::CommandRefused(_) | Cause::ChannelClosed | Cause::Ssh { .. }
    )
}
