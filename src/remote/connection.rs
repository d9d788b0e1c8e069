//! A connection to a build machine: channels to its daemon, commands, and the probe.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::error::Error;
use super::probe;
use super::relay;
use crate::file_stamp::FileStamp;
use crate::machine::{Compressed, Machine};
use crate::ssh::{Cause, Channel, Output, Session};
use crate::status::MachineStatus;
use crate::timing::Stopwatch;

/// An open connection. It ends when it, its clones and its streams are dropped.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    /// `None` where another process has the session.
    session: Option<Session>,
    machine: Machine,
    /// The directions for which compression was asked, and those that are compressed.
    asked: Compressed,
    compressed: Compressed,
    /// Whether the daemon has been reached.
    is_up: AtomicBool,
    /// Whether the server is known to forward to no socket.
    is_relayed: AtomicBool,
}

impl Connection {
    /// Connects to the machine and logs in, within its `connect_timeout`. Compressed if the machine file says so;
    /// `auto` is not.
    pub fn open(machine: &Machine) -> Result<Connection, Error> {
        Connection::open_compressed(machine, machine.compression.directions(Compressed::default))
    }

    /// Connects in the same way, and asks for this compression. A server that does not compress is taken as it is.
    pub fn open_compressed(machine: &Machine, compressed: Compressed) -> Result<Connection, Error> {
        let session = Session::connect_compressed(machine, compressed)?;
        let negotiated = session.compressed();
        Ok(Connection::new(machine, Some(session), compressed, negotiated))
    }

    /// The connection of a stream that another process carries ([`kept`](super::persist)). What that one cannot do has a
    /// session of its own each time; nobody's turn to log in is waited for.
    pub(super) fn beside(machine: &Machine, asked: Compressed, compressed: Compressed) -> Connection {
        Connection::new(machine, None, asked, compressed)
    }

    fn new(machine: &Machine, session: Option<Session>, asked: Compressed, compressed: Compressed) -> Connection {
        let [is_up, is_relayed] = [false; 2].map(AtomicBool::new);
        Connection(Arc::new(Inner { session, machine: machine.clone(), asked, compressed, is_up, is_relayed }))
    }

    /// The machine at its other end.
    pub fn machine(&self) -> &Machine {
        &self.0.machine
    }

    /// The stamp of the private key's file, as it was when it opened this connection; `None` where another process has
    /// the session.
    pub fn key_stamp(&self) -> Option<&FileStamp> {
        self.0.session.as_ref().map(Session::key_stamp)
    }

    /// Whether another process has the session, so that all but the stream to the daemon takes a login.
    pub fn is_reused(&self) -> bool {
        self.0.session.is_none()
    }

    /// The directions that are compressed.
    pub fn compressed(&self) -> Compressed {
        self.0.compressed
    }

    /// The directions for which compression was asked.
    pub fn asked_compression(&self) -> Compressed {
        self.0.asked
    }

    /// A channel to the daemon's socket, or to a relay.
    pub(super) fn channel(&self, session: &Session) -> Result<Channel, Error> {
        let mut reason = "as before".to_owned();
        if !self.0.is_relayed.load(Ordering::Relaxed) {
            match session.open_socket(&self.0.machine.daemon_socket) {
                Ok(channel) => return Ok(channel),
                Err(error) => match error.cause {
                    Cause::SocketRefused { reason: why, .. } => reason = why,
                    _ => return Err(error.into()),
                },
            }
        }
        let channel = self.relay(session, reason)?;
        self.0.is_relayed.store(true, Ordering::Relaxed);
        Ok(channel)
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
        self.session().is_ok_and(|session| session.open_socket(socket).is_ok())
    }

    /// Runs a command with this input, and reads what it prints, at most 64 KiB; `limit` is for all of it.
    pub fn run(&self, command: &str, input: &[u8], limit: Duration) -> Result<Output, Error> {
        let mut channel = self.session()?.exec(command)?;
        channel.set_deadline(Instant::now().checked_add(limit));
        // A command that wants no input may have ended by now; what it printed counts.
        if let Err(error) = channel.write_all(input) {
            log::debug!("{}: '{command}' takes no input: {error}", self.0.machine.address());
        }
        Ok(channel.output(probe::MAX_OUTPUT)?)
    }

    /// The session, or one beside that of the other process.
    pub(super) fn session(&self) -> Result<Session, Error> {
        match &self.0.session {
            Some(session) => Ok(session.clone()),
            None => Ok(Session::connect_compressed(&self.0.machine, self.0.asked)?),
        }
    }

    /// OpenSSH refuses a forbidden forwarding and a socket without a listener in the same words. The relay tells them
    /// apart.
    fn relay(&self, session: &Session, reason: String) -> Result<Channel, Error> {
        let machine = self.0.machine.address();
        let socket = self.0.machine.daemon_socket.to_string_lossy().into_owned();
        relay::open(session, &socket, self.0.machine.stall_timeout).map_err(|failure| match failure {
            relay::Failure::NoDaemon(reason) => Error::NoDaemon { machine, socket, reason },
            relay::Failure::NoRelay(relay) => Error::NoRoute { machine, socket, reason, relay },
            relay::Failure::Link(error) => Error::Ssh(error),
        })
    }

    /// Asks how the machine is doing; `store` is its store directory. Fields it does not tell are `None`: all of them
    /// where commands are forbidden, or nothing is told within `connect_timeout`. An error means that the connection
    /// itself failed.
    pub fn probe(&self, store: &str) -> Result<MachineStatus, Error> {
        let session = self.session()?;
        let mut stopwatch = Stopwatch::start();
        let output = session.exec(&probe::command(store)).and_then(|mut channel| {
            channel.set_deadline(Some(Instant::now() + self.0.machine.connect_timeout));
            channel.output(probe::MAX_OUTPUT)
        });
        stopwatch.lap("probe");
        match output {
            Ok(output) => Ok(probe::parse(&output.stdout)),
            Err(error) => match error.cause {
                Cause::CommandRefused(_) | Cause::TooMuchOutput(_) | Cause::Deadline | Cause::ChannelClosed => {
                    log::debug!("no status: {error}");
                    Ok(MachineStatus::default())
                }
                _ => Err(error.into()),
            },
        }
    }
}
