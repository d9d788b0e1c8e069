//! The main loop of an owner: opens a session, and serves hooks as long as the session is in use.
//!
//! One thread waits for everything at once (poll(2)): the link to the SSH server, the hooks, and deadlines. Only the
//! writing of a packet waits for the link alone, because all streams share it.

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
use crate::cancel::Cancel;
use crate::ssh::{self, Cause, Session};

/// Opens the session of the first request, and serves it until it ends. A thread has a switch, which ends its attempt to
/// connect; an owner process has none.
pub(super) fn serve(control: UnixStream, thread: Option<&Cancel>) -> io::Result<()> {
    let in_process = thread.is_none();
    let mut control = Frames::new(control);
    let Some(Request::Start(start)) = control.receive()? else { return Ok(()) };
    if in_process {
        super::process::log_to_hook(control.socket(), start.log)?;
    }
    let compressed = start.compressed;
    let machine = start.into_machine();
    let connect = || Session::connect_compressed(&machine, compressed);
    let session = match thread.map_or_else(connect, |cancel| cancel.scope(connect)) {
        Ok(session) => session,
        Err(error) => return send(control.socket(), &StartReply::Failed(error), &[]),
    };
    let connected = Connected { key_stamp: session.key_stamp().clone(), compressed: session.compressed() };
    let terminated = if in_process {
        let (reader, writer) = UnixStream::pair()?;
        pipe::register(SIGTERM, writer)?;
        // The hook that started the owner still reads the messages of a `proxy_command`.
        if machine.proxy_command.is_none() {
            super::process::stop_logging();
        }
        rustix::process::chdir("/")?;
        Some(reader)
    } else {
        None
    };
    send(control.socket(), &StartReply::Connected(connected), &[])?;
    Server::new(session, machine.address(), control, terminated)?.run()
}

/// An object that is ready.
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
    /// Serves until the session is not used any more, is lost, or SIGTERM arrives.
    fn run(mut self) -> io::Result<()> {
        while !self.is_over() {
            self.probe_if_due()?;
            let events = self.wait()?;
            match self.advance(&events) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.report_loss(error);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Returns whether the owner is to end: no client or stream uses the session, and other hooks cannot use it or have
    /// not used it for the idle timeout.
    fn is_over(&mut self) -> bool {
        if self.opened_at.elapsed() >= MAX_AGE {
            self.retire();
        }
        if self.is_in_use() {
            self.last_used = Instant::now();
            return false;
        }
        self.listening.as_ref().is_none_or(|listening| self.last_used.elapsed() >= listening.settings.idle_timeout)
    }

    /// Waits until an object is ready or a deadline passes. Returns the ready objects with their events.
    fn wait(&mut self) -> io::Result<Vec<(Source, PollFlags)>> {
        // Without a channel libssh2 reads nothing from the socket.
        let link_events = if self.has_channels() { PollFlags::IN } else { PollFlags::RDHUP };
        let mut sources = vec![Source::Link];
        let mut descriptors = vec![PollFd::from_borrowed_fd(self.session.socket(), link_events)];
        let mut add = |source, descriptor| {
            sources.push(source);
            descriptors.push(descriptor);
        };
        if let Some(terminated) = &self.terminated {
            add(Source::Terminated, PollFd::new(terminated, PollFlags::IN));
        }
        if let Some(listening) = &self.listening {
            if let Some(daemon) = &listening.daemon {
                add(Source::Daemon, PollFd::new(daemon, PollFlags::IN));
            }
            if self.clients.len() < CLIENTS_MAX {
                add(Source::Listener, PollFd::new(listening.socket.listener(), PollFlags::IN));
            }
        }
        for (number, client) in self.clients.iter().enumerate() {
            add(Source::Client(number), PollFd::new(client.socket(), PollFlags::IN));
        }
        for (number, stream) in self.streams.iter().enumerate() {
            add(Source::Status(number), PollFd::new(stream.status(), PollFlags::IN));
            add(Source::Data(number), PollFd::new(stream.data(), stream.poll_events()));
        }
        let left = self.next_deadline().saturating_duration_since(Instant::now());
        let left = if self.may_have_buffered { Duration::ZERO } else { left };
        let left = Timespec { tv_sec: left.as_secs().min(i64::MAX as u64) as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut descriptors, Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = sources.into_iter().zip(descriptors.iter().map(PollFd::revents));
        Ok(ready.filter(|(_, events)| !events.is_empty()).collect())
    }

    fn has_channels(&self) -> bool {
        !self.streams.is_empty() || !self.idle.is_empty() || !self.openings.is_empty()
    }

    /// Returns the next time at which the owner must act, even if no object is ready.
    fn next_deadline(&self) -> Instant {
        let (interval, stall_timeout) = self.session.silence_limits();
        let mut next = self.opened_at + MAX_AGE + interval;
        let mut add = |time| next = next.min(time);
        if self.has_channels() {
            add(self.last_probed + interval);
            if self.last_probed > self.last_received {
                add(self.last_received + stall_timeout);
            }
        }
        if let Some(listening) = &self.listening {
            add(self.opened_at + MAX_AGE);
            if self.clients.is_empty() {
                add(self.last_used + listening.settings.idle_timeout);
            }
        }
        self.next_probe().into_iter().for_each(&mut add);
        self.openings.front().and_then(|pending| pending.until).into_iter().for_each(&mut add);
        self.clients.iter().filter_map(Client::first_request_deadline).for_each(&mut add);
        self.streams.iter().filter_map(Stream::close_deadline).for_each(&mut add);
        next
    }

    /// Handles the events. Returns false after SIGTERM: the owner is to end. The error is the reason why the session
    /// was lost.
    fn advance(&mut self, events: &[(Source, PollFlags)]) -> Result<bool, ssh::Error> {
        let mut requests = Vec::new();
        let mut has_received = false;
        let mut states: Vec<StreamState> = self.streams.iter().map(|_| StreamState::Open).collect();
        let received = self.session.received();
        for (source, events) in events {
            match *source {
                Source::Link if !self.has_channels() => return Err(self.session.closed_error()),
                Source::Link => has_received = true,
                Source::Terminated => return Ok(false),
                Source::Daemon => self.retire(),
                Source::Listener => self.accept(),
                Source::Client(number) => requests.extend(self.clients[number].requests()),
                Source::Status(number) => states[number] = self.streams[number].read_release(),
                Source::Data(number) if matches!(states[number], StreamState::Open) => {
                    let (state, sent) = self.with_stream(number, |stream, buffer| stream.send(*events, buffer))?;
                    self.traffic.add_sent(sent, Instant::now());
                    states[number] = state;
                }
                Source::Data(_) => {}
            }
        }
        self.clients.retain(|client| !client.is_finished(Instant::now()));
        for request in requests {
            self.serve_request(request);
        }
        self.open_next()?;
        has_received |= self.session.received() != received;
        if has_received {
            self.last_received = Instant::now();
            self.last_probed = self.last_received;
        }
        has_received |= self.may_have_buffered;
        let is_writable = |number: usize| {
            let of_data = |source: &Source| matches!(source, Source::Data(other) if *other == number);
            events.iter().any(|(source, events)| of_data(source) && events.contains(PollFlags::OUT))
        };
        let mut writable: Vec<bool> = (0..states.len()).map(is_writable).collect();
        self.may_have_buffered = false;
        let received = self.session.received();
        states.resize_with(self.streams.len(), || StreamState::Open);
        writable.resize(self.streams.len(), true);
        for number in 0..self.streams.len() {
            if matches!(states[number], StreamState::Open)
                && (has_received || writable[number] || self.streams[number].close_deadline().is_some())
            {
                let (state, count) = self.with_stream(number, Stream::receive)?;
                self.traffic.add_received(count, Instant::now());
                // A stream reads a limited number of bytes in a round.
                self.may_have_buffered |= count > 0;
                states[number] = state;
            }
        }
        if has_received {
            self.idle.retain_mut(IdleStream::is_usable);
            self.open_next()?;
        }
        self.remove_finished_streams(states);
        self.status_probe.collect();
        self.check_link()?;
        // libssh2 reads the packets of all channels whenever it is called, so a call for one stream may have stored data for a
        // stream that was read before. All are read again until nothing arrives.
        self.may_have_buffered |= self.session.received() != received;
        Ok(true)
    }

    /// Runs `work` on one stream. A failure of its channel becomes its state; the error is a failure of the session.
    fn with_stream(
        &mut self,
        number: usize,
        work: impl FnOnce(&mut Stream, &mut [u8]) -> Result<(StreamState, usize), ssh::Error>,
    ) -> Result<(StreamState, usize), ssh::Error> {
        match work(&mut self.streams[number], &mut self.buffer) {
            Err(error) if matches!(error.cause, Cause::ChannelClosed) => {
                Ok((self.streams[number].state_after_failure(error), 0))
            }
            result => result,
        }
    }

    /// Removes the streams that have ended, and reports the reason to their hooks.
    fn remove_finished_streams(&mut self, mut states: Vec<StreamState>) {
        // Streams that have just been opened have no state yet.
        states.resize_with(self.streams.len(), || StreamState::Open);
        let streams = std::mem::take(&mut self.streams);
        for (stream, state) in streams.into_iter().zip(states) {
            match state {
                StreamState::Open => self.streams.push(stream),
                StreamState::Abandoned => {}
                StreamState::Released(release) => {
                    if self.listening.as_ref().is_some_and(|listening| self.idle.len() < listening.settings.streams) {
                        self.idle.push(stream.into_idle(release));
                    }
                }
                StreamState::Ended { command, is_channel_timeout } => {
                    stream.end(&Reply::Ended { error: None, command, is_channel_timeout })
                }
                StreamState::Failed(error) => {
                    stream.end(&Reply::Ended { error: Some(error), command: None, is_channel_timeout: false });
                }
            }
        }
    }

    /// Reports to all clients why the session was lost.
    fn report_loss(&mut self, error: ssh::Error) {
        self.retire();
        let reply = Reply::Ended { error: Some(error), command: None, is_channel_timeout: false };
        self.streams.drain(..).for_each(|stream| stream.end(&reply));
        let Reply::Ended { error: Some(error), .. } = reply else { return };
        let reply = Reply::Refused(error);
        for pending in self.openings.drain(..) {
            let _ = send(pending.status.socket(), &reply, &[]);
        }
        let Reply::Refused(error) = reply else { return };
        let reply = StartReply::Failed(error);
        for client in &self.clients {
            // A client reads this when it requests a stream later.
            let _ = send(client.socket(), &reply, &[]);
        }
    }

    /// Sends a keep-alive request if the server has been silent for the keep-alive interval. Fails if no byte has
    /// arrived for `stall_timeout`.
    fn check_link(&mut self) -> Result<(), ssh::Error> {
        let (interval, stall_timeout) = self.session.silence_limits();
        let now = Instant::now();
        if !self.has_channels() {
            (self.last_received, self.last_probed) = (now, now);
            return Ok(());
        }
        // A process that was stopped (SIGSTOP) has sent no keep-alive request, so its silence is not the server's.
        if self.last_probed > self.last_received && self.last_received + stall_timeout <= now {
            return Err(self.session.link_dead_error());
        }
        if self.last_probed + interval <= now {
            self.session.send_keepalive()?;
            self.last_probed = now;
        }
        Ok(())
    }
}
