//! A connection to a build machine: streams to its daemon, commands, and the probe.

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

/// An open connection. Its session is released when the connection, its clones and its streams are dropped.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    owner: Arc<OwnerHandle>,
    /// The stamp of the private key file, if the session was opened for this connection.
    key: Option<FileStamp>,
    machine: Machine,
    /// The directions for which compression was requested.
    requested: Compressed,
    /// The directions that are compressed.
    compressed: Compressed,
    /// Whether a stream to the daemon has been opened.
    has_reached_daemon: AtomicBool,
    /// Whether the server does not forward to sockets, as far as is known.
    is_relayed: AtomicBool,
    /// Whether the session was made available to other hooks.
    is_kept: AtomicBool,
}

impl Connection {
    /// Connects to the machine and logs in, within its `connect_timeout`. Requests compression if the machine file
    /// enables it; `auto` requests none.
    pub fn open(machine: &Machine) -> Result<Connection, Error> {
        Connection::open_compressed(machine, machine.compression.directions(Compressed::default))
    }

    /// Connects to the machine and logs in, within its `connect_timeout`. Requests this compression; without it on the
    /// server the connection is not compressed.
    pub fn open_compressed(machine: &Machine, compressed: Compressed) -> Result<Connection, Error> {
        let (owner, connected) = OwnerHandle::start(machine, compressed)?;
        Ok(Connection::new(machine, Arc::new(owner), Some(connected.key_stamp), compressed, connected.compressed))
    }

    /// Returns the connection of a session that another hook has opened ([`owner`](super::owner)).
    pub(super) fn reused(
        owner: Arc<OwnerHandle>,
        machine: &Machine,
        requested: Compressed,
        compressed: Compressed,
    ) -> Connection {
        Connection::new(machine, owner, None, requested, compressed)
    }

    fn new(
        machine: &Machine,
        owner: Arc<OwnerHandle>,
        key: Option<FileStamp>,
        requested: Compressed,
        compressed: Compressed,
    ) -> Connection {
        // A session that was found is available already.
        let is_kept = AtomicBool::new(key.is_none());
        let [has_reached_daemon, is_relayed] = [false; 2].map(AtomicBool::new);
        Connection(Arc::new(Inner {
            owner,
            key,
            machine: machine.clone(),
            requested,
            compressed,
            has_reached_daemon,
            is_relayed,
            is_kept,
        }))
    }

    /// Returns the machine.
    pub fn machine(&self) -> &Machine {
        &self.0.machine
    }

    /// Returns the stamp of the private key file at the login; `None` if another hook has opened the session.
    pub fn key_stamp(&self) -> Option<&FileStamp> {
        self.0.key.as_ref()
    }

    /// Returns whether another hook has opened the session.
    pub fn is_reused(&self) -> bool {
        self.0.key.is_none()
    }

    /// Keeps the session open for other hooks, unless the machine has as many sessions as build slots. The session ends
    /// after the time `idle` without use, and with the process `daemon`, if given (pidfd_open(2)). `store` is the machine's
    /// store directory, for [`Connection::last_status`]. Further calls change the
    /// time. When the first call returns, other hooks find the session. An error is logged.
    pub fn keep_open(&self, cache_key: &CacheKey, idle: Duration, store: &str, daemon: Option<BorrowedFd<'_>>) {
        let is_kept = self.0.is_kept.load(Ordering::Relaxed);
        if !is_kept && cache_key.is_full() {
            return;
        }
        let kept = self.0.owner.keep_open(cache_key, idle, probe::command(store), daemon);
        match kept.and_then(|()| if is_kept { Ok(()) } else { self.0.owner.await_requests() }) {
            Ok(()) => self.0.is_kept.store(true, Ordering::Relaxed),
            Err(error) => log::debug!("the session does not stay open: {error}"),
        }
    }

    /// Retires the session: it accepts no new hooks, and ends after its last use.
    pub fn retire(&self) {
        if let Err(error) = self.0.owner.retire() {
            log::debug!("{error}");
        }
    }

    /// Returns the directions that are compressed.
    pub fn compressed(&self) -> Compressed {
        self.0.compressed
    }

    /// Returns the directions for which compression was requested.
    pub fn requested_compression(&self) -> Compressed {
        self.0.requested
    }

    /// Opens a stream to the daemon's socket, or to a relay, within `limit`.
    pub(super) fn open_daemon(&self, limit: Duration) -> Result<SessionStream, Error> {
        let mut reason = "as before".to_owned();
        if !self.0.is_relayed.load(Ordering::Relaxed) {
            match self.open_socket(&self.0.machine.daemon_socket, limit) {
                Err(Error::Ssh(error)) => match error.cause {
                    Cause::SocketRefused { reason: why, .. } => reason = why,
                    _ => return Err(error.into()),
                },
                opened => return opened,
            }
        }
        let stream = self.open_relay(reason, limit)?;
        self.0.is_relayed.store(true, Ordering::Relaxed);
        Ok(stream)
    }

    /// Opens a stream to a socket of the machine, within `limit`.
    fn open_socket(&self, socket: &Path, limit: Duration) -> Result<SessionStream, Error> {
        self.0.owner.open(Target::Socket(socket.to_string_lossy().into_owned()), limit)
    }

    /// Starts a command, and returns a stream to its input and output.
    pub(super) fn open_command(&self, command: String) -> Result<SessionStream, Error> {
        self.0.owner.open(Target::Command(command), self.request_timeout())
    }

    /// Returns the time allowed to open a stream.
    fn request_timeout(&self) -> Duration {
        greeting_timeout(&self.0.machine, self.has_reached_daemon())
    }

    /// Returns whether a stream to the daemon has been opened.
    pub(super) fn has_reached_daemon(&self) -> bool {
        self.0.has_reached_daemon.load(Ordering::Relaxed)
    }

    /// Notes that a stream to the daemon has been opened.
    pub(super) fn set_daemon_reached(&self) {
        self.0.has_reached_daemon.store(true, Ordering::Relaxed);
    }

    /// Returns a warning if the SSH server does not forward to sockets, with the remedy.
    pub fn warning(&self) -> Option<String> {
        let machine = self.0.machine.address();
        self.0.is_relayed.load(Ordering::Relaxed).then(|| {
            format!(
                "{machine}: its SSH server does not forward to sockets, so 'guix repl' there passes the data, which is \
                 slower; set `AllowStreamLocalForwarding yes` and `AllowTcpForwarding yes` in its sshd_config"
            )
        })
    }

    /// Returns whether the SSH server does not forward to sockets, so that `guix repl` passes the data of the daemon.
    pub fn is_relayed(&self) -> bool {
        self.0.is_relayed.load(Ordering::Relaxed)
    }

    /// Returns whether a process listens on a socket of the machine. False as well if the SSH server does not forward
    /// to it.
    pub fn listens(&self, socket: &Path) -> bool {
        self.open_socket(socket, self.request_timeout()).is_ok()
    }

    /// Runs a command with this input, and returns its output, at most 64 KiB. `limit` is the time allowed after its
    /// start.
    pub fn run(&self, command: &str, input: &[u8], limit: Duration) -> Result<Output, Error> {
        let mut stream = self.open_command(command.to_owned())?;
        stream.set_deadline(Instant::now().checked_add(limit));
        // A command that reads no input may have ended already. Its output is still valid.
        if let Err(error) = stream.write_all(input) {
            log::debug!("{}: '{command}' takes no input: {error}", self.0.machine.address());
        }
        stream.output(probe::OUTPUT_MAX)
    }

    /// Starts a relay to the daemon. `reason` is the server's reason to refuse the forwarding. OpenSSH gives the same
    /// reason for a forbidden forwarding and for a socket without a listener. The relay distinguishes them.
    fn open_relay(&self, reason: String, limit: Duration) -> Result<SessionStream, Error> {
        let machine = self.0.machine.address();
        let socket = self.0.machine.daemon_socket.to_string_lossy().into_owned();
        let command = self.0.owner.open(Target::Command(relay::RELAY_COMMAND.to_owned()), limit);
        relay::open(command, &socket, self.0.machine.stall_timeout).map_err(|failure| match failure {
            relay::RelayError::NoDaemon(reason) => Error::NoDaemon { machine, socket, reason },
            relay::RelayError::NoRelay(relay) => Error::NoRoute { machine, socket, reason, relay },
            relay::RelayError::Session(error) => error,
        })
    }

    /// Probes the status of the machine, within `connect_timeout`. `store` is its store directory. Unknown fields are
    /// `None`; all of them are if commands are forbidden or the time has passed. The error is a failure of the
    /// connection.
    pub fn probe(&self, store: &str) -> Result<MachineStatus, Error> {
        let mut stopwatch = Stopwatch::start();
        let output = self.open_command(probe::command(store)).and_then(|mut stream| {
            stream.set_deadline(Some(Instant::now() + self.0.machine.connect_timeout));
            stream.output(probe::OUTPUT_MAX)
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

    /// Returns the last status that the owner of the session has probed while no hook used it, and its age. `None` if the
    /// session is new, and if the owner has none.
    pub fn last_status(&self) -> Option<(MachineStatus, Duration)> {
        if !self.is_reused() {
            return None;
        }
        let output = self.0.owner.last_probe().inspect_err(|error| log::debug!("no status: {error}")).ok()??;
        Some((probe::parse(output.text.as_bytes()), output.age))
    }
}
