//! A connection to a build machine: streams to its daemon, and the probe.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::Error;
use super::probe;
use super::relay;
use crate::machine::Machine;
use crate::ssh::{Cause, Channel, Session};
use crate::status::Status;
use crate::timing::Stopwatch;

/// How long a machine may take to tell how it is doing.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// An open connection. It ends when it and its streams are dropped.
pub struct Connection {
    session: Session,
    machine: Machine,
    /// Whether the server is known to forward to no socket.
    is_relayed: AtomicBool,
}

impl Connection {
    /// Connects to the machine and logs in, within its `connect_timeout`.
    pub fn open(machine: &Machine) -> Result<Connection, Error> {
        let session = Session::connect(machine)?;
        Ok(Connection { session, machine: machine.clone(), is_relayed: AtomicBool::new(false) })
    }

    /// Opens a stream to the socket of the machine's daemon. Each call gives a new one.
    ///
    /// Where the SSH server does not forward to sockets, `guix repl` on the other side passes the bytes, and a warning
    /// says so once for each machine.
    pub fn daemon(&self) -> Result<DaemonStream, Error> {
        let mut reason = "as before".to_owned();
        if !self.is_relayed.load(Ordering::Relaxed) {
            match self.session.open_socket(&self.machine.daemon_socket) {
                Ok(channel) => return Ok(DaemonStream { channel }),
                Err(error) => match error.cause {
                    Cause::SocketRefused { reason: why, .. } => reason = why,
                    _ => return Err(error.into()),
                },
            }
        }
        let channel = self.relay(reason)?;
        if !self.is_relayed.swap(true, Ordering::Relaxed) {
            warn_once(&self.machine.address());
        }
        Ok(DaemonStream { channel })
    }

    /// OpenSSH refuses a forbidden forwarding and a socket without a listener in the same words. The relay tells them
    /// apart.
    fn relay(&self, reason: String) -> Result<Channel, Error> {
        let machine = self.machine.address();
        let socket = self.machine.daemon_socket.to_string_lossy().into_owned();
        relay::open(&self.session, &socket, self.machine.stall_timeout).map_err(|failure| match failure {
            relay::Failure::NoDaemon(reason) => Error::NoDaemon { machine, socket, reason },
            relay::Failure::NoRelay(relay) => Error::NoWay { machine, socket, reason, relay },
            relay::Failure::Link(error) => Error::Ssh(error),
        })
    }

    /// Asks how the machine is doing; `store` is its store directory. Fields it does not tell are `None`: all of them
    /// where commands are forbidden. An error means that the connection itself failed.
    pub fn probe(&self, store: &str) -> Result<Status, Error> {
        let mut stopwatch = Stopwatch::start();
        let output = self.session.exec(&probe::command(store)).and_then(|mut channel| {
            channel.set_deadline(Some(Instant::now() + PROBE_LIMIT));
            channel.output(probe::MAX_OUTPUT)
        });
        stopwatch.lap("probe");
        match output {
            Ok(output) => Ok(probe::parse(&output.stdout)),
            Err(error) => match error.cause {
                Cause::CommandRefused(_) | Cause::TooMuchOutput(_) | Cause::Deadline | Cause::ChannelClosed => {
                    log::debug!("no status: {error}");
                    Ok(Status::default())
                }
                _ => Err(error.into()),
            },
        }
    }
}

fn warn_once(machine: &str) {
    static WARNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(machine.to_owned()) {
        log::warn!(
            "{machine}: its SSH server does not forward to sockets, so 'guix repl' there passes the data, which is slower; \
             `AllowStreamLocalForwarding yes` in its sshd_config would help"
        );
    }
}

/// A byte stream to a machine's daemon. Reads and writes fail as those of [`Channel`] do.
pub struct DaemonStream {
    channel: Channel,
}

impl DaemonStream {
    /// From now on, reads and writes fail once this moment has passed.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.channel.set_deadline(deadline);
    }
}

impl Read for DaemonStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.channel.read(buffer)
    }
}

impl Write for DaemonStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.channel.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.channel.flush()
    }
}
