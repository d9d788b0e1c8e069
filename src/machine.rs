//! A build machine: its fields, their defaults, and their valid values.
//!
//! The fields are those of Guix's `build-machine` record ("Daemon Offload Setup" in the manual) with underscores, and
//! those that `offload` adds. Everything here is pure: the users of a machine (`ssh/`, `remote/`) find out whether a
//! key file exists or a host responds. `machine_file/` reads values of this type from a machine file.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod host_key;
mod known_hosts;
mod name;
mod on_demand;
mod shared;
mod started_as;

pub use host_key::{HOST_KEY_TYPES, HostKeyError};
pub use known_hosts::{KnownHosts, known_hosts};
pub use name::{NameFault, canonical_name, check_name, is_feature_name, label};
pub use on_demand::{Action, OnDemand, PoolLimits};
pub use shared::{EngineUrl, SharedPool, TlsMode, UrlError, WhenDown};
pub use started_as::StartedAs;

/// A build machine, as one entry of the machine file describes it. [`Machine::new`] has the defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// The host name or address, for the resolver.
    pub name: String,
    /// TCP port of its SSH server.
    pub port: u16,
    /// The name and the port to connect to; `None`: its own. A machine that was started may have others.
    pub contact: Option<(String, u16)>,
    /// The account to log in as.
    pub user: String,
    /// The system types it builds for, such as `x86_64-linux`. Never empty.
    pub systems: Vec<String>,
    /// The allowed host keys. Empty only if the function that starts the machine returns them.
    pub host_keys: Vec<HostKey>,
    /// The private key of the account; `None`: the first of `~/.ssh/id_ed25519`, `id_ecdsa`, `id_rsa`.
    pub private_key: Option<PathBuf>,
    /// The socket on which its daemon listens.
    pub daemon_socket: PathBuf,
    /// Compression of the SSH transport.
    pub compression: Compression,
    /// The number of builds that may run at the same time: its build slots.
    pub parallel_builds: u32,
    /// Relative speed, above 0.
    pub speed: f64,
    /// Features it offers; a derivation's `requiredSystemFeatures` must be among them.
    pub features: Vec<String>,
    /// The one-minute load over cores above which it is skipped; `None` ignores the load.
    pub overload_threshold: Option<f64>,
    /// The bytes that must be free in its store.
    pub minimum_disk_space: u64,
    /// The time limit of name resolution, TCP, key exchange and authentication together.
    pub connect_timeout: Duration,
    /// The time without a byte from the link after which it counts as lost; less than 3 s counts as 3 s.
    pub stall_timeout: Duration,
    /// The interval at which a keep-alive request is sent over a silent link.
    pub keepalive_interval: Duration,
    /// The time that a connection persists after a build; `None`: it does not persist.
    pub keep_connection: Option<Duration>,
    /// The limit of simultaneous uploads, and of simultaneous downloads.
    pub max_transfers: u32,
    /// Whether it may be chosen.
    pub enabled: bool,
    /// A program that carries the SSH connection on its standard input and output; `%h` and `%p` are replaced. No
    /// shell.
    pub proxy_command: Option<Vec<String>>,
    /// Whether its daemon fetches inputs from substitute servers.
    pub substitutes: Substitutes,
    /// The substitute servers for these inputs; empty: the daemon's own.
    pub substitute_urls: Vec<String>,
    /// The longest time that a substitute server may delay a build.
    pub substitute_timeout: Duration,
    /// How it is started and stopped; `None`: it always runs.
    pub on_demand: Option<OnDemand>,
    /// Notes of the machine file's author: JSON under their own names.
    pub tags: serde_json::Map<String, serde_json::Value>,
}

impl Machine {
    /// Returns a machine with these required fields and defaults for the rest.
    pub fn new(name: &str, user: &str, systems: Vec<String>, host_keys: Vec<HostKey>) -> Machine {
        Machine {
            name: name.to_owned(),
            port: 22,
            contact: None,
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
            substitutes: Substitutes::Auto,
            substitute_urls: Vec::new(),
            substitute_timeout: Duration::from_secs(60),
            on_demand: None,
            tags: serde_json::Map::new(),
        }
    }

    /// Returns `NAME:PORT`. Entries for the same host share slots and other state by this name, however they spell it.
    pub fn address(&self) -> String {
        format!("{}:{}", canonical_name(&self.name), self.port)
    }

    /// Returns the name and the port to connect to.
    pub fn contact(&self) -> (&str, u16) {
        self.contact.as_ref().map_or((&self.name, self.port), |(name, port)| (name, *port))
    }

    /// Whether `text` is its name or its `NAME:PORT`, in any spelling.
    pub fn is_called(&self, text: &str) -> bool {
        let with_port = |(name, port)| format!("{}:{port}", canonical_name(name)) == self.address();
        canonical_name(text) == canonical_name(&self.name) || text.rsplit_once(':').is_some_and(with_port)
    }
}

/// Compression of the SSH transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// `offload` decides.
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
    /// Returns the directions to compress; `auto` uses `experience`.
    pub fn directions(self, experience: impl FnOnce() -> Compressed) -> Compressed {
        match self {
            Compression::Auto => experience(),
            Compression::None => Compressed::default(),
            Compression::Zlib => Compressed { sending: true, receiving: true },
        }
    }

    /// Returns its name in a machine file.
    pub fn name(self) -> &'static str {
        match self {
            Compression::Auto => "auto",
            Compression::None => "none",
            Compression::Zlib => "zlib",
        }
    }
}

/// Whether a machine's daemon fetches missing inputs from substitute servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Substitutes {
    /// Where uploading them would take long.
    Auto,
    Always,
    Never,
}

impl Substitutes {
    /// Returns its name in a machine file.
    pub fn name(self) -> &'static str {
        match self {
            Substitutes::Auto => "auto",
            Substitutes::Always => "always",
            Substitutes::Never => "never",
        }
    }
}

/// A public key that identifies an SSH server.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKey {
    pub kind: HostKeyKind,
    /// The key in the encoding of RFC 4253, section 6.6: the base64 part of the OpenSSH form.
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
    /// Returns the name in the OpenSSH form of a key.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_called_by_any_spelling_of_its_name() {
        let machine = Machine { port: 2022, ..Machine::new("Good.lan", "u", Vec::new(), Vec::new()) };
        assert_eq!(machine.address(), "good.lan:2022");
        for text in ["Good.lan", "good.lan", "good.lan.", "good.lan:2022", "GOOD.lan.:2022"] {
            assert!(machine.is_called(text), "{text}");
        }
        for text in ["good.lan:22", "good", "good.lan:", ":2022", ""] {
            assert!(!machine.is_called(text), "{text}");
        }
        let address = Machine::new("2001:DB8::7", "u", Vec::new(), Vec::new());
        assert!(
            address.is_called("2001:db8:0::7")
                && address.is_called("2001:db8::7:22")
                && !address.is_called("2001:db8::")
        );
    }
}
