//! The holder's side: a process that holds a connection and lends it.

use std::ffi::{CStr, CString};
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::process;
use std::time::Instant;

use log::debug;
use rustix::event::epoll;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;

use super::ffi::{self, Side};
use super::message::{CHANNEL_CUT, Handshake, RELEASE, Request};
use super::{CacheKey, HANDSHAKE_TIMEOUT, MAX_AGE, peer};
use crate::daemon::Client;
use crate::permissions::files;
use crate::remote::DaemonStream;
use crate::remote::transport::{CLOSE_WAIT, CUT_SILENCE, Transport};
use crate::ssh::{self, Channel};

/// What the process is called in lists.
const NAME: &CStr = c"offload-persist";

/// How much is passed on at a time, in bytes.
const BUFFER: usize = 64 << 10;

/// Keeps the connection behind `client`, whose last reply has been read, for the next build: gives it back to its
/// holder, or becomes two processes and leaves it to the other one. A connection that cannot be kept ends. `daemon` finds
/// a process with which the other one ends (pidfd_open(2)).
///
/// The process must not be in the midst of anything in another thread that the child would come by (`ffi`).
pub fn persist(client: Client<DaemonStream>, cache_key: &CacheKey, daemon: fn() -> Option<OwnedFd>) {
    let (version, round_trip) = (client.version(), client.round_trip());
    let Some(stream) = client.into_stream().filter(DaemonStream::is_between_replies) else { return };
    if cache_key.are_waiting(cache_key.most) {
        return;
    }
    let (channel, connection) = match stream.into_parts() {
        (Transport::Persisted(persisted), _) => return persisted.release(),
        (Transport::Channel(channel), connection) => (channel, connection),
    };
    let Ok(session) = connection.session() else { return };
    let answer = Handshake { version, compressed: connection.compressed(), round_trip };
    let daemon = daemon();
    let daemon = daemon.as_ref().map(AsFd::as_fd);
    match ffi::split() {
        // The session is the child's now, and must not be taken leave of here.
        Ok(Side::Parent) => mem::forget((channel, connection, session)),
        Ok(Side::Child) => {
            log::set_max_level(log::LevelFilter::Off);
            let holder = Holder { channel, answer, cache_key, daemon, start: Instant::now() };
            let kept: Vec<BorrowedFd<'_>> = [Some(session.socket()), daemon].into_iter().flatten().collect();
            // Nobody hears why it ends; the next build makes a connection of its own.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| detach(&kept).and_then(|()| holder.run())));
            ffi::exit();
        }
        Err(error) => debug!("no process to keep the connection: {error}"),
    }
}

/// Leaves all behind that belongs to the hook and to the daemon that started it.
fn detach(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    ffi::close_others(kept);
    rustix::thread::set_name(NAME)?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    rustix::process::setsid()?;
    rustix::process::chdir("/")?;
    // The socket is for the same user.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    ffi::end_at_sigterm();
    Ok(())
}

/// A connection, and what is promised of it.
struct Holder<'a> {
    channel: Channel,
    answer: Handshake,
    cache_key: &'a CacheKey,
    daemon: Option<BorrowedFd<'a>>,
    start: Instant,
}

impl Holder<'_> {
    /// Lends the connection until it is not worth keeping any more.
    fn run(mut self) -> io::Result<()> {
        for number in 0.. {
            let listening_socket = ListeningSocket::make(self.cache_key.own_socket(number), self.daemon)?;
            // Several may have begun at the same time. The last of them sees all. Later on those who give back look.
            if number == 0 && self.cache_key.are_waiting(self.cache_key.most.saturating_add(1)) {
                break;
            }
            let Some((mut control, data)) = self.wait(&listening_socket)? else { break };
            // Nobody else finds it now, and those who have just connected see the end.
            drop(listening_socket);
            if control.write_all(&self.answer.to_bytes()).is_ok() && !self.lend(&mut control, data) {
                break;
            }
        }
        Ok(())
    }

    /// Waits for a client. `None`: none came, or the connection is over.
    fn wait(&mut self, listening_socket: &ListeningSocket) -> io::Result<Option<(UnixStream, UnixStream)>> {
        let until = (Instant::now() + self.cache_key.idle).min(self.start + MAX_AGE);
        self.channel.set_deadline(Some(until));
        loop {
            // Whatever arrives now was not asked for, and is the end: of the time, of the connection, or of its use.
            match self.channel.read_beside(&mut [0], &PollFd::new(&listening_socket.events, PollFlags::IN)) {
                Ok(None) => {}
                _ => return Ok(None),
            }
            if self.daemon.is_some_and(has_ended) {
                return Ok(None);
            }
            let control = match listening_socket.listener.accept() {
                Ok((control, _)) => control,
                // Who had connected is gone.
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                // It would be there to be accepted again at once.
                Err(error) => return Err(error),
            };
            match receive(&control) {
                Ok(Request::Lend(data)) => return Ok(Some((control, data))),
                Ok(Request::End) => return Ok(None),
                Err(_) => {}
            }
        }
    }

    /// Carries the protocol for a client. Whether the connection was given back.
    fn lend(&mut self, control: &mut UnixStream, data: UnixStream) -> bool {
        let lost = match self.carry(&data) {
            Ok(()) => return self.channel.is_empty() && is_released(control),
            Err(error) => error,
        };
        // What the daemon said last, as far as it came.
        self.channel.set_deadline(Some(Instant::now() + HANDSHAKE_TIMEOUT));
        let _ = data.set_nonblocking(false).and_then(|()| {
            data.set_write_timeout(Some(HANDSHAKE_TIMEOUT))?;
            io::copy(&mut self.channel, &mut (&data))
        });
        // Before the end of the data, so that it is there to be read. The client names the machine itself.
        let words = ssh::Error::in_io(&lost).map_or_else(|| lost.to_string(), |error| error.cause.to_string());
        let _ = control.write_all(words.as_bytes());
        false
    }

    /// Passes on what comes from either side, until the client ends.
    fn carry(&mut self, mut data: &UnixStream) -> io::Result<()> {
        data.set_nonblocking(true)?;
        self.channel.set_deadline(None);
        let mut buffer = vec![0; BUFFER];
        loop {
            let begin = Instant::now();
            match self.channel.read_beside(&mut buffer, &PollFd::new(&data, PollFlags::IN))? {
                Some(0) => {
                    let is_cut = begin.elapsed() >= CUT_SILENCE && self.channel.was_closed_by_server(CLOSE_WAIT);
                    let why = if is_cut { CHANNEL_CUT } else { "its daemon has closed the connection" };
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, why));
                }
                Some(count) => {
                    let mut rest = &buffer[..count];
                    while !rest.is_empty() {
                        match data.write(rest) {
                            Ok(written) => rest = &rest[written..],
                            // It may write, too, and not read before that is through.
                            Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait_for_room(data)?,
                            Err(error) if error.kind() == ErrorKind::Interrupted => {}
                            Err(error) => return Err(error),
                        }
                    }
                }
                None => match data.read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(count) => self.send(&buffer[..count], data)?,
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// Passes on what the client has written. The machine's daemon may take nothing for as long as the client likes,
    /// and no longer.
    fn send(&mut self, mut bytes: &[u8], data: &UnixStream) -> io::Result<()> {
        while !bytes.is_empty() {
            // Nothing but its end.
            let borrower = PollFd::new(data, PollFlags::empty());
            if !self.channel.wait_for_room_beside(&borrower)? {
                return Err(ErrorKind::BrokenPipe.into());
            }
            let sent = self.channel.write(bytes)?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Waits until the client takes more, and passes on what it writes meanwhile.
    fn wait_for_room(&mut self, mut data: &UnixStream) -> io::Result<()> {
        let mut wanted = [PollFd::new(data, PollFlags::IN | PollFlags::OUT)];
        match poll(&mut wanted, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if wanted[0].revents().contains(PollFlags::IN) {
            let mut piece = vec![0; BUFFER];
            // An end shows when the client is written to.
            if let Ok(count) = data.read(&mut piece) {
                self.send(&piece[..count], data)?;
            }
        }
        Ok(())
    }
}

/// A socket to borrow from, for as long as this lives.
struct ListeningSocket {
    listener: UnixListener,
    socket: PathBuf,
    /// Ready when somebody has connected, or the daemon has ended.
    events: OwnedFd,
}

impl ListeningSocket {
    fn make(socket: PathBuf, daemon: Option<BorrowedFd<'_>>) -> io::Result<ListeningSocket> {
        // It gets its name when somebody listens: one without is taken for that of a holder that was killed.
        let unnamed = socket.with_file_name(format!(".{}", process::id()));
        let _ = files::remove(&unnamed);
        let listener = files::listen(&unnamed)?;
        listener.set_nonblocking(true)?;
        let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&events, &listener, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        if let Some(daemon) = daemon {
            epoll::add(&events, daemon, epoll::EventData::new_u64(1), epoll::EventFlags::IN)?;
        }
        ffi::remove_at_end(CString::new(socket.as_os_str().as_bytes())?);
        files::rename(&unnamed, &socket)?;
        Ok(ListeningSocket { listener, socket, events })
    }
}

impl Drop for ListeningSocket {
    fn drop(&mut self) {
        // What is left is removed by those who find nobody behind it.
        let _ = files::remove(&self.socket);
        ffi::remove_nothing_at_end();
    }
}

/// Whether a process has ended, by its descriptor.
fn has_ended(process: BorrowedFd<'_>) -> bool {
    let mut wanted = [PollFd::from_borrowed_fd(process, PollFlags::IN)];
    matches!(poll(&mut wanted, Some(&Timespec::default())), Ok(1..))
}

/// What somebody who has connected wants.
fn receive(control: &UnixStream) -> io::Result<Request<UnixStream>> {
    if !peer::may_ask(control) {
        return Err(ErrorKind::PermissionDenied.into());
    }
    control.set_nonblocking(false)?;
    control.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
    control.set_write_timeout(Some(HANDSHAKE_TIMEOUT))?;
    Request::receive(control)
}

/// Whether the client, which has ended, has said that the connection can be used again.
fn is_released(control: &mut UnixStream) -> bool {
    let mut byte = [0];
    matches!(control.read(&mut byte), Ok(1)) && byte == [RELEASE]
}
