//! A connection to a build machine: streams to its daemon, and the probe.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::error::Error;
use super::importer::Importer;
use super::probe;
use super::relay;
use super::stream::DaemonStream;
use crate::machine::{Compressed, Machine};
use crate::ssh::{Cause, Channel, Session};
use crate::status::Status;
use crate::timing::Stopwatch;

/// An open connection. It ends when it, its clones and its streams are dropped.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    session: Session,
    machine: Machine,
    /// Whether the server is known to forward to no socket.
    is_relayed: AtomicBool,
}

impl Connection {
    /// Connects to the machine and logs in, within its `connect_timeout`. Compressed if the machine file says so; `auto` is not.
    pub fn open(machine: &Machine) -> Result<Connection, Error> {
        Connection::open_compressed(machine, machine.compression.directions(Compressed::default))
    }

    /// Connects in the same way, and asks for this compression. A server that does not compress is taken as it is.
    pub fn open_compressed(machine: &Machine, compressed: Compressed) -> Result<Connection, Error> {
        let session = Session::connect_compressed(machine, compressed)?;
        let inner = Inner { session, machine: machine.clone(), is_relayed: AtomicBool::new(false) };
        Ok(Connection(Arc::new(inner)))
    }

    /// The machine at its other end.
    pub fn machine(&self) -> &Machine {
        &self.0.machine
    }

    /// The directions that are compressed.
    pub fn compressed(&self) -> Compressed {
        self.0.session.compressed()
    }

    /// Opens a stream to the socket of the machine's daemon. Each call gives a new one.
    ///
    /// Where the SSH server does not forward to sockets, `guix repl` on the other side passes the bytes, and a warning
    /// says so once for each machine.
    pub fn daemon(&self) -> Result<DaemonStream, Error> {
        let mut reason = "as before".to_owned();
        if !self.0.is_relayed.load(Ordering::Relaxed) {
            match self.0.session.open_socket(&self.0.machine.daemon_socket) {
                Ok(channel) => return Ok(DaemonStream::new(channel, self.clone())),
                Err(error) => match error.cause {
                    Cause::SocketRefused { reason: why, .. } => reason = why,
                    _ => return Err(error.into()),
                },
            }
        }
        let channel = self.relay(reason)?;
        if !self.0.is_relayed.swap(true, Ordering::Relaxed) {
            warn_once(&self.0.machine.address());
        }
        Ok(DaemonStream::new(channel, self.clone()))
    }

    /// Starts `guix archive --import` on the other side; `None` where that cannot be.
    pub fn importer(&self) -> Result<Option<Importer>, Error> {
        Ok(Importer::start(self)?)
    }

    pub(super) fn session(&self) -> &Session {
        &self.0.session
    }

    /// OpenSSH refuses a forbidden forwarding and a socket without a listener in the same words. The relay tells them
    /// apart.
    fn relay(&self, reason: String) -> Result<Channel, Error> {
        let machine = self.0.machine.address();
        let socket = self.0.machine.daemon_socket.to_string_lossy().into_owned();
        relay::open(&self.0.session, &socket, self.0.machine.stall_timeout).map_err(|failure| match failure {
            relay::Failure::NoDaemon(reason) => Error::NoDaemon { machine, socket, reason },
            relay::Failure::NoRelay(relay) => Error::NoWay { machine, socket, reason, relay },
            relay::Failure::Link(error) => Error::Ssh(error),
        })
    }

    /// Asks how the machine is doing; `store` is its store directory. Fields it does not tell are `None`: all of them
    /// where commands are forbidden, or nothing is told within `connect_timeout`. An error means that the connection itself failed.
    pub fn probe(&self, store: &str) -> Result<Status, Error> {
        let mut stopwatch = Stopwatch::start();
        let output = self.0.session.exec(&probe::command(store)).and_then(|mut channel| {
            channel.set_deadline(Some(Instant::now() + self.0.machine.connect_timeout));
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
