//! A session: connected, the server known by its key, logged in.

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
use super::driver::{Driver, Kind};
use super::error::{Algorithm, Cause, Error, Phase};
use super::ffi;
use super::handshake_sniffer::HandshakeSniffer;
use super::host_key;
use super::opening::{Opening, Target, command_refused, socket_refused};
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

/// The ciphers that are asked for, both ways. Not chacha20-poly1305: when a packet is damaged on the way, libssh2 up to
/// 1.11.1 falls into an endless loop in the midst of a call (its pull request 2392), which no deadline ends.
const CIPHERS: &str = "aes256-gcm@openssh.com,aes128-gcm@openssh.com,aes256-ctr,aes192-ctr,aes128-ctr";

/// How much is shown of a server's reason to disconnect, in bytes.
const MAX_DISCONNECT_REASON: usize = 200;

/// What libssh2 has among the algorithms for a key exchange, and is none.
const KEX_SIGNALS: [&str; 2] = ["ext-info-c", "kex-strict-c-v00@openssh.com"];

/// The compressions that are asked for. libssh2 has zlib's default level only. Not `zlib`, which unpacks what a server
/// sends that nobody knows yet.
const COMPRESSION: &str = "zlib@openssh.com,none";
const NO_COMPRESSION: &str = "none";

/// An SSH session with a build machine. The connection ends when it, its clones and all its channels are dropped.
#[derive(Clone)]
pub struct Session {
    driver: Arc<Driver>,
    /// Of the file of the private key that opened it.
    key: FileStamp,
}

impl Session {
    /// Connects and logs in, within the machine's `connect_timeout`. Compressed if the machine file says so; `auto` is
    /// not.
    ///
    /// The server's host key is compared with the pinned ones before the user's name or key is shown to it.
    pub fn connect(machine: &Machine) -> Result<Session, Error> {
        Session::connect_compressed(machine, machine.compression.directions(Compressed::default))
    }

    /// Connects in the same way, and asks for this compression. A server that does not compress is taken as it is.
    pub fn connect_compressed(machine: &Machine, compressed: Compressed) -> Result<Session, Error> {
        let limit = Deadline::after(machine.connect_timeout);
        let key = private_key::load(machine.private_key.as_deref())
            .map_err(|cause| Error::new(machine, Phase::PrivateKey, cause))?;
        let mut stopwatch = Stopwatch::start();
        let (socket, proxy) = dial(machine, limit)?;
        stopwatch.lap("connect");
        let socket = Arc::new(socket);
        let ssh = prepare(machine, compressed, &socket)
            .map_err(|error| Error::new(machine, Phase::Handshake, cause(&error)))?;
        let driver = Driver::new(machine, ssh, socket, proxy);
        handshake(&driver, machine, limit).map_err(|cause| Error::new(machine, Phase::Handshake, cause))?;
        check_host_key(&driver, machine).map_err(|cause| Error::new(machine, Phase::HostKey, cause))?;
        stopwatch.lap("handshake");
        authenticate(&driver, machine, &key, limit).map_err(|cause| Error::new(machine, Phase::Authenticate, cause))?;
        stopwatch.lap("authenticate");
        driver.log_in();
        driver.ssh().set_keepalive(true, KEEPALIVE_INTERVAL_MIN);
        Ok(Session { driver: Arc::new(driver), key: key.stamp })
    }

    /// The host key that the machine's server shows, of the first type in [`HostKeyKind::ALL`] that it has. Nothing is
    /// known of the server by that, nobody is logged in, and what the machine file pins does not count.
    pub fn host_key(machine: &Machine) -> Result<HostKey, Error> {
        let any = HostKeyKind::ALL.map(|kind| HostKey { kind, blob: Vec::new() });
        let machine = &Machine { host_keys: any.to_vec(), ..machine.clone() };
        let limit = Deadline::after(machine.connect_timeout);
        let (socket, proxy) = dial(machine, limit)?;
        let socket = Arc::new(socket);
        let ssh = prepare(machine, Compressed::default(), &socket)
            .map_err(|error| Error::new(machine, Phase::Handshake, cause(&error)))?;
        let driver = Driver::new(machine, ssh, socket, proxy);
        handshake(&driver, machine, limit).map_err(|cause| Error::new(machine, Phase::Handshake, cause))?;
        let offered = driver.ssh().host_key().map(|(blob, _)| host_key::line(blob)).unwrap_or_default();
        HostKey::parse(&offered).map_err(|error| Error::new(machine, Phase::HostKey, Cause::BadHostKey(error)))
    }

    /// Connects to a Unix-domain socket on the other side (OpenSSH's `direct-streamlocal`).
    ///
    /// [`Cause::SocketRefused`] when the server does not: OpenSSH gives the same answer whether it forbids the
    /// forwarding or nobody listens.
    pub fn open_socket(&self, path: &Path) -> Result<Channel, Error> {
        let socket = path.to_string_lossy();
        let channel = self.request(|| self.driver.ssh().channel_direct_streamlocal(&socket, None));
        self.channel(channel.map_err(|cause| socket_refused(&socket, cause)))
    }

    /// Runs a command through the user's login shell on the other side.
    pub fn exec(&self, command: &str) -> Result<Channel, Error> {
        let channel = self.request(|| self.driver.ssh().channel_session()).and_then(|mut channel| {
            self.request(|| channel.exec(command))?;
            Ok(channel)
        });
        self.channel(channel.map_err(command_refused))
    }

    /// Opens a channel without waiting for it ([`Opening::step`]). One at a time.
    pub fn open(&self, target: Target) -> Opening {
        Opening::new(Arc::clone(&self.driver), target)
    }

    /// How many bytes have come since the session began.
    pub fn received(&self) -> u64 {
        self.driver.received()
    }

    /// Asks the server for a sign of life.
    pub fn ask_for_sign_of_life(&self) -> Result<(), Error> {
        self.driver.ask_for_sign_of_life().map_err(|cause| self.driver.error(Phase::Transfer, cause))
    }

    /// After how much silence the server is asked for a sign of life, and after how much the link is dead.
    pub fn silence_limits(&self) -> (Duration, Duration) {
        self.driver.limits()
    }

    /// What to say of a link that has been silent for too long.
    pub fn dead_link(&self) -> Error {
        self.driver.error(Phase::Transfer, Cause::LinkDead(self.driver.limits().1))
    }

    /// What to say of one that the server has closed.
    pub fn closed(&self) -> Error {
        self.driver.error(Phase::Transfer, Cause::Closed)
    }

    /// What to say of one that can open no channel.
    pub fn out_of_use(&self) -> Error {
        self.driver.error(Phase::OpenChannel, Cause::OutOfUse)
    }

    /// What to say of a channel that did not open within this time.
    pub fn not_opened(&self, limit: Duration) -> Error {
        self.driver.error(Phase::OpenChannel, Cause::TimedOut(limit))
    }

    /// The stamp of the private key's file, as it was when it opened the session.
    pub fn key_stamp(&self) -> &FileStamp {
        &self.key
    }

    /// The socket that carries it. Whoever reads or writes there breaks the session.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.driver.socket()
    }

    /// The algorithms in use, for a person: key exchange, host key, ciphers and compression.
    pub fn algorithms(&self) -> String {
        [MethodType::Kex, MethodType::HostKey, MethodType::CryptCs, MethodType::CryptSc, MethodType::CompCs]
            .into_iter()
            .filter_map(|kind| self.driver.ssh().methods(kind))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// The directions that are compressed.
    pub fn compressed(&self) -> Compressed {
        let is_compressed = |kind| self.driver.ssh().methods(kind).is_some_and(|method| method != NO_COMPRESSION);
        Compressed { sending: is_compressed(MethodType::CompCs), receiving: is_compressed(MethodType::CompSc) }
    }

    fn request<T>(&self, call: impl FnMut() -> Result<T, ssh2::Error>) -> Result<T, Cause> {
        self.driver.run(Kind::Request, Some(Deadline::after(self.driver.request_timeout)), call)
    }

    fn channel(&self, channel: Result<ssh2::Channel, Cause>) -> Result<Channel, Error> {
        match channel {
            Ok(channel) => Ok(Channel::new(channel, Arc::clone(&self.driver))),
            Err(cause) => Err(self.driver.error(Phase::OpenChannel, cause)),
        }
    }
}

fn dial(machine: &Machine, limit: Deadline) -> Result<(OwnedFd, Option<Proxy>), Error> {
    match &machine.proxy_command {
        Some(arguments) => Proxy::start(machine, arguments).map(|(socket, proxy)| (socket, Some(proxy))),
        None => tcp::connect(machine, limit.instant()).map(|socket| (socket, None)),
    }
}

/// A libssh2 session that knows its socket and what to ask for.
fn prepare(machine: &Machine, compressed: Compressed, socket: &Arc<OwnedFd>) -> Result<ssh2::Session, ssh2::Error> {
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

fn handshake(driver: &Driver, machine: &Machine, limit: Deadline) -> Result<(), Cause> {
    let mut sniffer = HandshakeSniffer::default();
    let mut ssh = driver.ssh().clone();
    let mut farewell = None;
    let result = driver.run(Kind::Negotiation, Some(limit), || {
        ffi::with_farewell(&mut farewell, || ffi::overheard(&mut sniffer.bytes, || ssh.handshake()))
    });
    let Err(cause) = result else { return Ok(()) };
    Err(match (sniffer.other_than_ssh(), cause) {
        (Some(line), _) if line.starts_with("Not allowed at this time") => Cause::NotAllowedNow,
        (Some(line), _) if line.starts_with("Exceeded MaxStartups") => Cause::Dropped { said: true },
        (Some(line), _) => Cause::NotSsh(line),
        (None, Cause::Closed) if sniffer.is_empty() => end_of_proxy(driver).unwrap_or(Cause::Dropped { said: false }),
        (None, cause @ Cause::Ssh { code: code::KEX_FAILURE, .. }) => {
            nothing_in_common(&ssh, machine, &sniffer).unwrap_or(cause)
        }
        (None, Cause::Closed | Cause::Ssh { .. }) if farewell.is_some() => disconnected(farewell),
        (None, cause) => cause,
    })
}

/// What the server lacks, so that the key exchange failed: a host key of a pinned type, or another algorithm.
fn nothing_in_common(ssh: &ssh2::Session, machine: &Machine, sniffer: &HandshakeSniffer) -> Option<Cause> {
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

/// A proxy command that fails closes its end a moment before it can be waited for.
fn end_of_proxy(driver: &Driver) -> Option<Cause> {
    (0..10).find_map(|i| {
        thread::sleep(Duration::from_millis(i));
        driver.proxy_end()
    })
}

fn check_host_key(driver: &Driver, machine: &Machine) -> Result<(), Cause> {
    let Some((offered, _)) = driver.ssh().host_key() else {
        return Err(Cause::HostKeyDiffers { offered: String::new(), fingerprint: "none".to_owned() });
    };
    if machine.host_keys.iter().any(|pinned| pinned.blob == offered) {
        return Ok(());
    }
    Err(Cause::HostKeyDiffers { offered: host_key::line(offered), fingerprint: host_key::fingerprint(offered) })
}

fn authenticate(driver: &Driver, machine: &Machine, key: &PrivateKey, limit: Deadline) -> Result<(), Cause> {
    let refusal = Refusal { driver, machine, key, limit };
    // No account has such a name.
    let Ok(user) = CString::new(machine.user.as_str()) else { return Err(refusal.of_key()) };
    let (mut problem, mut farewell) = (None, None);
    let result = driver.run(Kind::Negotiation, Some(limit), || {
        let mut sign = |data: &[u8]| key.sign(data).map_err(|error| problem = Some(error)).ok();
        ffi::with_farewell(&mut farewell, || ffi::log_in(driver.ssh(), &user, key.public(), &mut sign))
    });
    if let Some(problem) = problem {
        return Err(Cause::CannotSign { path: key.path.clone(), problem });
    }
    result.map_err(|cause| match cause {
        Cause::Closed | Cause::Ssh { .. } if farewell.is_some() => disconnected(farewell),
        // libssh2 has this code both for a refusal and for whatever ended the wait for the answer.
        Cause::Ssh { code: code::PUBLICKEY_UNVERIFIED, message } if message.starts_with("Waiting for") => {
            driver.end_of_answers(limit)
        }
        Cause::Ssh { code: code::AUTHENTICATION_FAILED, .. } => refusal.before_signature(&user),
        Cause::Ssh { code: code::PUBLICKEY_UNVERIFIED, .. } => refusal.after_signature(&user),
        cause => cause,
    })
}

/// The server said that it disconnects, and why.
fn disconnected(farewell: Option<Vec<u8>>) -> Cause {
    Cause::Disconnected(printable(&String::from_utf8_lossy(&farewell.unwrap_or_default()), MAX_DISCONNECT_REASON))
}
