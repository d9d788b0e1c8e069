//! A connection to a build machine: channels to its daemon, commands, and the probe.

use std::io::Write;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::error::Error;
use super::owner::{CacheKey, OwnerHandle};
use super::probe;
use super::relay;
use super::session_stream::SessionStream;
use super::timeouts::greeting_timeout;
use crate::file_stamp::FileStamp;
use crate::machine::{Compressed, Machine};
use crate::ssh::{Cause, Output, Target};
use crate::status::MachineStatus;
use crate::timing::Stopwatch;

/// An open connection. It ends when it, its clones and its streams are dropped.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    owner: Arc<OwnerHandle>,
    /// The stamp of the file of the private key, if the session was made for this connection.
    key: Option<FileStamp>,
    machine: Machine,
    /// The directions for which compression was asked, and those that are compressed.
    asked: Compressed,
    compressed: Compressed,
    /// Whether the daemon has been reached.
    is_up: AtomicBool,
    /// Whether the server is known to forward to no socket.
    is_relayed: AtomicBool,
    /// Whether the session was made available to other hooks.
    is_kept: AtomicBool,
}

impl Connection {
    /// Connects to the machine and logs in, within its `connect_timeout`. Compressed if the machine file says so;
    /// `auto` is not.
    pub fn open(machine: &Machine) -> Result<Connection, Error> {
        Connection::open_compressed(machine, machine.compression.directions(Compressed::default))
    }

    /// Connects in the same way, and asks for this compression. A server that does not compress is taken as it is.
    pub fn open_compressed(machine: &Machine, compressed: Compressed) -> Result<Connection, Error> {
        let (owner, connected) = OwnerHandle::start(machine, compressed)?;
        Ok(Connection::new(machine, Arc::new(owner), Some(connected.key_stamp), compressed, connected.compressed))
    }

    /// The connection of a session that another hook has made ([`owner`](super::owner)).
    pub(super) fn reused(
        owner: Arc<OwnerHandle>,
        machine: &Machine,
        asked: Compressed,
        compressed: Compressed,
    ) -> Connection {
        Connection::new(machine, owner, None, asked, compressed)
    }

    fn new(
        machine: &Machine,
        owner: Arc<OwnerHandle>,
        key: Option<FileStamp>,
        asked: Compressed,
        compressed: Compressed,
    ) -> Connection {
        let [is_up, is_relayed, is_kept] = [false; 3].map(AtomicBool::new);
        Connection(Arc::new(Inner {
            owner,
            key,
            machine: machine.clone(),
            asked,
            compressed,
            is_up,
            is_relayed,
            is_kept,
        }))
    }

    /// The machine at its other end.
    pub fn machine(&self) -> &Machine {
        &self.0.machine
    }

    /// The stamp of the private key's file, as it was when it opened the session; `None` where another hook has made it.
    pub fn key_stamp(&self) -> Option<&FileStamp> {
        self.0.key.as_ref()
    }

    /// Whether another hook has made the session.
    pub fn is_reused(&self) -> bool {
        self.0.key.is_none()
    }

    /// Makes the session available to other hooks, unless the machine has enough sessions. It ends after the time `idle`
    /// without use, and with the process `daemon` (pidfd_open(2)). Further calls change the time.
    pub fn keep_open(&self, cache_key: &CacheKey, idle: Duration, daemon: Option<BorrowedFd<'_>>) {
        if !self.0.is_kept.load(Ordering::Relaxed) && cache_key.is_full() {
            return;
        }
        match self.0.owner.keep_open(cache_key, idle, daemon) {
            Ok(()) => self.0.is_kept.store(true, Ordering::Relaxed),
            Err(error) => log::debug!("the session does not stay open: {error}"),
        }
    }

    /// Has the session end as soon as nobody uses it.
    pub fn retire(&self) {
        if let Err(error) = self.0.owner.retire() {
            log::debug!("{error}");
        }
    }

    /// The directions that are compressed.
    pub fn compressed(&self) -> Compressed {
        self.0.compressed
    }

    /// The directions for which compression was asked.
    pub fn asked_compression(&self) -> Compressed {
        self.0.asked
    }

    /// A stream to the daemon's socket, or to a relay, opened within this time.
    pub(super) fn open_daemon(&self, limit: Duration) -> Result<SessionStream, Error> {
        let mut reason = "as before".to_owned();
        if !self.0.is_relayed.load(Ordering::Relaxed) {
            match self.socket(&self.0.machine.daemon_socket, limit) {
                Err(Error::Ssh(error)) => match error.cause {
                    Cause::SocketRefused { reason: why, .. } => reason = why,
                    _ => return Err(error.into()),
                },
                opened => return opened,
            }
        }
        let stream = self.relay(reason, limit)?;
        self.0.is_relayed.store(true, Ordering::Relaxed);
        Ok(stream)
    }

    fn socket(&self, socket: &Path, limit: Duration) -> Result<SessionStream, Error> {
        self.0.owner.open(Target::Socket(socket.to_string_lossy().into_owned()), limit)
    }

    /// A stream to the input and output of a command.
    pub(super) fn command(&self, command: String) -> Result<SessionStream, Error> {
        self.0.owner.open(Target::Command(command), self.request_timeout())
    }

    /// How long opening a stream may take.
    fn request_timeout(&self) -> Duration {
        greeting_timeout(&self.0.machine, self.is_up())
    }

    /// Whether the daemon has been reached over it.
    pub(super) fn is_up(&self) -> bool {
        self.0.is_up.load(Ordering::Relaxed)
    }

    /// Notes that the daemon has been reached.
    pub(super) fn set_up(&self) {
        self.0.is_up.store(true, Ordering::Relaxed);
    }

    /// What is not as it should be on the way to the daemon, as far as that is known, and what would help.
    pub fn warning(&self) -> Option<String> {
        let machine = self.0.machine.address();
        self.0.is_relayed.load(Ordering::Relaxed).then(|| {
            format!(
                "{machine}: its SSH server does not forward to sockets, so 'guix repl' there passes the data, which is \
                 slower; `AllowStreamLocalForwarding yes` and `AllowTcpForwarding yes` in its sshd_config would help"
            )
        })
    }

    /// Whether the SSH server is known to forward to no socket, so that streams to the daemon go through `guix repl`.
    pub fn is_relayed(&self) -> bool {
        self.0.is_relayed.load(Ordering::Relaxed)
    }

    /// Whether something listens on another socket than the machine's `daemon_socket`, as far as the SSH server
    /// forwards.
    pub fn listens(&self, socket: &Path) -> bool {
        self.socket(socket, self.request_timeout()).is_ok()
    }

    /// Runs a command with this input, and reads what it prints, at most 64 KiB; `limit` is for all of it.
    pub fn run(&self, command: &str, input: &[u8], limit: Duration) -> Result<Output, Error> {
        let mut stream = self.command(command.to_owned())?;
        stream.set_deadline(Instant::now().checked_add(limit));
        // A command that wants no input may have ended by now; what it printed counts.
        if let Err(error) = stream.write_all(input) {
            log::debug!("{}: '{command}' takes no input: {error}", self.0.machine.address());
        }
        stream.output(probe::MAX_OUTPUT)
    }

    /// OpenSSH refuses a forbidden forwarding and a socket without a listener in the same words. The relay tells them
    /// apart.
    fn relay(&self, reason: String, limit: Duration) -> Result<SessionStream, Error> {
        let machine = self.0.machine.address();
        let socket = self.0.machine.daemon_socket.to_string_lossy().into_owned();
        let command = self.0.owner.open(Target::Command(relay::RELAY_COMMAND.to_owned()), limit);
        relay::open(command, &socket, self.0.machine.stall_timeout).map_err(|failure| match failure {
            relay::Failure::NoDaemon(reason) => Error::NoDaemon { machine, socket, reason },
            relay::Failure::NoRelay(relay) => Error::NoRoute { machine, socket, reason, relay },
            relay::Failure::Link(error) => error,
        })
    }

    /// Asks how the machine is doing; `store` is its store directory. Fields it does not tell are `None`: all of them
    /// where commands are forbidden, or nothing is told within `connect_timeout`. An error means that the connection
    /// itself failed.
    pub fn probe(&self, store: &str) -> Result<MachineStatus, Error> {
        let mut stopwatch = Stopwatch::start();
        let output = self.command(probe::command(store)).and_then(|mut stream| {
            stream.set_deadline(Some(Instant::now() + self.0.machine.connect_timeout));
            stream.output(probe::MAX_OUTPUT)
        });
        stopwatch.lap("probe");
        match output {
            Ok(output) => Ok(probe::parse(&output.stdout)),
            Err(Error::Ssh(error)) => match error.cause {
                Cause::CommandRefused(_) | Cause::TooMuchOutput(_) | Cause::Deadline | Cause::ChannelClosed => {
                    log::debug!("no status: {error}");
                    Ok(MachineStatus::default())
                }
                _ => Err(error.into()),
            },
            Err(error) => Err(error),
        }
    }
}
