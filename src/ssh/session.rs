//! An SSH session: connects, checks the host key, logs in, and opens channels.

use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ssh2::MethodType;

use super::channel::Channel;
use super::code::{self, cause};
use super::deadline::Deadline;
use super::driver::{CallKind, Driver};
use super::error::{Algorithm, Cause, Error, Phase};
use super::ffi;
use super::handshake_sniffer::HandshakeSniffer;
use super::host_key;
use super::pending_channel::{PendingChannel, Target, command_refused, socket_refused};
use super::private_key::{self, PrivateKey};
use super::proxy::Proxy;
use super::refusal::Refusal;
use super::tcp;
use crate::file_stamp::FileStamp;
use crate::machine::{Compressed, HostKey, HostKeyKind, Machine};
use crate::text::printable;
use crate::timing::Stopwatch;

/// The shortest time between two keep-alives of libssh2, in seconds.
const KEEPALIVE_INTERVAL_MIN: u32 = 2;

/// The requested ciphers, in both directions. chacha20-poly1305 is not among them: if a packet is damaged in transit,
/// libssh2 up to 1.11.1 loops inside a call without a limit (its pull request 2392), and no deadline ends that.
const CIPHERS: &str = "aes256-gcm@openssh.com,aes128-gcm@openssh.com,aes256-ctr,aes192-ctr,aes128-ctr";

/// The longest reason of a server to disconnect that is reported, in bytes; the rest is cut off.
const DISCONNECT_REASON_MAX: usize = 200;

/// Names that libssh2 lists as key exchange algorithms, but that only announce extensions.
const KEX_SIGNALS: [&str; 2] = ["ext-info-c", "kex-strict-c-v00@openssh.com"];

/// The requested compressions. libssh2 supports only zlib's default level. `zlib` is not among them: it decompresses
/// data of a server before the server is authenticated.
const COMPRESSION: &str = "zlib@openssh.com,none";
const NO_COMPRESSION: &str = "none";

/// An SSH session with a build machine. The connection closes when the session, its clones and all its channels are
/// dropped.
#[derive(Clone)]
pub struct Session {
    driver: Arc<Driver>,
    /// The stamp of the private key file that was used for the login.
    key_stamp: FileStamp,
}

impl Session {
    /// Connects and logs in, within the machine's `connect_timeout`. Requests compression if the machine file enables
    /// it; `auto` requests none.
    ///
    /// Compares the host key with the pinned ones before it sends the name or the key of the user.
    pub fn connect(machine: &Machine) -> Result<Session, Error> {
        Session::connect_compressed(machine, machine.compression.directions(Compressed::default))
    }

    /// Connects as [`connect`](Session::connect) does, and requests this compression. If the server does not support
    /// it, the connection is not compressed.
    pub fn connect_compressed(machine: &Machine, compressed: Compressed) -> Result<Session, Error> {
        let limit = Deadline::after(machine.connect_timeout);
        let key = private_key::load(machine.private_key.as_deref())
            .map_err(|cause| Error::new(machine, Phase::PrivateKey, cause))?;
        let mut stopwatch = Stopwatch::start();
        let (socket, proxy) = dial(machine, limit)?;
        stopwatch.lap("connect");
        let socket = Arc::new(socket);
        let ssh = prepare_session(machine, compressed, &socket)
            .map_err(|error| Error::new(machine, Phase::Handshake, cause(&error)))?;
        let driver = Driver::new(machine, ssh, socket, proxy);
        handshake(&driver, machine, limit).map_err(|cause| Error::new(machine, Phase::Handshake, cause))?;
        check_host_key(&driver, machine).map_err(|cause| Error::new(machine, Phase::HostKey, cause))?;
        stopwatch.lap("handshake");
        authenticate(&driver, machine, &key, limit).map_err(|cause| Error::new(machine, Phase::Authenticate, cause))?;
        stopwatch.lap("authenticate");
        driver.set_logged_in();
        driver.ssh().set_keepalive(true, KEEPALIVE_INTERVAL_MIN);
        Ok(Session { driver: Arc::new(driver), key_stamp: key.stamp })
    }

    /// Returns the host key of the machine's server, of the first type in [`HostKeyKind::ALL`] that it has. Does not
    /// authenticate the server, does not log in, and ignores the pinned keys.
    pub fn host_key(machine: &Machine) -> Result<HostKey, Error> {
        let any = HostKeyKind::ALL.map(|kind| HostKey { kind, blob: Vec::new() });
        let machine = &Machine { host_keys: any.to_vec(), ..machine.clone() };
        let limit = Deadline::after(machine.connect_timeout);
        let (socket, proxy) = dial(machine, limit)?;
        let socket = Arc::new(socket);
        let ssh = prepare_session(machine, Compressed::default(), &socket)
            .map_err(|error| Error::new(machine, Phase::Handshake, cause(&error)))?;
        let driver = Driver::new(machine, ssh, socket, proxy);
        handshake(&driver, machine, limit).map_err(|cause| Error::new(machine, Phase::Handshake, cause))?;
        let offered = driver.ssh().host_key().map(|(blob, _)| host_key::line(blob)).unwrap_or_default();
        HostKey::parse(&offered).map_err(|error| Error::new(machine, Phase::HostKey, Cause::BadHostKey(error)))
    }

    /// Connects to a Unix-domain socket on the machine (OpenSSH's `direct-streamlocal`).
    ///
    /// Fails with [`Cause::SocketRefused`] if the server refuses. OpenSSH sends the same reason if it forbids the
    /// forwarding and if no process listens.
    pub fn open_socket(&self, path: &Path) -> Result<Channel, Error> {
        let socket = path.to_string_lossy();
        let channel = self.request(|| self.driver.ssh().channel_direct_streamlocal(&socket, None));
        self.channel(channel.map_err(|cause| socket_refused(&socket, cause)))
    }

    /// Runs a command with the user's login shell on the machine.
    pub fn exec(&self, command: &str) -> Result<Channel, Error> {
        let channel = self.request(|| self.driver.ssh().channel_session()).and_then(|mut channel| {
            self.request(|| channel.exec(command))?;
            Ok(channel)
        });
        self.channel(channel.map_err(command_refused))
    }

    /// Begins to open a channel, without waiting ([`PendingChannel::step`]). Only one channel can be pending at a time.
    pub fn open(&self, target: Target) -> PendingChannel {
        PendingChannel::new(Arc::clone(&self.driver), target)
    }

    /// Returns the number of bytes received since the session began.
    pub fn received(&self) -> u64 {
        self.driver.received()
    }

    /// Sends a keep-alive request if the socket has room.
    pub fn send_keepalive(&self) -> Result<(), Error> {
        self.driver.send_keepalive().map_err(|cause| self.driver.error(Phase::Transfer, cause))
    }

    /// Returns the silence after which a keep-alive is sent, and the silence after which the link is dead.
    pub fn silence_limits(&self) -> (Duration, Duration) {
        self.driver.silence_limits()
    }

    /// Returns the error for a link that has been silent for too long.
    pub fn link_dead_error(&self) -> Error {
        self.driver.error(Phase::Transfer, Cause::LinkDead(self.driver.silence_limits().1))
    }

    /// Returns the error for a connection that the server has closed.
    pub fn closed_error(&self) -> Error {
        self.driver.error(Phase::Transfer, Cause::Closed)
    }

    /// Returns the error for a session that cannot open a channel.
    pub fn unusable_error(&self) -> Error {
        self.driver.error(Phase::OpenChannel, Cause::Unusable)
    }

    /// Returns the error for a channel that did not open within this time.
    pub fn open_timeout_error(&self, limit: Duration) -> Error {
        self.driver.error(Phase::OpenChannel, Cause::TimedOut(limit))
    }

    /// Returns the stamp of the private key file at the login.
    pub fn key_stamp(&self) -> &FileStamp {
        &self.key_stamp
    }

    /// Returns the socket of the connection, for poll(2). A read or a write on it would break the session.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.driver.socket()
    }

    /// Returns the algorithms in use, as text: key exchange, host key, ciphers and compression.
    pub fn algorithms(&self) -> String {
        [MethodType::Kex, MethodType::HostKey, MethodType::CryptCs, MethodType::CryptSc, MethodType::CompCs]
            .into_iter()
            .filter_map(|kind| self.driver.ssh().methods(kind))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Returns the directions that are compressed.
    pub fn compressed(&self) -> Compressed {
        let is_compressed = |kind| self.driver.ssh().methods(kind).is_some_and(|method| method != NO_COMPRESSION);
        Compressed { sending: is_compressed(MethodType::CompCs), receiving: is_compressed(MethodType::CompSc) }
    }

    fn request<T>(&self, call: impl FnMut() -> Result<T, ssh2::Error>) -> Result<T, Cause> {
        self.driver.run(CallKind::Request, Some(Deadline::after(self.driver.request_timeout)), call)
    }

    fn channel(&self, channel: Result<ssh2::Channel, Cause>) -> Result<Channel, Error> {
        match channel {
            Ok(channel) => Ok(Channel::new(channel, Arc::clone(&self.driver))),
            Err(cause) => Err(self.driver.error(Phase::OpenChannel, cause)),
        }
    }
}

/// Connects a socket to the machine, over TCP or with its proxy command.
fn dial(machine: &Machine, limit: Deadline) -> Result<(OwnedFd, Option<Proxy>), Error> {
    match &machine.proxy_command {
        Some(arguments) => Proxy::start(machine, arguments).map(|(socket, proxy)| (socket, Some(proxy))),
        None => tcp::connect(machine, limit.instant()).map(|socket| (socket, None)),
    }
}

/// Returns a libssh2 session with its socket and the algorithms to request.
fn prepare_session(
    machine: &Machine,
    compressed: Compressed,
    socket: &Arc<OwnedFd>,
) -> Result<ssh2::Session, ssh2::Error> {
    let mut ssh = ssh2::Session::new()?;
    ssh.set_blocking(false);
    ssh.method_pref(MethodType::HostKey, &host_key::algorithms(&machine.host_keys))?;
    for direction in [MethodType::CryptCs, MethodType::CryptSc] {
        ssh.method_pref(direction, CIPHERS)?;
    }
    ssh.set_compress(compressed.sending || compressed.receiving);
    for (direction, is_wanted) in [(MethodType::CompCs, compressed.sending), (MethodType::CompSc, compressed.receiving)]
    {
        ssh.method_pref(direction, if is_wanted { COMPRESSION } else { NO_COMPRESSION })?;
    }
    ssh.set_tcp_stream(Arc::clone(socket));
    Ok(ssh)
}

/// Performs the SSH handshake. The error has the most exact cause that the received bytes show.
fn handshake(driver: &Driver, machine: &Machine, limit: Deadline) -> Result<(), Cause> {
    let mut sniffer = HandshakeSniffer::default();
    let mut ssh = driver.ssh().clone();
    let mut reason = None;
    let result = driver.run(CallKind::Negotiation, Some(limit), || {
        ffi::with_disconnect_reason(&mut reason, || ffi::with_capture(&mut sniffer.bytes, || ssh.handshake()))
    });
    let Err(cause) = result else { return Ok(()) };
    Err(match (sniffer.other_than_ssh(), cause) {
        (Some(line), _) if line.starts_with("Not allowed at this time") => Cause::TemporarilyRefused,
        (Some(line), _) if line.starts_with("Exceeded MaxStartups") => Cause::Dropped { has_reason: true },
        (Some(line), _) => Cause::NotSsh(line),
        (None, Cause::Closed) if sniffer.is_empty() => {
            proxy_failure(driver).unwrap_or(Cause::Dropped { has_reason: false })
        }
        (None, cause @ Cause::Ssh { code: code::KEX_FAILURE, .. }) => {
            missing_algorithm(&ssh, machine, &sniffer).unwrap_or(cause)
        }
        (None, Cause::Closed | Cause::Ssh { .. }) if reason.is_some() => disconnected(reason),
        (None, cause) => cause,
    })
}

/// Returns the reason why the key exchange failed: the server has no host key of a pinned type, or lacks another
/// algorithm.
fn missing_algorithm(ssh: &ssh2::Session, machine: &Machine, sniffer: &HandshakeSniffer) -> Option<Cause> {
    let offered = sniffer.algorithms()?;
    if !host_key::offers_any(&offered.host_key, &machine.host_keys) {
        let pinned = machine.host_keys.iter().map(|key| key.kind).collect();
        return Some(Cause::NoCommonHostKeyType { pinned, offered: offered.host_key });
    }
    let supported = |method| {
        let mut names = ssh.supported_algs(method).unwrap_or_default();
        names.retain(|name| !KEX_SIGNALS.contains(name));
        names
    };
    let (ciphers, macs) = (CIPHERS.split(',').collect(), supported(MethodType::MacCs));
    let lacks = |algorithm, known: &Vec<&str>, offered: &[String]| {
        (!known.iter().any(|known| offered.iter().any(|offered| offered == known))).then(|| Cause::NoCommonAlgorithm {
            algorithm,
            offered: offered.to_vec(),
            known: known.iter().map(|&name| name.to_owned()).collect(),
        })
    };
    lacks(Algorithm::KeyExchange, &supported(MethodType::Kex), &offered.key_exchange)
        .or_else(|| offered.ciphers.iter().find_map(|offered| lacks(Algorithm::Cipher, &ciphers, offered)))
        .or_else(|| offered.macs.iter().find_map(|offered| lacks(Algorithm::Mac, &macs, offered)))
}

/// Returns how the proxy command ended. Retries for a moment, because a command that fails closes its socket before its
/// exit status is available.
fn proxy_failure(driver: &Driver) -> Option<Cause> {
    (0..10).find_map(|i| {
        thread::sleep(Duration::from_millis(i));
        driver.proxy_exit()
    })
}

/// Fails if the server has shown no pinned host key.
fn check_host_key(driver: &Driver, machine: &Machine) -> Result<(), Cause> {
    let Some((offered, _)) = driver.ssh().host_key() else {
        return Err(Cause::HostKeyDiffers { offered: String::new(), fingerprint: "none".to_owned() });
    };
    if machine.host_keys.iter().any(|pinned| pinned.blob == offered) {
        return Ok(());
    }
    Err(Cause::HostKeyDiffers { offered: host_key::line(offered), fingerprint: host_key::fingerprint(offered) })
}

/// Logs in with the key. The error has the reason of the refusal, as far as it is known.
fn authenticate(driver: &Driver, machine: &Machine, key: &PrivateKey, limit: Deadline) -> Result<(), Cause> {
    let refusal = Refusal { driver, machine, key, limit };
    // No account has a name with a NUL byte.
    let Ok(user) = CString::new(machine.user.as_str()) else { return Err(refusal.of_key()) };
    let (mut problem, mut reason) = (None, None);
    let result = driver.run(CallKind::Negotiation, Some(limit), || {
        let mut sign = |data: &[u8]| key.sign(data).map_err(|error| problem = Some(error)).ok();
        ffi::with_disconnect_reason(&mut reason, || ffi::log_in(driver.ssh(), &user, key.public(), &mut sign))
    });
    if let Some(problem) = problem {
        return Err(Cause::CannotSign { path: key.path.clone(), problem });
    }
    result.map_err(|cause| match cause {
        Cause::Closed | Cause::Ssh { .. } if reason.is_some() => disconnected(reason),
        // libssh2 returns this code both for a refusal and for any error during the wait for the reply.
        Cause::Ssh { code: code::PUBLICKEY_UNVERIFIED, message } if message.starts_with("Waiting for") => {
            driver.end_of_replies(limit)
        }
        Cause::Ssh { code: code::AUTHENTICATION_FAILED, .. } => refusal.before_signature(&user),
        Cause::Ssh { code: code::PUBLICKEY_UNVERIFIED, .. } => refusal.after_signature(&user),
        cause => cause,
    })
}

/// Returns the error for a server that has sent SSH_MSG_DISCONNECT with this reason.
fn disconnected(reason: Option<Vec<u8>>) -> Cause {
    Cause::Disconnected(printable(&String::from_utf8_lossy(&reason.unwrap_or_default()), DISCONNECT_REASON_MAX))
}
