//! One libssh2 session and the socket under it: runs libssh2's calls to their end, waiting with poll(2) in between.
//!
//! What libssh2 (1.11.1) asks of its caller, and how it is kept:
//!
//! - A call that would block returns EAGAIN and has to be made again with the same arguments until it is through. A
//!   packet that went out in part makes every other sending call return EAGAIN for ever. So calls do not interleave:
//!   one runs to its end under a lock, and when one is given up in the middle the session is out of use.
//! - Some packets are sent from a buffer that does not outlive the call (keep-alive, end of file, answers to the
//!   server's own requests), and cannot be continued when they go out in part. So nothing is sent before the socket
//!   says that there is room; these packets are far smaller than the room a socket announces.
//! - It neither sends keep-alives by itself nor notices a missing answer. Here a question is sent when nothing was
//!   heard for a while, and a link that brings no byte for the stall timeout is dead. A frozen server still
//!   acknowledges TCP, so bytes are what counts.
//! - The answer to a keep-alive stays in its list of packets for as long as the session lives: some hundred bytes each.
//! - A call ends when there is nothing more to read, and a server may see to it that there always is; and what nobody
//!   asked for is kept. So each call receives so much at the most (`ffi`), and the server sends so much in all
//!   (`receive_budget`).
//! - `flush` discards what was received. It is not used.

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

/// The least `stall_timeout` that counts: libssh2 sends at most one keep-alive in two seconds.
const STALL_TIMEOUT_MIN: Duration = Duration::from_secs(3);

/// Time allowed for the rest of a message that libssh2 gave up before its end.
const REST_TIMEOUT: Duration = Duration::from_secs(1);

/// Time allowed for sending the message that disconnects.
const DISCONNECT_TIMEOUT: Duration = Duration::from_millis(200);

pub(super) struct Driver {
    ssh: ssh2::Session,
    socket: Arc<OwnedFd>,
    proxy: Mutex<Option<Proxy>>,
    machine: String,
    /// How long a question to the server may take.
    pub(super) request_timeout: Duration,
    stall_timeout: Duration,
    keepalive_interval: Duration,
    calls: Mutex<CallState>,
}

/// Held by whoever is in a call of libssh2.
struct CallState {
    usable: bool,
    /// Bytes since the session began.
    received: u64,
    receive_budget: ReceiveBudget,
    /// Closed channels whose closing the other side has not confirmed yet. libssh2 frees them only then.
    parting: Vec<ssh2::Channel>,
}

impl CallState {
    fn once<T>(&mut self, call: impl FnOnce() -> T) -> T {
        self.counted(call).0
    }

    /// Tells how many bytes it received as well.
    fn counted<T>(&mut self, call: impl FnOnce() -> T) -> (T, usize) {
        let (result, received) = ffi::limited(self.receive_budget.slice(), call);
        self.receive_budget.received(received);
        self.received += received as u64;
        (result, received)
    }
}

/// What a call does, and so what waiting for it means.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// Part of the way to a session: no keep-alive can be sent yet, the limit alone counts.
    Negotiation,
    /// A question to the server, whose answer has to be taken before another can be put.
    Request,
    Read,
    Write,
}

/// When something was last heard from the server, and last asked of it.
struct Clock {
    heard: Instant,
    asked: Instant,
}

impl Driver {
    pub(super) fn new(machine: &Machine, ssh: ssh2::Session, socket: Arc<OwnedFd>, proxy: Option<Proxy>) -> Driver {
        let stall_timeout = machine.stall_timeout.max(STALL_TIMEOUT_MIN);
        ffi::meter(&ssh);
        Driver {
            ssh,
            socket,
            proxy: Mutex::new(proxy),
            machine: machine.address(),
            request_timeout: machine.connect_timeout,
            stall_timeout,
            // A link is not to count as dead because nobody asked.
            keepalive_interval: machine.keepalive_interval.min(stall_timeout / 3),
            calls: Mutex::new(CallState {
                usable: true,
                received: 0,
                receive_budget: ReceiveBudget::new(),
                parting: Vec::new(),
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

    /// How the proxy command ended, if there is one and it has.
    pub(super) fn proxy_end(&self) -> Option<Cause> {
        self.proxy.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.end()
    }

    /// Whether libssh2 waits for the socket to take more.
    pub(super) fn is_sending(&self) -> bool {
        matches!(self.ssh.block_directions(), BlockDirections::Outbound | BlockDirections::Both)
    }

    /// From now on the server is one that may be asked for something.
    pub(super) fn log_in(&self) {
        self.calls().receive_budget.log_in();
    }

    /// Notes that bytes which were wanted have come, or gone.
    pub(super) fn moved(&self, bytes: usize) {
        self.calls().receive_budget.moved(bytes);
    }

    /// Takes over a channel that has said goodbye, until the answer is there.
    pub(super) fn part_with(&self, channel: ssh2::Channel) {
        self.calls().parting.push(channel);
    }

    /// Makes a call of libssh2 until it no longer says EAGAIN.
    pub(super) fn run<T>(
        &self,
        kind: Kind,
        limit: Option<Deadline>,
        mut call: impl FnMut() -> Result<T, ssh2::Error>,
    ) -> Result<T, Cause> {
        let mut calls = self.calls();
        if !calls.usable {
            return Err(Cause::OutOfUse);
        }
        if kind == Kind::Request {
            let mut parting = mem::take(&mut calls.parting);
            parting.retain_mut(|channel| calls.once(|| channel.close()).is_err_and(|error| is_again(&error)));
            calls.parting = parting;
        }
        let now = Instant::now();
        if let Some(limit) = limit.filter(|limit| limit.instant() <= now) {
            return Err(limit.cause());
        }
        let mut clock = Clock { heard: now, asked: now };
        if matches!(kind, Kind::Request | Kind::Write) {
            // Not sent yet, so giving up here does no harm; a dead link stays dead, though.
            let waited = self.wait(kind, limit, PollFlags::OUT, &mut calls, &mut clock);
            waited.inspect_err(|cause| calls.usable = !matches!(cause, Cause::LinkDead(_)))?;
        }
        loop {
            let (result, received) = calls.counted(&mut call);
            if let Some(value) = self.outcome(result, &mut calls)? {
                return Ok(value);
            }
            let wanted = match self.ssh.block_directions() {
                BlockDirections::Outbound => PollFlags::OUT,
                BlockDirections::Both => PollFlags::IN | PollFlags::OUT,
                BlockDirections::Inbound | BlockDirections::None => PollFlags::IN,
            };
            // A call may ask for several things, and receive what it asked for first while it asks for the next. The
            // socket would not tell of that again.
            let has_more =
                received > 0 && kind == Kind::Read && limit.is_none_or(|limit| Instant::now() < limit.instant());
            if has_more {
                clock.heard = Instant::now();
                clock.asked = clock.heard;
                continue;
            }
            self.wait(kind, limit, wanted, &mut calls, &mut clock).inspect_err(|cause| {
                // A write in particular: libssh2 may have noted how much it will take from the caller's buffer.
                let can_be_left = kind == Kind::Read && !wanted.contains(PollFlags::OUT);
                calls.usable = can_be_left && !matches!(cause, Cause::LinkDead(_));
            })?;
        }
    }

    /// Makes a call of libssh2 that need not get through: `None` if it waits for something from the server, and is to be
    /// made again when that has come. Other calls may be made meanwhile.
    pub(super) fn attempt<T>(
        &self,
        kind: Kind,
        mut call: impl FnMut() -> Result<T, ssh2::Error>,
    ) -> Result<Option<T>, Cause> {
        let mut calls = self.calls();
        if !calls.usable {
            return Err(Cause::OutOfUse);
        }
        let now = Instant::now();
        let mut clock = Clock { heard: now, asked: now };
        if kind != Kind::Read {
            let waited = self.wait(kind, None, PollFlags::OUT, &mut calls, &mut clock);
            waited.inspect_err(|_| calls.usable = false)?;
        }
        loop {
            let (result, received) = calls.counted(&mut call);
            if let Some(value) = self.outcome(result, &mut calls)? {
                return Ok(Some(value));
            }
            if self.is_sending() {
                // A packet that went out in part must be sent to its end before any other.
                let waited = self.wait(kind, None, PollFlags::OUT, &mut calls, &mut clock);
                waited.inspect_err(|_| calls.usable = false)?;
            } else if received == 0 {
                return Ok(None);
            }
        }
    }

    /// What a call has come to; `None` if it is to be made again.
    fn outcome<T>(&self, result: Result<T, ssh2::Error>, calls: &mut CallState) -> Result<Option<T>, Cause> {
        match result {
            Ok(value) => return Ok(Some(value)),
            Err(error) if is_again(&error) => {}
            Err(error) => {
                let cause = match cause(&error) {
                    // What a key exchange gives when the connection is lost.
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

    /// How many bytes have been received since the session began.
    pub(super) fn received(&self) -> u64 {
        self.calls().received
    }

    /// Asks for a sign of life.
    pub(super) fn ask_for_sign_of_life(&self) -> Result<(), Cause> {
        self.ask(&mut self.calls())
    }

    /// After how much silence the server is asked for a sign of life, and after how much the link is dead.
    pub(super) fn limits(&self) -> (Duration, Duration) {
        (self.keepalive_interval, self.stall_timeout)
    }

    /// Waits until the socket is ready, asks for a sign of life now and then, and gives up at the limit.
    fn wait(
        &self,
        kind: Kind,
        limit: Option<Deadline>,
        wanted: PollFlags,
        calls: &mut CallState,
        clock: &mut Clock,
    ) -> Result<(), Cause> {
        let is_tended = kind != Kind::Negotiation;
        let dead = clock.heard + self.stall_timeout;
        loop {
            // Before anything else: a few bytes now and then must not put the limit off.
            if let Some(limit) = limit.filter(|limit| limit.instant() <= Instant::now()) {
                return Err(limit.cause());
            }
            let ask = clock.asked + self.keepalive_interval;
            let until = [limit.map(Deadline::instant), is_tended.then_some(dead), is_tended.then_some(ask)];
            if self.poll(wanted, until.into_iter().flatten().min())? {
                clock.heard = Instant::now();
                clock.asked = clock.heard;
                return Ok(());
            }
            let now = Instant::now();
            if is_tended && dead <= now {
                return Err(Cause::LinkDead(self.stall_timeout));
            }
            if is_tended && ask <= now {
                self.ask(calls)?;
                clock.asked = now;
            }
        }
    }

    /// Sends a keep-alive if there is room for all of it. The answer arrives as bytes like any other.
    fn ask(&self, calls: &mut CallState) -> Result<(), Cause> {
        if self.can_send()? {
            calls.once(|| self.ssh.keepalive_send()).map_err(|error| cause(&error))?;
            calls.receive_budget.asked();
        }
        Ok(())
    }

    /// Whether the socket has room for a small packet now.
    pub(super) fn can_send(&self) -> Result<bool, Cause> {
        self.poll(PollFlags::OUT, Some(Instant::now()))
    }

    /// Whether the link became ready, or broke, before `until`.
    fn poll(&self, wanted: PollFlags, until: Option<Instant>) -> Result<bool, Cause> {
        poll::poll(self.socket(), wanted, until).map_err(|error| Cause::Io(error.into()))
    }

    fn is_closed(&self) -> bool {
        !matches!(self.peek(), Ok((_, 1..)) | Err(Errno::AGAIN))
    }

    /// Why libssh2 no longer waits for an answer, which it does not tell. If there is more to read, the connection is not
    /// at its end.
    pub(super) fn end_of_answers(&self, limit: Deadline) -> Cause {
        // The end of a connection, or the rest of a message, may still be on its way.
        let _ = self.poll(PollFlags::IN, Some(limit.instant().min(Instant::now() + REST_TIMEOUT)));
        if matches!(self.peek(), Ok((_, 1..))) { Cause::MessageNotTaken } else { Cause::Closed }
    }

    fn peek(&self) -> rustix::io::Result<(usize, usize)> {
        recv(&self.socket, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT)
    }

    fn calls(&self) -> MutexGuard<'_, CallState> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // A server that does not hear this notices the closed connection.
        let _ = self
            .run(Kind::Request, Some(Deadline::after(DISCONNECT_TIMEOUT)), || self.ssh.disconnect(None, "done", None));
        // What libssh2 still wants to send while it frees its channels must fail at once, not be put off: it would then
        // keep the memory.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

#[cfg(test)]
mod tests;
