//! The errors of SSH connections: the machine, the phase and the cause.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::machine::{HostKeyError, HostKeyKind, Machine};

/// The longest message that libssh2 accepts, in bytes (`LIBSSH2_PACKET_MAXPAYLOAD`). OpenSSH can send longer ones: the
/// text of a `Banner`.
const MAX_SERVER_MESSAGE: usize = 40_000;

/// A failure of the connection to one machine.
///
/// An [`io::Error`] of a [`Channel`](super::Channel) has this as its inner error ([`Error::in_io`] returns it). The
/// owner process of a session sends it to the users of the session.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{machine}: {phase}: {cause}")]
pub struct Error {
    /// `NAME:PORT`.
    pub machine: String,
    pub phase: Phase,
    pub cause: Cause,
}

/// The phase in which a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Finding and reading the private key, before anything is sent.
    PrivateKey,
    Resolve,
    Connect,
    /// The SSH key exchange.
    Handshake,
    HostKey,
    Authenticate,
    OpenChannel,
    Transfer,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::PrivateKey => "private key",
            Phase::Resolve => "resolve",
            Phase::Connect => "connect",
            Phase::Handshake => "SSH handshake",
            Phase::HostKey => "host key",
            Phase::Authenticate => "authenticate",
            Phase::OpenChannel => "open channel",
            Phase::Transfer => "transfer",
        })
    }
}

/// A kind of algorithm on which a server and a client must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    KeyExchange,
    Cipher,
    Mac,
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Algorithm::KeyExchange => "key exchange",
            Algorithm::Cipher => "cipher",
            Algorithm::Mac => "MAC",
        }
    }

    /// Returns the name of its setting in sshd_config.
    pub(super) fn setting(self) -> &'static str {
        match self {
            Algorithm::KeyExchange => "KexAlgorithms",
            Algorithm::Cipher => "Ciphers",
            Algorithm::Mac => "MACs",
        }
    }
}

/// The cause of a failure.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Cause {
    #[error("none of the default private keys exists ({})", list(tried.iter().map(|path| path.display())))]
    NoPrivateKey { tried: Vec<PathBuf> },
    #[error("no home directory is known for the effective user, so there is no default private key")]
    NoHome,
    #[error("private key '{}' does not exist", path.display())]
    PrivateKeyMissing { path: PathBuf },
    /// It exists outside of the mount name space of this process.
    #[error("private key '{}' exists, but is hidden from this process", path.display())]
    PrivateKeyHidden { path: PathBuf },
    #[error("cannot read private key '{}': {error}", path.display())]
    PrivateKeyUnreadable {
        path: PathBuf,
        #[serde(with = "io_error")]
        error: io::Error,
    },
    #[error("private key '{}' is accessible to others (mode {mode:04o})", path.display())]
    PrivateKeyExposed { path: PathBuf, mode: u32 },
    #[error("'{}' is not a private key: {found}", path.display())]
    NotAPrivateKey { path: PathBuf, found: String },
    #[error("private key '{}' has a passphrase, which this program cannot enter", path.display())]
    PrivateKeyEncrypted { path: PathBuf },
    #[error("private key '{}' is of type {kind}, which is not supported", path.display())]
    PrivateKeyUnsupported { path: PathBuf, kind: String },

    #[error("name does not resolve: {0}")]
    NameNotResolved(String),
    #[error("connection refused ({address})")]
    ConnectionRefused { address: String },
    #[error("{error} ({address})")]
    NoConnection {
        address: String,
        #[serde(with = "io_error")]
        error: io::Error,
    },
    #[error("proxy command '{program}': {problem}")]
    Proxy { program: String, problem: String },
    /// The phase did not end within this time.
    #[error("timed out after {}", seconds(*.0))]
    TimedOut(Duration),

    /// OpenSSH has banned the address of this host for a while (`PerSourcePenalties`), or, since 9.8, has too many
    /// logins in progress (`MaxStartups`).
    #[error("the server temporarily refuses logins from this address (\"Not allowed at this time\")")]
    TemporarilyRefused,
    /// The server has closed the connection before it sent its version. Versions of OpenSSH before 9.8 do that if too
    /// many logins are in progress (`MaxStartups`).
    #[error("the server closed the connection before the handshake{}", if *.has_reason { ": too many logins are in progress" } else { "" })]
    Dropped {
        /// Whether the server has sent this reason.
        has_reason: bool,
    },
    #[error("not an SSH server: it sent {0:?}")]
    NotSsh(String),
    #[error("the server has no host key of a pinned type ({}); it offers {}", list(pinned), list(offered))]
    NoCommonHostKeyType { pinned: Vec<HostKeyKind>, offered: Vec<String> },
    #[error("the server has no {} in common with this program; it offers {}", algorithm.name(), list(offered))]
    NoCommonAlgorithm { algorithm: Algorithm, offered: Vec<String>, known: Vec<String> },
    #[error("the server sent an invalid host key: {0}")]
    BadHostKey(HostKeyError),
    #[error("the server shows another host key than expected: {fingerprint}")]
    HostKeyDiffers {
        /// The key of the server, in OpenSSH form, as `host_key` would pin it.
        offered: String,
        /// `SHA256:…`, as OpenSSH prints it.
        fingerprint: String,
    },
    #[error("user '{user}' may not log in with key '{}'", key.display())]
    UserKeyRefused {
        user: String,
        key: PathBuf,
        /// The key's line for `authorized_keys`.
        public_key: String,
    },
    /// The key is not the reason: the server has accepted it.
    #[error("the server accepts key '{}' for user '{user}', but still refuses the login", key.display())]
    LoginRefused { user: String, key: PathBuf },
    #[error("the server accepts key '{}' for user '{user}', but also requires {}", key.display(), list(methods))]
    MoreMethodsRequired { user: String, key: PathBuf, methods: Vec<String> },
    #[error("the server allows user '{user}' to log in with {}, but not with a key", or_nothing(methods))]
    KeyLoginDisabled { user: String, methods: Vec<String> },
    #[error("private key '{}' cannot sign: {problem}", path.display())]
    CannotSign { path: PathBuf, problem: String },

    #[error("cannot connect to socket '{socket}': {reason}")]
    SocketRefused { socket: String, reason: String },
    #[error("the server refuses to run commands for this user: {0}")]
    CommandRefused(String),

    /// No byte arrived for this time, not even a reply to a keep-alive request.
    #[error("the link is dead: nothing arrived for {}", seconds(*.0))]
    LinkDead(Duration),
    #[error("the connection was closed by the other side")]
    Closed,
    /// The server sent SSH_MSG_DISCONNECT before the end of the login.
    #[error("the server ended the connection: {0:?}")]
    Disconnected(String),
    /// The connection is open, but libssh2 has rejected a message.
    #[error("the server sent a message that is damaged, or longer than the {} KiB that libssh2 accepts", MAX_SERVER_MESSAGE >> 10)]
    MessageInvalid,
    /// The other side has closed the channel. The session may still be open.
    #[error("the other end of the channel is closed")]
    ChannelClosed,
    /// The deadline of the caller has passed.
    #[error("the time limit has passed")]
    Deadline,
    /// An earlier failure has left the session in a state in which libssh2 cannot continue.
    #[error("the connection is unusable after an earlier failure")]
    Unusable,
    /// The server sent more than this number of bytes before the login.
    #[error("the server sent more than {} KiB before the login", .0 >> 10)]
    TooMuchBeforeLogin(u64),
    #[error("the server keeps sending unrequested data")]
    TooMuchUnrequested,
    #[error("more than {0} bytes of output")]
    TooMuchOutput(usize),
    /// Any other error of libssh2.
    #[error("{message} (libssh2 error {code})")]
    Ssh { code: i32, message: String },
    #[error("{0}")]
    Io(
        #[from]
        #[serde(with = "io_error")]
        io::Error,
    ),
}

impl Error {
    pub(crate) fn new(machine: &Machine, phase: Phase, cause: impl Into<Cause>) -> Error {
        Error { machine: machine.address(), phase, cause: cause.into() }
    }

    /// Returns an error of the machine `machine`, `NAME:PORT`.
    pub(crate) fn of(machine: &str, phase: Phase, cause: Cause) -> Error {
        Error { machine: machine.to_owned(), phase, cause }
    }

    /// Returns a copy, as another process would receive it.
    pub(crate) fn copy(&self) -> Error {
        let copied = serde_json::to_value(self).and_then(serde_json::from_value);
        copied.unwrap_or_else(|error: serde_json::Error| {
            Error::of(&self.machine, self.phase, Cause::Io(io::Error::other(error.to_string())))
        })
    }

    /// Returns the error of this module inside an error of [`io`], if there is one.
    pub fn in_io(error: &io::Error) -> Option<&Error> {
        error.get_ref()?.downcast_ref()
    }

    /// Turns the error into one of a read or a write, with the nearest kind: `closed` if the connection or the channel
    /// is closed.
    pub(crate) fn into_io(self, closed: io::ErrorKind) -> io::Error {
        let kind = match &self.cause {
            Cause::Closed | Cause::Disconnected(_) | Cause::ChannelClosed | Cause::Unusable => closed,
            Cause::LinkDead(_) | Cause::Deadline | Cause::TimedOut(_) => io::ErrorKind::TimedOut,
            Cause::Io(error) => error.kind(),
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, self)
    }
}

/// Returns the items, separated by commas.
pub(super) fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn or_nothing(methods: &[String]) -> String {
    if methods.is_empty() { "nothing".to_owned() } else { list(methods) }
}

/// Returns a time in seconds, with one decimal place.
fn seconds(time: Duration) -> String {
    format!("{} s", (time.as_secs_f64() * 10.0).round() / 10.0)
}

/// The serialized form of an [`io::Error`]: its number, if it has one, and its text.
mod io_error {
    use std::io;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(error: &io::Error, serializer: S) -> Result<S::Ok, S::Error> {
        (error.raw_os_error(), error.to_string()).serialize(serializer)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(deserializer: D) -> Result<io::Error, D::Error> {
        let (number, text) = <(Option<i32>, String)>::deserialize(deserializer)?;
        Ok(number.map_or_else(|| io::Error::other(text), io::Error::from_raw_os_error))
    }
}
