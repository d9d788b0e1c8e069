//! What can go wrong with an SSH connection: which machine, in which phase, why, and what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::machine::{HostKeyError, HostKeyKind, Machine};

/// The longest message that libssh2 takes, in bytes (`LIBSSH2_PACKET_MAXPAYLOAD`). OpenSSH sends longer ones: the text of
/// a `Banner`.
const MAX_SERVER_MESSAGE: usize = 40_000;

/// A failure of the connection to one machine.
///
/// Reads and writes of a [`Channel`](super::Channel) give an [`io::Error`] that has this as its inner error
/// ([`Error::in_io`] finds it). It crosses from the process that owns a session to those that use it.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{machine}: {phase}: {cause}")]
pub struct Error {
    /// `NAME:PORT`.
    pub machine: String,
    pub phase: Phase,
    pub cause: Cause,
}

/// How far the connection had come.
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

/// What a server and a client have to agree on.
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

    /// The word for it in sshd_config.
    pub(super) fn setting(self) -> &'static str {
        match self {
            Algorithm::KeyExchange => "KexAlgorithms",
            Algorithm::Cipher => "Ciphers",
            Algorithm::Mac => "MACs",
        }
    }
}

/// What went wrong.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Cause {
    #[error("none of the default private keys exists ({})", list(tried.iter().map(|path| path.display())))]
    NoPrivateKey { tried: Vec<PathBuf> },
    #[error("no home directory is known for the effective user, so there is no default private key")]
    NoHome,
    #[error("private key '{}' does not exist", path.display())]
    PrivateKeyMissing { path: PathBuf },
    /// It exists outside of the mount name space of this process.
    #[error("private key '{}' exists, and is hidden from this process", path.display())]
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
    #[error("private key '{}' is protected by a passphrase, which nobody is there to type", path.display())]
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
    /// A phase that lasted too long; after which time.
    #[error("timed out after {}", seconds(*.0))]
    TimedOut(Duration),

    /// OpenSSH's `PerSourcePenalties`: this host's address is banned for a while. Or, since 9.8, its `MaxStartups`.
    #[error("the server lets nobody in from here for the time being (\"Not allowed at this time\")")]
    NotAllowedNow,
    /// The `MaxStartups` of older versions, as far as it can be told.
    #[error("the server closed the connection without a word{}", if *.said { ": too many are waiting to log in" } else { "" })]
    Dropped {
        /// Whether the server said that this is the reason.
        said: bool,
    },
    #[error("no SSH server: it says {0:?}")]
    NotSsh(String),
    #[error("the server has no host key of a type that is asked for ({}); it offers {}", list(pinned), list(offered))]
    NoCommonHostKeyType { pinned: Vec<HostKeyKind>, offered: Vec<String> },
    #[error("the server has no {} in common with this program; it offers {}", algorithm.name(), list(offered))]
    NoCommonAlgorithm { algorithm: Algorithm, offered: Vec<String>, known: Vec<String> },
    #[error("the server shows something that is no host key: {0}")]
    BadHostKey(HostKeyError),
    #[error("the server shows another host key than expected: {fingerprint}")]
    HostKeyDiffers {
        /// The key that was shown, in OpenSSH form: what `host_key` would have to be to accept it.
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
    /// The key did fit; what is in the way comes after it.
    #[error("key '{}' opens the account of '{user}', and the server still refuses the login", key.display())]
    LoginRefused { user: String, key: PathBuf },
    #[error("the server accepts key '{}' for user '{user}', and wants {} besides", key.display(), list(methods))]
    MoreWanted { user: String, key: PathBuf, methods: Vec<String> },
    #[error("the server lets user '{user}' log in with {}, and not with a key", or_nothing(methods))]
    NoLoginByKey { user: String, methods: Vec<String> },
    #[error("private key '{}' cannot sign: {problem}", path.display())]
    CannotSign { path: PathBuf, problem: String },

    #[error("no connection to socket '{socket}': {reason}")]
    SocketRefused { socket: String, reason: String },
    #[error("the server runs no command for this user: {0}")]
    CommandRefused(String),

    /// Nothing arrived for that long, keep-alive answers included.
    #[error("the link is dead: nothing arrived for {}", seconds(*.0))]
    LinkDead(Duration),
    #[error("the connection was closed by the other side")]
    Closed,
    /// With an SSH_MSG_DISCONNECT, before the login was through.
    #[error("the server ended the connection: {0:?}")]
    Disconnected(String),
    /// The connection is still there, and libssh2 cannot go on with it.
    #[error("the server sent a message that is damaged, or longer than the {} KiB that libssh2 takes", MAX_SERVER_MESSAGE >> 10)]
    MessageNotTaken,
    /// The other end of the channel is gone; the session may live on.
    #[error("the other end of the channel is closed")]
    ChannelClosed,
    /// The deadline the caller had set passed.
    #[error("the time limit has passed")]
    Deadline,
    /// The session failed before, in a way that leaves libssh2 unusable.
    #[error("the connection is out of use after an earlier failure")]
    OutOfUse,
    /// More than a server has to say until somebody is logged in, in bytes.
    #[error("the server sent more than {} KiB before the login was through", .0 >> 10)]
    TooMuchBeforeLogin(u64),
    #[error("the server keeps sending what nobody asked for")]
    TooMuchUnasked,
    #[error("more than {0} bytes of output")]
    TooMuchOutput(usize),
    /// Everything else libssh2 reports, in its words.
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

    /// An error of the machine with this address.
    pub(crate) fn of(machine: &str, phase: Phase, cause: Cause) -> Error {
        Error { machine: machine.to_owned(), phase, cause }
    }

    /// The same once more, as it would cross between processes.
    pub(crate) fn copy(&self) -> Error {
        let copied = serde_json::to_value(self).and_then(serde_json::from_value);
        copied.unwrap_or_else(|error: serde_json::Error| {
            Error::of(&self.machine, self.phase, Cause::Io(io::Error::other(error.to_string())))
        })
    }

    /// The error of this module that an error of [`io`] carries, if it does.
    pub fn in_io(error: &io::Error) -> Option<&Error> {
        error.get_ref()?.downcast_ref()
    }

    /// As an error of a read or a write, its kind the nearest one.
    pub(crate) fn into_io(self, closed: io::ErrorKind) -> io::Error {
        let kind = match &self.cause {
            Cause::Closed | Cause::Disconnected(_) | Cause::ChannelClosed | Cause::OutOfUse => closed,
            Cause::LinkDead(_) | Cause::Deadline | Cause::TimedOut(_) => io::ErrorKind::TimedOut,
            Cause::Io(error) => error.kind(),
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, self)
    }
}

pub(super) fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn or_nothing(methods: &[String]) -> String {
    if methods.is_empty() { "nothing".to_owned() } else { list(methods) }
}

fn seconds(time: Duration) -> String {
    format!("{} s", (time.as_secs_f64() * 10.0).round() / 10.0)
}

/// An error of the system, by its number where it has one, else by its text.
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
