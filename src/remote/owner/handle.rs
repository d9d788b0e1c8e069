//! The hook's side: a handle to an owner, which sends requests to it.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::liveness::Liveness;
use super::message::{
    Connected, Frames, Greeting, KeepOpen, ProbeOutput, Reply, Report, Request, Start, StartReply, send,
};
use super::process::log_line;
use super::start::default_spawner;
use super::{CacheKey, OWNER_REPLY_TIMEOUT};
use crate::cancel;
use crate::machine::{Compressed, Machine};
use crate::remote::error::Error;
use crate::remote::session_stream::SessionStream;
use crate::ssh::{self, Target};

/// Time allowed for the reply of an owner beyond its own time limit for the request.
const REPLY_GRACE: Duration = Duration::from_secs(5);

/// Time allowed for an owner that has ended to report why.
const LOSS_REPORT_TIMEOUT: Duration = Duration::from_millis(200);

/// A handle to the owner of a session, for the users of the session.
#[derive(Debug)]
pub(in crate::remote) struct OwnerHandle {
    control: Mutex<UnixStream>,
    liveness: Arc<Liveness>,
    /// The messages of the owner on the control connection; `None` if a thread reads them.
    frames: Mutex<Option<Frames>>,
    /// The reason why the session was lost, once it is known.
    loss: Arc<Mutex<Option<ssh::Error>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OwnerHandle {
    /// Starts an owner, which opens a session within the `connect_timeout` of the machine.
    pub fn start(machine: &Machine, compressed: Compressed) -> Result<(OwnerHandle, Connected), Error> {
        let failed = |error| Error::NoOwner { machine: machine.address(), error };
        let (control, theirs) = UnixStream::pair().map_err(failed)?;
        let owned = default_spawner().spawn(theirs).map_err(failed)?;
        let liveness = Liveness::of_spawned(machine.address(), owned);
        control.set_read_timeout(Some(machine.connect_timeout.saturating_add(REPLY_GRACE))).map_err(failed)?;
        let reader = control.try_clone().map_err(failed)?;
        let owner = OwnerHandle::new(control, liveness);
        owner.send(&Request::Start(Box::new(Start::new(machine, compressed))), &[])?;
        let mut frames = Frames::new(reader);
        let connected = owner.await_session(&mut frames).inspect_err(|_| {
            if cancel::is_cancelled() {
                owner.liveness.end();
            }
        })?;
        match machine.proxy_command {
            Some(_) => owner.pass_on_log(frames),
            None => *lock(&owner.frames) = Some(frames),
        }
        Ok((owner, connected))
    }

    /// Waits until the owner has opened the session.
    fn await_session(&self, frames: &mut Frames) -> Result<Connected, Error> {
        loop {
            match frames.receive().map_err(|error| self.io_error(&error))?.ok_or_else(|| self.ended_error())? {
                StartReply::Log { level, target, text } => log_line(level, &target, &text),
                StartReply::Failed(error) => return Err(error.into()),
                StartReply::Connected(connected) => return Ok(connected),
            }
        }
    }

    fn new(control: UnixStream, liveness: Liveness) -> OwnerHandle {
        let (liveness, loss) = (Arc::new(liveness), Arc::default());
        OwnerHandle { control: Mutex::new(control), liveness, frames: Mutex::new(None), loss }
    }

    /// Returns a handle to an owner that another hook has started. `machine` is `NAME:PORT`.
    pub(super) fn from_control(control: UnixStream, machine: String) -> OwnerHandle {
        let liveness = Liveness::of_peer(machine, &control);
        let frames = control.try_clone().ok().map(Frames::new);
        let owner = OwnerHandle::new(control, liveness);
        *lock(&owner.frames) = frames;
        owner
    }

    /// Starts a thread that logs the messages of a `proxy_command`.
    fn pass_on_log(&self, mut frames: Frames) {
        let loss = Arc::clone(&self.loss);
        let pass_on = move || {
            if frames.socket().set_read_timeout(None).is_err() {
                return;
            }
            while let Ok(Some(reply)) = frames.receive() {
                match reply {
                    StartReply::Log { level, target, text } => log_line(level, &target, &text),
                    StartReply::Failed(error) => *lock(&loss) = Some(error),
                    StartReply::Connected(_) => {}
                }
            }
        };
        // Without a thread these messages are lost.
        let _ = thread::Builder::new().name("proxy".to_owned()).spawn(pass_on);
    }

    /// Opens a stream within this time limit.
    pub fn open(&self, target: Target, limit: Duration) -> Result<SessionStream, Error> {
        let (data, status) = self.request_stream(&Request::Open { target, limit })?;
        let mut status = Frames::new(status);
        match self.reply(&mut status, limit.saturating_add(REPLY_GRACE))? {
            Reply::Opened => SessionStream::new(data, status, Arc::clone(&self.liveness), false)
                .map_err(|error| self.io_error(&error)),
            Reply::Refused(error) => Err(error.into()),
            _ => Err(self.ended_error()),
        }
    }

    /// Resumes a stream of the name `stream` that another hook has released, if there is one. Returns the directions
    /// that are compressed as well. Fails if the owner does not reply within `limit`, and, with `unless_busy`, if it is busy.
    pub(super) fn resume(
        &self,
        stream: &str,
        unless_busy: bool,
        limit: Duration,
    ) -> Result<(Option<(SessionStream, Greeting)>, Compressed), Error> {
        let (data, status) = self.request_stream(&Request::Resume { stream: stream.to_owned(), unless_busy })?;
        let mut status = Frames::new(status);
        match self.reply(&mut status, limit)? {
            Reply::NoStream { compressed } => Ok((None, compressed)),
            Reply::Resumed { greeting, compressed } => {
                let stream = SessionStream::new(data, status, Arc::clone(&self.liveness), true);
                Ok((Some((stream.map_err(|error| self.io_error(&error))?, greeting)), compressed))
            }
            Reply::Busy => Err(Error::OwnerBusy { machine: self.liveness.machine().to_owned() }),
            _ => Err(self.ended_error()),
        }
    }

    /// Requests that the session stays open for other hooks, for the time `idle_timeout` without use. While no hook uses it,
    /// the owner runs the command `probe` now and then. It retires when the process `daemon` ends, if given
    /// (pidfd_open(2)). Does not wait: other hooks find the session a moment later.
    pub fn keep_open(
        &self,
        cache_key: &CacheKey,
        idle_timeout: Duration,
        probe: String,
        daemon: Option<BorrowedFd<'_>>,
    ) -> Result<(), Error> {
        let (socket, has_daemon) = (cache_key.socket_path_prefix(), daemon.is_some());
        let keep = KeepOpen { socket, idle_timeout, streams: cache_key.build_slots, probe, has_daemon };
        self.send(&Request::KeepOpen(keep), daemon.as_slice())
    }

    /// Retires the owner. When this returns, no hook finds it any more, unless it does not respond.
    pub fn retire(&self) -> Result<(), Error> {
        self.send(&Request::Retire, &[])?;
        self.await_requests()
    }

    /// Waits until the owner has served the requests that were sent. Fails if it does not respond.
    pub fn await_requests(&self) -> Result<(), Error> {
        // It serves requests in their order.
        self.report(OWNER_REPLY_TIMEOUT).map(drop)
    }

    /// Returns the status of the session. Fails if the owner does not reply within `limit`.
    pub(super) fn report(&self, limit: Duration) -> Result<Report, Error> {
        match self.ask(&Request::Report, limit)? {
            Reply::Report(report) => Ok(report),
            _ => Err(self.ended_error()),
        }
    }

    /// Returns the output of the last probe that the owner made while no hook used the session. Fails if it does not reply.
    pub fn last_probe(&self) -> Result<Option<ProbeOutput>, Error> {
        match self.ask(&Request::LastProbe, OWNER_REPLY_TIMEOUT)? {
            Reply::LastProbe(output) => Ok(output),
            _ => Err(self.ended_error()),
        }
    }

    /// Sends a request with a socket for the reply, and returns the reply.
    fn ask(&self, request: &Request, limit: Duration) -> Result<Reply, Error> {
        let (status, theirs) = UnixStream::pair().map_err(|error| self.io_error(&error))?;
        self.send(request, &[theirs.as_fd()])?;
        drop(theirs);
        self.reply(&mut Frames::new(status), limit)
    }

    /// Returns the process of the owner, unless the owner is a thread of this process.
    pub(super) fn process(&self) -> Option<u32> {
        self.liveness.process()
    }

    /// Sends a request for a stream. Returns this side of its data socket and of its status socket.
    fn request_stream(&self, request: &Request) -> Result<(UnixStream, UnixStream), Error> {
        let pairs = UnixStream::pair().and_then(|data| Ok((data, UnixStream::pair()?)));
        let ((data, their_data), (status, their_status)) = pairs.map_err(|error| self.io_error(&error))?;
        self.liveness.check()?;
        self.send(request, &[their_data.as_fd(), their_status.as_fd()])?;
        Ok((data, status))
    }

    fn send(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
        send(&lock(&self.control), request, descriptors).map_err(|error| self.io_error(&error))
    }

    /// Reads the reply to a request, within `limit`.
    fn reply(&self, status: &mut Frames, limit: Duration) -> Result<Reply, Error> {
        let reply = status.socket().set_read_timeout(Some(limit)).and_then(|()| status.receive());
        reply.map_err(|error| self.io_error(&error))?.ok_or_else(|| self.ended_error())
    }

    /// Returns the error for an owner that has ended: the reason why the session was lost, or
    /// [`Error::OwnerEnded`] if the owner has reported none.
    fn ended_error(&self) -> Error {
        if let Some(frames) = &mut *lock(&self.frames) {
            let _ = frames.socket().set_read_timeout(Some(LOSS_REPORT_TIMEOUT));
            while let Ok(Some(reply)) = frames.receive() {
                if let StartReply::Failed(error) = reply {
                    *lock(&self.loss) = Some(error);
                }
            }
        }
        lock(&self.loss).as_ref().map_or_else(|| self.liveness.ended_error(), |error| Error::Ssh(error.copy()))
    }

    /// Returns the error for a failure to send to the owner or to read its reply.
    fn io_error(&self, error: &io::Error) -> Error {
        let machine = self.liveness.machine().to_owned();
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                self.liveness.check().err().unwrap_or(Error::OwnerSilent { machine })
            }
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => self.ended_error(),
            _ => Error::NoOwner { machine, error: io::Error::new(error.kind(), error.to_string()) },
        }
    }
}
