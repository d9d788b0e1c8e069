//! The owner's side: makes a session, and serves hooks until nobody needs it any more.
//!
//! One thread waits for everything at once (poll(2)): the link, the hooks, and the ends of time. Only writing a packet
//! to the link waits for the link alone, which all streams share.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::SIGTERM;
use signal_hook::low_level::pipe;

use super::MAX_AGE;
use super::clients::Client;
use super::message::{Connected, Frames, Reply, Request, StartReply, send};
use super::server::{CLIENTS_MAX, Server};
use super::streams::{IdleStream, Stream, StreamState};
use crate::ssh::{self, Cause, Session};

/// Makes the session that the first request wants, and serves it. `in_process`: whether the process does nothing else.
pub(super) fn serve(control: UnixStream, in_process: bool) -> io::Result<()> {
    let mut control = Frames::new(control);
    let Some(Request::Start(start)) = control.receive()? else { return Ok(()) };
    if in_process {
        super::process::log_to(control.socket(), start.log)?;
    }
    let compressed = start.compressed;
    let machine = start.into_machine();
    let session = match Session::connect_compressed(&machine, compressed) {
        Ok(session) => session,
        Err(error) => return send(control.socket(), &StartReply::Failed(error), &[]),
    };
    let connected = Connected { key: session.key_stamp().clone(), compressed: session.compressed() };
    let terminated = if in_process {
        let (reader, writer) = UnixStream::pair()?;
        pipe::register(SIGTERM, writer)?;
        // But for the messages of a program that carries the session.
        if machine.proxy_command.is_none() {
            super::process::log_nothing();
        }
        rustix::process::chdir("/")?;
        Some(reader)
    } else {
        None
    };
    send(control.socket(), &StartReply::Connected(connected), &[])?;
    Server::new(session, machine.address(), control, terminated)?.run()
}

/// What became ready.
#[derive(Clone, Copy)]
enum Source {
    Link,
    Terminated,
    Daemon,
    Listener,
    Client(usize),
    Status(usize),
    Data(usize),
}

impl Server {
    fn run(mut self) -> io::Result<()> {
        while !self.is_over() {
            let events = self.wait()?;
            match self.advance(&events) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.lose(error);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Whether nobody uses the session, nor is to.
    fn is_over(&mut self) -> bool {
        if self.start.elapsed() >= MAX_AGE {
            self.retire();
        }
        if !self.clients.is_empty() || !self.streams.is_empty() || !self.openings.is_empty() {
            self.last_used = Instant::now();
            return false;
        }
        self.kept.as_ref().is_none_or(|kept| self.last_used.elapsed() >= kept.terms.idle)
    }

    /// Waits until something is to be done.
    fn wait(&mut self) -> io::Result<Vec<(Source, PollFlags)>> {
        // Without a channel libssh2 takes nothing in.
        let of_link = if self.has_channels() { PollFlags::IN } else { PollFlags::RDHUP };
        let mut sources = vec![Source::Link];
        let mut wanted = vec![PollFd::from_borrowed_fd(self.session.socket(), of_link)];
        let mut add = |source, descriptor| {
            sources.push(source);
            wanted.push(descriptor);
        };
        if let Some(terminated) = &self.terminated {
            add(Source::Terminated, PollFd::new(terminated, PollFlags::IN));
        }
        if let Some(kept) = &self.kept {
            if let Some(daemon) = &kept.daemon {
                add(Source::Daemon, PollFd::new(daemon, PollFlags::IN));
            }
            if self.clients.len() < CLIENTS_MAX {
                add(Source::Listener, PollFd::new(kept.socket.listener(), PollFlags::IN));
            }
        }
        for (number, client) in self.clients.iter().enumerate() {
            add(Source::Client(number), PollFd::new(client.socket(), PollFlags::IN));
        }
        for (number, stream) in self.streams.iter().enumerate() {
            add(Source::Status(number), PollFd::new(stream.status(), PollFlags::IN));
            add(Source::Data(number), PollFd::new(stream.data(), stream.wanted()));
        }
        let left = self.next_time().saturating_duration_since(Instant::now());
        let left = if self.has_more { Duration::ZERO } else { left };
        let left = Timespec { tv_sec: left.as_secs().min(i64::MAX as u64) as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut wanted, Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = sources.into_iter().zip(wanted.iter().map(PollFd::revents));
        Ok(ready.filter(|(_, events)| !events.is_empty()).collect())
    }

    fn has_channels(&self) -> bool {
        !self.streams.is_empty() || !self.idle.is_empty() || !self.openings.is_empty()
    }

    /// When something is to be done that nothing tells of.
    fn next_time(&self) -> Instant {
        let (interval, stall_timeout) = self.session.silence_limits();
        let mut next = self.start + MAX_AGE + interval;
        let mut add = |time| next = next.min(time);
        if self.has_channels() {
            add(self.asked + interval);
            if self.asked > self.heard {
                add(self.heard + stall_timeout);
            }
        }
        if let Some(kept) = &self.kept {
            add(self.start + MAX_AGE);
            if self.clients.is_empty() {
                add(self.last_used + kept.terms.idle);
            }
        }
        self.openings.front().and_then(|waiting| waiting.until).into_iter().for_each(&mut add);
        self.clients.iter().filter_map(Client::asks_until).for_each(&mut add);
        self.streams.iter().filter_map(Stream::close_by).for_each(&mut add);
        next
    }

    /// Does what is to be done. False: the process is to end. An error: the session is lost.
    fn advance(&mut self, events: &[(Source, PollFlags)]) -> Result<bool, ssh::Error> {
        let mut requests = Vec::new();
        let mut is_heard = false;
        let mut states: Vec<StreamState> = self.streams.iter().map(|_| StreamState::Open).collect();
        let received = self.session.received();
        for (source, events) in events {
            match *source {
                Source::Link if !self.has_channels() => return Err(self.session.closed()),
                Source::Link => is_heard = true,
                Source::Terminated => return Ok(false),
                Source::Daemon => self.retire(),
                Source::Listener => self.accept(),
                Source::Client(number) => requests.extend(self.clients[number].requests()),
                Source::Status(number) => states[number] = self.streams[number].hear(),
                Source::Data(number) if matches!(states[number], StreamState::Open) => {
                    let (state, sent) = self.of_stream(number, |stream, buffer| stream.send(*events, buffer))?;
                    self.bytes[0] += sent as u64;
                    states[number] = state;
                }
                Source::Data(_) => {}
            }
        }
        self.clients.retain(|client| !client.is_over(Instant::now()));
        for request in requests {
            self.serve_request(request);
        }
        self.open_next()?;
        is_heard |= self.session.received() != received;
        if is_heard {
            self.heard = Instant::now();
            self.asked = self.heard;
        }
        is_heard |= self.has_more;
        let is_writable = |number: usize| {
            let of_data = |source: &Source| matches!(source, Source::Data(other) if *other == number);
            events.iter().any(|(source, events)| of_data(source) && events.contains(PollFlags::OUT))
        };
        let mut writable: Vec<bool> = (0..states.len()).map(is_writable).collect();
        self.has_more = false;
        states.resize_with(self.streams.len(), || StreamState::Open);
        writable.resize(self.streams.len(), true);
        for number in 0..self.streams.len() {
            if matches!(states[number], StreamState::Open)
                && (is_heard || writable[number] || self.streams[number].close_by().is_some())
            {
                let (state, received) = self.of_stream(number, Stream::receive)?;
                self.bytes[1] += received as u64;
                // Until nothing comes: what one has read may be another one's.
                self.has_more |= received > 0;
                states[number] = state;
            }
        }
        if is_heard {
            self.idle.retain_mut(IdleStream::is_usable);
            self.open_next()?;
        }
        self.settle(states);
        self.tend()?;
        Ok(true)
    }

    /// Does something for one stream. What goes wrong is its own end, or that of all.
    fn of_stream(
        &mut self,
        number: usize,
        work: impl FnOnce(&mut Stream, &mut [u8]) -> Result<(StreamState, usize), ssh::Error>,
    ) -> Result<(StreamState, usize), ssh::Error> {
        match work(&mut self.streams[number], &mut self.buffer) {
            Err(error) if matches!(error.cause, Cause::ChannelClosed) => Ok((self.streams[number].failed(error), 0)),
            result => result,
        }
    }

    /// Removes the streams that are over.
    fn settle(&mut self, mut states: Vec<StreamState>) {
        // Those that have just been opened.
        states.resize_with(self.streams.len(), || StreamState::Open);
        let streams = std::mem::take(&mut self.streams);
        for (stream, state) in streams.into_iter().zip(states) {
            match state {
                StreamState::Open => self.streams.push(stream),
                StreamState::Left => {}
                StreamState::Released(release) => {
                    if self.kept.as_ref().is_some_and(|kept| self.idle.len() < kept.terms.streams) {
                        self.idle.push(stream.into_idle(release));
                    }
                }
                StreamState::Ended { command, is_cut } => stream.end(&Reply::Ended { error: None, command, is_cut }),
                StreamState::Failed(error) => {
                    stream.end(&Reply::Ended { error: Some(error), command: None, is_cut: false });
                }
            }
        }
    }

    /// Tells all what has become of the session.
    fn lose(&mut self, error: ssh::Error) {
        self.retire();
        let reply = Reply::Ended { error: Some(error), command: None, is_cut: false };
        self.streams.drain(..).for_each(|stream| stream.end(&reply));
        let Reply::Ended { error: Some(error), .. } = reply else { return };
        let reply = Reply::Refused(error);
        for waiting in self.openings.drain(..) {
            let _ = send(waiting.status.socket(), &reply, &[]);
        }
        let Reply::Refused(error) = reply else { return };
        let word = StartReply::Failed(error);
        for client in &self.clients {
            // Whoever asks for a stream later on.
            let _ = send(client.socket(), &word, &[]);
        }
    }

    /// Asks the server for a sign of life when it has been silent, and gives the link up when none comes.
    fn tend(&mut self) -> Result<(), ssh::Error> {
        let (interval, stall_timeout) = self.session.silence_limits();
        let now = Instant::now();
        if !self.has_channels() {
            (self.heard, self.asked) = (now, now);
            return Ok(());
        }
        // A process that was stopped has not asked.
        if self.asked > self.heard && self.heard + stall_timeout <= now {
            return Err(self.session.dead_link());
        }
        if self.asked + interval <= now {
            self.session.ask_for_sign_of_life()?;
            self.asked = now;
        }
        Ok(())
    }
}
