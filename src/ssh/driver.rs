//! Drives one libssh2 session and its socket: repeats each call of libssh2 until it ends, and waits with poll(2)
//! between.
//!
//! The rules of libssh2 (1.11.1), and how this module follows them:
//!
//! - A call that would block returns EAGAIN. The caller must repeat it with the same arguments until it ends. While a
//!   packet is sent in part, every other sending call returns EAGAIN. So calls do not interleave: each runs to its end
//!   under a lock, and if one is given up in the middle, the session is unusable.
//! - libssh2 sends some packets from a buffer that does not outlive the call (keep-alive, end of file, replies to
//!   requests of the server), and cannot continue them after a partial write. So nothing is sent before poll(2) reports
//!   room. These packets are far smaller than the room that poll(2) requires.
//! - libssh2 neither sends keep-alives by itself nor notices a missing reply. This module sends a keep-alive request if
//!   no byte has arrived for the keep-alive interval. A link without a byte for the stall timeout is dead. TCP
//!   acknowledgements do not count, because a frozen server still sends them.
//! - libssh2 stores the reply to each keep-alive until the session ends: some hundred bytes each.
//! - A call ends when there is nothing more to read, but a server can send continuously. libssh2 also stores
//!   unrequested data. So each call has a limit of received bytes (`ffi`), and the server has a limit in all
//!   (`receive_budget`).
//! - `flush` discards received data. It is not used.

use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use ssh2::BlockDirections;

use super::code::{self, cause, is_again};
use super::deadline::Deadline;
use super::error::{Cause, Error, Phase};
use super::ffi;
use super::poll;
use super::proxy::Proxy;
use super::receive_budget::ReceiveBudget;
use crate::machine::Machine;

/// The shortest `stall_timeout` that is applied. libssh2 sends at most one keep-alive in two seconds.
const STALL_TIMEOUT_MIN: Duration = Duration::from_secs(3);

/// Time allowed for the rest of a message to arrive that libssh2 has rejected before its end.
const REST_TIMEOUT: Duration = Duration::from_secs(1);

/// Time allowed for sending the message that disconnects.
const DISCONNECT_TIMEOUT: Duration = Duration::from_millis(200);

/// A libssh2 session with its socket.
pub(super) struct Driver {
    ssh: ssh2::Session,
    socket: Arc<OwnedFd>,
    proxy: Mutex<Option<Proxy>>,
    machine: String,
    /// The time allowed for a reply of the server.
    pub(super) request_timeout: Duration,
    stall_timeout: Duration,
    keepalive_interval: Duration,
    calls: Mutex<CallState>,
}

/// The state of the session that a call of libssh2 locks.
struct CallState {
    /// Whether further calls are possible.
    usable: bool,
    /// The bytes received since the session began.
    received: u64,
    receive_budget: ReceiveBudget,
    /// Closed channels whose closing the server has not confirmed. libssh2 frees a channel only then.
    closing: Vec<ssh2::Channel>,
}

impl CallState {
    /// Makes a call with a receive limit.
    fn call<T>(&mut self, call: impl FnOnce() -> T) -> T {
        self.call_counted(call).0
    }

    /// Makes a call with a receive limit. Returns the number of received bytes as well.
    fn call_counted<T>(&mut self, call: impl FnOnce() -> T) -> (T, usize) {
        let (result, received) = ffi::with_receive_limit(self.receive_budget.next_limit(), call);
        self.receive_budget.received(received);
        self.received += received as u64;
        (result, received)
    }
}

/// The kind of a call, which determines how to wait for its end.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum CallKind {
    /// A step before the login. No keep-alive can be sent yet, so only the time limit applies.
    Negotiation,
    /// A request to the server. Its reply must arrive before the next request.
    Request,
    Read,
    Write,
}

/// The times at which bytes were last received, and a keep-alive was last sent.
struct Clock {
    last_received: Instant,
    last_probed: Instant,
}

impl Driver {
    pub(super) fn new(machine: &Machine, ssh: ssh2::Session, socket: Arc<OwnedFd>, proxy: Option<Proxy>) -> Driver {
        let stall_timeout = machine.stall_timeout.max(STALL_TIMEOUT_MIN);
        ffi::install_callbacks(&ssh);
        Driver {
            ssh,
            socket,
            proxy: Mutex::new(proxy),
            machine: machine.address(),
            request_timeout: machine.connect_timeout,
            stall_timeout,
            // A keep-alive must be sent early enough that its reply arrives before the stall timeout.
            keepalive_interval: machine.keepalive_interval.min(stall_timeout / 3),
            calls: Mutex::new(CallState {
                usable: true,
                received: 0,
                receive_budget: ReceiveBudget::new(),
                closing: Vec::new(),
            }),
        }
    }

    pub(super) fn ssh(&self) -> &ssh2::Session {
        &self.ssh
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn error(&self, phase: Phase, cause: Cause) -> Error {
        Error { machine: self.machine.clone(), phase, cause }
    }

    /// Returns how the proxy command ended, if there is one and it has ended.
    pub(super) fn proxy_exit(&self) -> Option<Cause> {
        self.proxy.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.exit_cause()
    }

    /// Returns whether libssh2 waits for room in the socket.
    pub(super) fn is_sending(&self) -> bool {
        matches!(self.ssh.block_directions(), BlockDirections::Outbound | BlockDirections::Both)
    }

    /// Notes that the login has succeeded, so the receive budget grows with requests.
    pub(super) fn set_logged_in(&self) {
        self.calls().receive_budget.set_logged_in();
    }

    /// Adds to the receive budget for bytes that were requested, or that the server has accepted.
    pub(super) fn credit(&self, bytes: usize) {
        self.calls().receive_budget.credit(bytes);
    }

    /// Stores a closed channel until the server confirms its closing.
    pub(super) fn close_later(&self, channel: ssh2::Channel) {
        self.calls().closing.push(channel);
    }

    /// Repeats a call of libssh2 until it returns something else than EAGAIN, at most until `limit`.
    pub(super) fn run<T>(
        &self,
        kind: CallKind,
        limit: Option<Deadline>,
        mut call: impl FnMut() -> Result<T, ssh2::Error>,
    ) -> Result<T, Cause> {
        let mut calls = self.calls();
        if !calls.usable {
            return Err(Cause::Unusable);
        }
        if kind == CallKind::Request {
            let mut closing = mem::take(&mut calls.closing);
            closing.retain_mut(|channel| calls.call(|| channel.close()).is_err_and(|error| is_again(&error)));
            calls.closing = closing;
        }
        let now = Instant::now();
        if let Some(limit) = limit.filter(|limit| limit.instant() <= now) {
            return Err(limit.cause());
        }
        let mut clock = Clock { last_received: now, last_probed: now };
        if matches!(kind, CallKind::Request | CallKind::Write) {
            // Nothing is sent yet, so the session stays usable after a timeout here, unless the link is dead.
            let waited = self.wait(kind, limit, PollFlags::OUT, &mut calls, &mut clock);
            waited.inspect_err(|cause| calls.usable = !matches!(cause, Cause::LinkDead(_)))?;
        }
        loop {
            let (result, received) = calls.call_counted(&mut call);
            if let Some(value) = self.outcome(result, &mut calls)? {
                return Ok(value);
            }
            let wanted = match self.ssh.block_directions() {
                BlockDirections::Outbound => PollFlags::OUT,
                BlockDirections::Both => PollFlags::IN | PollFlags::OUT,
                BlockDirections::Inbound | BlockDirections::None => PollFlags::IN,
            };
            // A call may request several things, and receive the reply to the first while it requests the next. poll(2)
            // does not report data that was read already.
            let must_repeat =
                received > 0 && kind == CallKind::Read && limit.is_none_or(|limit| Instant::now() < limit.instant());
            if must_repeat {
                clock.last_received = Instant::now();
                clock.last_probed = clock.last_received;
                continue;
            }
            self.wait(kind, limit, wanted, &mut calls, &mut clock).inspect_err(|cause| {
                // A write cannot be repeated with other arguments: libssh2 may have stored how much of the caller's
                // buffer it sends.
                let can_be_repeated = kind == CallKind::Read && !wanted.contains(PollFlags::OUT);
                calls.usable = can_be_repeated && !matches!(cause, Cause::LinkDead(_));
            })?;
        }
    }

    /// Makes a call of libssh2 without waiting for the server. Returns `None` if the call needs more data from the
    /// server; the caller repeats it when data has arrived. Other calls are possible meanwhile.
    pub(super) fn try_run<T>(
        &self,
        kind: CallKind,
        mut call: impl FnMut() -> Result<T, ssh2::Error>,
    ) -> Result<Option<T>, Cause> {
        let mut calls = self.calls();
        if !calls.usable {
            return Err(Cause::Unusable);
        }
        let now = Instant::now();
        let mut clock = Clock { last_received: now, last_probed: now };
        if kind != CallKind::Read {
            let waited = self.wait(kind, None, PollFlags::OUT, &mut calls, &mut clock);
            waited.inspect_err(|_| calls.usable = false)?;
        }
        loop {
            let (result, received) = calls.call_counted(&mut call);
            if let Some(value) = self.outcome(result, &mut calls)? {
                return Ok(Some(value));
            }
            if self.is_sending() {
                // A packet that was sent in part must be completed before any other.
                let waited = self.wait(kind, None, PollFlags::OUT, &mut calls, &mut clock);
                waited.inspect_err(|_| calls.usable = false)?;
            } else if received == 0 {
                return Ok(None);
            }
        }
    }

    /// Evaluates the result of a call; `None` if the call is to be repeated. Fails if the receive budget is used up.
    fn outcome<T>(&self, result: Result<T, ssh2::Error>, calls: &mut CallState) -> Result<Option<T>, Cause> {
        match result {
            Ok(value) => return Ok(Some(value)),
            Err(error) if is_again(&error) => {}
            Err(error) => {
                let cause = match cause(&error) {
                    // A key exchange returns these codes if the connection is lost.
                    Cause::Ssh { code: code::GENERAL | code::KEY_EXCHANGE_FAILURE, .. } if self.is_closed() => {
                        Cause::Closed
                    }
                    cause => cause,
                };
                calls.usable &= !matches!(cause, Cause::Closed);
                return Err(cause);
            }
        }
        match calls.receive_budget.exceeded() {
            Some(cause) => {
                calls.usable = false;
                Err(cause)
            }
            None => Ok(None),
        }
    }

    /// Returns the number of bytes received since the session began.
    pub(super) fn received(&self) -> u64 {
        self.calls().received
    }

    /// Sends a keep-alive request if the socket has room for all of it.
    pub(super) fn send_keepalive(&self) -> Result<(), Cause> {
        self.send_keepalive_locked(&mut self.calls())
    }

    /// Returns the silence after which a keep-alive is sent, and the silence after which the link is dead.
    pub(super) fn silence_limits(&self) -> (Duration, Duration) {
        (self.keepalive_interval, self.stall_timeout)
    }

    /// Waits until the socket is ready. Sends keep-alive requests meanwhile. Fails at the limit, and if the link is
    /// dead.
    fn wait(
        &self,
        kind: CallKind,
        limit: Option<Deadline>,
        wanted: PollFlags,
        calls: &mut CallState,
        clock: &mut Clock,
    ) -> Result<(), Cause> {
        let sends_keepalives = kind != CallKind::Negotiation;
        let dead = clock.last_received + self.stall_timeout;
        loop {
            // The limit is checked first, so that occasional bytes cannot extend it.
            if let Some(limit) = limit.filter(|limit| limit.instant() <= Instant::now()) {
                return Err(limit.cause());
            }
            let keepalive_at = clock.last_probed + self.keepalive_interval;
            let until = [
                limit.map(Deadline::instant),
                sends_keepalives.then_some(dead),
                sends_keepalives.then_some(keepalive_at),
            ];
            if self.poll(wanted, until.into_iter().flatten().min())? {
                clock.last_received = Instant::now();
                clock.last_probed = clock.last_received;
                return Ok(());
            }
            let now = Instant::now();
            if sends_keepalives && dead <= now {
                return Err(Cause::LinkDead(self.stall_timeout));
            }
            if sends_keepalives && keepalive_at <= now {
                self.send_keepalive_locked(calls)?;
                clock.last_probed = now;
            }
        }
    }

    /// Sends a keep-alive request if the socket has room for all of it. Any received bytes count as its reply.
    fn send_keepalive_locked(&self, calls: &mut CallState) -> Result<(), Cause> {
        if self.can_send()? {
            calls.call(|| self.ssh.keepalive_send()).map_err(|error| cause(&error))?;
            calls.receive_budget.credit_keepalive();
        }
        Ok(())
    }

    /// Returns whether the socket has room for a small packet.
    pub(super) fn can_send(&self) -> Result<bool, Cause> {
        self.poll(PollFlags::OUT, Some(Instant::now()))
    }

    /// Returns whether the link became ready, or failed, before `until`.
    fn poll(&self, wanted: PollFlags, until: Option<Instant>) -> Result<bool, Cause> {
        poll::poll(self.socket(), wanted, until).map_err(|error| Cause::Io(error.into()))
    }

    /// Returns whether the server has closed the connection and all data has been read.
    fn is_closed(&self) -> bool {
        !matches!(self.peek(), Ok((_, 1..)) | Err(Errno::AGAIN))
    }

    /// Returns why libssh2 has stopped waiting for a reply, which it does not report. If there is more to read, the
    /// connection is not closed, so libssh2 has rejected the message.
    pub(super) fn end_of_replies(&self, limit: Deadline) -> Cause {
        // The end of the connection, or the rest of the message, may arrive later.
        let _ = self.poll(PollFlags::IN, Some(limit.instant().min(Instant::now() + REST_TIMEOUT)));
        if matches!(self.peek(), Ok((_, 1..))) { Cause::MessageInvalid } else { Cause::Closed }
    }

    /// Returns the number of bytes that can be read, at most 1, without reading them.
    fn peek(&self) -> rustix::io::Result<(usize, usize)> {
        recv(&self.socket, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT)
    }

    fn calls(&self) -> MutexGuard<'_, CallState> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // A server that does not receive this message notices the closed connection.
        let _ = self.run(CallKind::Request, Some(Deadline::after(DISCONNECT_TIMEOUT)), || {
            self.ssh.disconnect(None, "done", None)
        });
        // libssh2 sends messages while it frees its channels. Without room in the socket it would not free their
        // memory, so each write must fail at once.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

#[cfg(test)]
mod tests;
