//! The reasons why a text is not a host key, and their hints.

use crate::machine::HostKeyKind;

use serde::{Deserialize, Serialize};

/// The shortest RSA key that is accepted, in bits. NIST SP 800-131A disallows shorter ones.
pub(super) const MIN_RSA_BITS: usize = 2048;

/// The types of host key, as an error message lists them.
pub const HOST_KEY_TYPES: &str =
    "ssh-ed25519, ecdsa-sha2-nistp256, ecdsa-sha2-nistp384, ecdsa-sha2-nistp521 or ssh-rsa";

/// The reason why a text is not a host key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum HostKeyError {
    #[error("expected a host key in OpenSSH form, \"ssh-ed25519 AAAA…\", found an empty string")]
    Empty,
    #[error("expected a host key in OpenSSH form, \"ssh-ed25519 AAAA…\", found {0} bytes")]
    TooLong(usize),
    #[error("expected a public host key, found a private key")]
    PrivateKey,
    #[error("expected a public host key, found a fingerprint")]
    Fingerprint,
    #[error("expected a host key alone, \"TYPE BASE64\", found a line of a known_hosts file")]
    KnownHostsLine {
        /// The key in it, in OpenSSH form.
        key: Option<String>,
    },
    #[error("expected a host key, found a line of a known_hosts file that is marked '{0}'")]
    Marked(String),
    #[error("expected a host key, found a comment")]
    Comment,
    #[error("expected one host key, found {} keys in one string", .0.len())]
    Several(Vec<String>),
    #[error("expected a host key on one line, found {0} lines")]
    Lines(usize),
    #[error("expected a host key, found one in quotes, or with something else around it")]
    Wrapped {
        /// The key in it, in OpenSSH form.
        key: String,
    },
    #[error("expected a host key, \"TYPE BASE64\", found the part in base64 alone")]
    NoType {
        /// The key with its type.
        key: String,
    },
    #[error("expected a host key, found the name of a file")]
    FileName,
    #[error("expected a host key in OpenSSH form, \"ssh-ed25519 AAAA…\", found a key in another form")]
    OtherForm,
    #[error("expected a host key of SSH, found a signing key of Guix")]
    SigningKey,
    #[error("expected a host key of type {HOST_KEY_TYPES}, found '{0}'")]
    UnknownType(String),
    #[error("the {0} host key has no base64 part after its type")]
    NoKey(HostKeyKind),
    #[error("the base64 part of the {0} host key is damaged")]
    Base64(HostKeyKind),
    #[error("the host key says it is {stated}, but holds a key of type '{holds}'")]
    Mismatch { stated: HostKeyKind, holds: String },
    #[error("the {0} host key is cut short or damaged")]
    Damaged(HostKeyKind),
    #[error("the RSA host key has {0} bits; at least {MIN_RSA_BITS} are needed")]
    Short(usize),
}

/// The sources of a key in the accepted form. `ssh-keyscan` is not one, because it prints a host name before the key.
const WHERE: &str =
    "`offload add HOST` prints the key, and it is in /etc/ssh/ssh_host_ed25519_key.pub on the build machine";

impl HostKeyError {
    /// Returns the fix. A text that the hint proposes is a valid host key.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            HostKeyError::Empty | HostKeyError::Comment | HostKeyError::SigningKey => WHERE.to_owned(),
            HostKeyError::PrivateKey => {
                "give the content of the .pub file of the build machine, such as /etc/ssh/ssh_host_ed25519_key.pub".to_owned()
            }
            HostKeyError::Fingerprint => format!("the key itself is needed: {WHERE}"),
            HostKeyError::KnownHostsLine { key: Some(key) }
            | HostKeyError::Wrapped { key }
            | HostKeyError::NoType { key } => format!("write \"{key}\""),
            HostKeyError::KnownHostsLine { key: None } => format!("leave out the host name in front; {WHERE}"),
            HostKeyError::Marked(marker) if marker == "@revoked" => "that key must not be used any more".to_owned(),
            HostKeyError::Marked(_) => format!("certificates are not supported; the host's own key is needed: {WHERE}"),
            HostKeyError::Several(keys) => {
                let keys: Vec<String> = keys.iter().map(|key| format!("\"{key}\"")).collect();
                format!("write a list: {{ {} }}", keys.join(", "))
            }
            HostKeyError::Lines(_) => format!("write the key on one line, and several keys as a list; {WHERE}"),
            HostKeyError::FileName => {
                "give the content of that file, or offload.read_file(\"FILE\") if it is on this machine".to_owned()
            }
            HostKeyError::OtherForm => "`ssh-keygen -i -f FILE` prints it in OpenSSH form".to_owned(),
            HostKeyError::UnknownType(kind) => return self.hint_for_type(kind),
            HostKeyError::NoKey(_) | HostKeyError::Base64(_) | HostKeyError::Damaged(_) => {
                "copy the whole line of the .pub file again".to_owned()
            }
            HostKeyError::Mismatch { .. } => format!("copy the whole line of the .pub file again; {WHERE}"),
            HostKeyError::Short(_) => {
                "use the machine's Ed25519 key, /etc/ssh/ssh_host_ed25519_key.pub; as root there, `ssh-keygen -A` makes it".to_owned()
            }
            HostKeyError::TooLong(_) => return None,
        };
        Some(hint)
    }

    fn hint_for_type(&self, kind: &str) -> Option<String> {
        let hint = if kind.contains("-cert-v01@") {
            format!("certificates are not supported: give the host key itself. {WHERE}")
        } else if kind.starts_with("rsa-sha2-") {
            "that is a kind of signature; the type of an RSA key is ssh-rsa".to_owned()
        } else {
            WHERE.to_owned()
        };
        Some(hint)
    }
}
