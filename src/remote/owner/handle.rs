//! The hook's side: an owner, and what is asked of it.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::{CacheKey, OWNER_REPLY_TIMEOUT};
use super::liveness::Liveness;
use super::message::{Connected, Frames, Greeting, Keep, Reply, Report, Request, Start, StartReply, send};
use super::process::log_line;
use super::start::usual;
use crate::machine::{Compressed, Machine};
use crate::remote::error::Error;
use crate::remote::session_stream::SessionStream;
use crate::ssh::{self, Target};

/// How much longer than its own limits an owner is waited for.
const GRACE: Duration = Duration::from_secs(5);

/// How long one that has ended is listened to.
const LAST_WORD_TIMEOUT: Duration = Duration::from_millis(200);

/// The owner of a session, as those see it who use the session.
#[derive(Debug)]
pub(in crate::remote) struct Owner {
    control: Mutex<UnixStream>,
    liveness: Arc<Liveness>,
    /// What it says over the control connection, unless a thread reads that.
    frames: Mutex<Option<Frames>>,
    /// Why the session was lost, once that is known.
    loss: Arc<Mutex<Option<ssh::Error>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Owner {
    /// Has an owner make a session.
    pub fn start(machine: &Machine, compressed: Compressed) -> Result<(Owner, Connected), Error> {
        let failed = |error| Error::NoOwner { machine: machine.address(), error };
        let (control, theirs) = UnixStream::pair().map_err(failed)?;
        let owned = usual().start(theirs).map_err(failed)?;
        let liveness = Liveness::of_started(machine.address(), owned);
        control.set_read_timeout(Some(machine.connect_timeout.saturating_add(GRACE))).map_err(failed)?;
        let reader = control.try_clone().map_err(failed)?;
        let owner = Owner::new(control, liveness);
        owner.send(&Request::Start(Box::new(Start::new(machine, compressed))), &[])?;
        let mut frames = Frames::new(reader);
        let connected = loop {
            match frames.receive().map_err(|error| owner.lost(&error))?.ok_or_else(|| owner.ended())? {
                StartReply::Log { level, target, text } => log_line(level, &target, &text),
                StartReply::Failed(error) => return Err(error.into()),
                StartReply::Connected(connected) => break connected,
            }
        };
        match machine.proxy_command {
            Some(_) => owner.pass_on_log(frames),
            None => *lock(&owner.frames) = Some(frames),
        }
        Ok((owner, connected))
    }

    fn new(control: UnixStream, liveness: Liveness) -> Owner {
        let (liveness, loss) = (Arc::new(liveness), Arc::default());
        Owner { control: Mutex::new(control), liveness, frames: Mutex::new(None), loss }
    }

    /// An owner that another hook has started.
    pub(super) fn found(control: UnixStream, machine: String) -> Owner {
        let liveness = Liveness::of_found(machine, &control);
        let frames = control.try_clone().ok().map(Frames::new);
        let owner = Owner::new(control, liveness);
        *lock(&owner.frames) = frames;
        owner
    }

    /// Logs what a program says that carries the session.
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
        // Without a thread nothing is logged.
        let _ = thread::Builder::new().name("proxy".to_owned()).spawn(pass_on);
    }

    /// Opens a stream within this time.
    pub fn open(&self, target: Target, limit: Duration) -> Result<SessionStream, Error> {
        let (data, status) = self.ask_for_stream(&Request::Open { target, limit })?;
        let mut status = Frames::new(status);
        match self.reply(&mut status, limit.saturating_add(GRACE))? {
            Reply::Opened => {
                SessionStream::new(data, status, Arc::clone(&self.liveness), false).map_err(|error| self.lost(&error))
            }
            Reply::Refused(error) => Err(error.into()),
            _ => Err(self.ended()),
        }
    }

    /// Goes on with a stream that another hook has released, if there is one and an answer comes within this time. Tells
    /// what the server compresses.
    pub(super) fn resume(
        &self,
        stream: &str,
        limit: Duration,
    ) -> Result<(Option<(SessionStream, Greeting)>, Compressed), Error> {
        let (data, status) = self.ask_for_stream(&Request::Resume { stream: stream.to_owned() })?;
        let mut status = Frames::new(status);
        match self.reply(&mut status, limit)? {
            Reply::NoStream { compressed } => Ok((None, compressed)),
            Reply::Resumed { greeting, compressed } => {
                let stream = SessionStream::new(data, status, Arc::clone(&self.liveness), true);
                Ok((Some((stream.map_err(|error| self.lost(&error))?, greeting)), compressed))
            }
            _ => Err(self.ended()),
        }
    }

    /// Has it be there for other hooks, and end with a process if one is named.
    pub fn keep(
        &self,
        cache_key: &CacheKey,
        idle: Duration,
        daemon: Option<BorrowedFd<'_>>,
    ) -> Result<(), Error> {
        let (socket, has_daemon) = (cache_key.socket_prefix(), daemon.is_some());
        let keep = Keep { socket, idle, streams: cache_key.most, has_daemon };
        self.send(&Request::Keep(keep), daemon.as_slice())
    }

    /// Ends the session as soon as no stream is in use. When this returns, no hook finds the owner any more, unless it
    /// does not respond.
    pub fn retire(&self) -> Result<(), Error> {
        self.send(&Request::Retire, &[])?;
        // Its next reply comes after that.
        self.report(OWNER_REPLY_TIMEOUT).map(drop)
    }

    /// How the session is doing.
    pub(super) fn report(&self, limit: Duration) -> Result<Report, Error> {
        let (status, theirs) = UnixStream::pair().map_err(|error| self.lost(&error))?;
        self.send(&Request::Report, &[theirs.as_fd()])?;
        drop(theirs);
        match self.reply(&mut Frames::new(status), limit)? {
            Reply::Report(report) => Ok(report),
            _ => Err(self.ended()),
        }
    }

    /// Returns the owner's process, if it is another one than this.
    pub(super) fn process(&self) -> Option<u32> {
        self.liveness.process()
    }

    /// Sends a request for a stream; returns this side of its data and of its status.
    fn ask_for_stream(&self, request: &Request) -> Result<(UnixStream, UnixStream), Error> {
        let pairs = UnixStream::pair().and_then(|data| Ok((data, UnixStream::pair()?)));
        let ((data, their_data), (status, their_status)) = pairs.map_err(|error| self.lost(&error))?;
        self.liveness.check()?;
        self.send(request, &[their_data.as_fd(), their_status.as_fd()])?;
        Ok((data, status))
    }

    fn send(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
        send(&lock(&self.control), request, descriptors).map_err(|error| self.lost(&error))
    }

    fn reply(&self, status: &mut Frames, limit: Duration) -> Result<Reply, Error> {
        let reply = status.socket().set_read_timeout(Some(limit)).and_then(|()| status.receive());
        reply.map_err(|error| self.lost(&error))?.ok_or_else(|| self.ended())
    }

    /// What to say when it has ended: why the session was lost, or that nothing is known.
    fn ended(&self) -> Error {
        if let Some(frames) = &mut *lock(&self.frames) {
            let _ = frames.socket().set_read_timeout(Some(LAST_WORD_TIMEOUT));
            while let Ok(Some(reply)) = frames.receive() {
                if let StartReply::Failed(error) = reply {
                    *lock(&self.loss) = Some(error);
                }
            }
        }
        lock(&self.loss).as_ref().map_or_else(|| self.liveness.ended(), |error| Error::Ssh(error.copy()))
    }

    /// What to say when nothing is to be had from it.
    fn lost(&self, error: &io::Error) -> Error {
        let machine = self.liveness.machine().to_owned();
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                self.liveness.check().err().unwrap_or(Error::OwnerSilent { machine })
            }
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => self.ended(),
            _ => Error::NoOwner { machine, error: io::Error::new(error.kind(), error.to_string()) },
        }
    }
}
