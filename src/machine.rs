//! What a build machine is: its fields, their defaults, and what makes them valid.
//!
//! The fields are those of Guix's `build-machine` record ("Daemon Offload Setup" in the manual) with underscores, and
//! the ones that `offload` adds. Everything here is pure: whether a key file exists or a host answers is found out by
//! those who use the machine (`ssh/`, `remote/`). How a machine file becomes values of this type is `policy/`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod host_key;
mod known_hosts;
mod name;

pub use host_key::{HOST_KEY_TYPES, HostKeyError};
pub use known_hosts::known_hosts;
pub use name::{NameFault, check_name};

/// A build machine, as one entry of the machine file describes it. [`Machine::new`] has the defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// Host name or address; what the resolver is given.
    pub name: String,
    /// TCP port of its SSH server.
    pub port: u16,
    /// The account to log in as.
    pub user: String,
    /// System types it builds for, such as `x86_64-linux`. Never empty.
    pub systems: Vec<String>,
    /// The host keys it may show. Never empty.
    pub host_keys: Vec<HostKey>,
    /// The private key that opens the account; `None`: the first of `~/.ssh/id_ed25519`, `id_ecdsa`, `id_rsa`.
    pub private_key: Option<PathBuf>,
    /// Where its daemon listens.
    pub daemon_socket: PathBuf,
    /// Compression of the SSH transport.
    pub compression: Compression,
    /// Builds it takes at the same time: its build slots.
    pub parallel_builds: u32,
    /// Relative speed, above 0.
    pub speed: f64,
    /// Features it offers; a derivation's `requiredSystemFeatures` must be among them.
    pub features: Vec<String>,
    /// One-minute load over cores above which it is passed over; `None` ignores the load.
    pub overload_threshold: Option<f64>,
    /// Bytes that must be free in its store.
    pub minimum_disk_space: u64,
    /// Limit for name resolution, TCP, key exchange and authentication together.
    pub connect_timeout: Duration,
    /// How long the link may bring no byte at all before it counts as dead; less than 3 s counts as 3 s.
    pub stall_timeout: Duration,
    /// How often a keep-alive question is sent over a link that is otherwise silent.
    pub keepalive_interval: Duration,
    /// How long a connection is kept open after a build, for the next one; `None`: it is not kept.
    pub keep_connection: Option<Duration>,
    /// Uploads at the same time, and downloads at the same time.
    pub max_transfers: u32,
    /// False: never chosen.
    pub enabled: bool,
    /// A program whose standard input and output carry the SSH connection; `%h` and `%p` are replaced. No shell.
    pub proxy_command: Option<Vec<String>>,
    /// Whether its daemon may fetch inputs from substitute servers.
    pub use_substitutes: bool,
    /// What the author of the machine file notes of it: JSON under names of theirs.
    pub tags: serde_json::Map<String, serde_json::Value>,
}

impl Machine {
    /// A machine with the required fields given and the defaults for the rest.
    pub fn new(name: &str, user: &str, systems: Vec<String>, host_keys: Vec<HostKey>) -> Machine {
        Machine {
            name: name.to_owned(),
            port: 22,
            user: user.to_owned(),
            systems,
            host_keys,
            private_key: None,
            daemon_socket: PathBuf::from("/var/guix/daemon-socket/socket"),
            compression: Compression::Auto,
            parallel_builds: 1,
            speed: 1.0,
            features: Vec::new(),
            overload_threshold: Some(0.8),
            minimum_disk_space: 100 << 20,
            connect_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(60),
            keepalive_interval: Duration::from_secs(15),
            keep_connection: Some(Duration::from_secs(30)),
            max_transfers: 4,
            enabled: true,
            proxy_command: None,
            use_substitutes: true,
            tags: serde_json::Map::new(),
        }
    }

    /// `NAME:PORT`, by which entries for the same host share slots and other state.
    pub fn address(&self) -> String {
        format!("{}:{}", self.name, self.port)
    }
}

/// Compression of the SSH transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Decided by `offload`.
    Auto,
    None,
    Zlib,
}

/// The directions in which a connection is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compressed {
    pub sending: bool,
    pub receiving: bool,
}

impl Compression {
    /// The directions that are to be compressed; `auto` leaves it to `experience`.
    pub fn directions(self, experience: impl FnOnce() -> Compressed) -> Compressed {
        match self {
            Compression::Auto => experience(),
            Compression::None => Compressed::default(),
            Compression::Zlib => Compressed { sending: true, receiving: true },
        }
    }

    /// The word for it in a machine file.
    pub fn name(self) -> &'static str {
        match self {
            Compression::Auto => "auto",
            Compression::None => "none",
            Compression::Zlib => "zlib",
        }
    }
}

/// A public key that identifies an SSH server.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKey {
    pub kind: HostKeyKind,
    /// The key in the encoding of RFC 4253, section 6.6: what the base64 part of the OpenSSH form holds.
    pub blob: Vec<u8>,
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostKey({}, {} bytes)", self.kind, self.blob.len())
    }
}

/// The types of host key that can be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HostKeyKind {
    Ed25519,
    EcdsaP256,
    EcdsaP384,
    EcdsaP521,
    Rsa,
}

impl HostKeyKind {
    /// The name in the OpenSSH form of a key.
    pub fn name(self) -> &'static str {
        match self {
            HostKeyKind::Ed25519 => "ssh-ed25519",
            HostKeyKind::EcdsaP256 => "ecdsa-sha2-nistp256",
            HostKeyKind::EcdsaP384 => "ecdsa-sha2-nistp384",
            HostKeyKind::EcdsaP521 => "ecdsa-sha2-nistp521",
            HostKeyKind::Rsa => "ssh-rsa",
        }
    }
}

impl fmt::Display for HostKeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
