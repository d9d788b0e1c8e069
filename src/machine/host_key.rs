//! Host keys in OpenSSH form: `TYPE BASE64 [COMMENT]`, the form of `/etc/ssh/ssh_host_*_key.pub`.
//!
//! The base64 part holds the key in the encoding of RFC 4253, section 6.6 (RSA), RFC 5656, section 3.1 (ECDSA) and
//! RFC 8709, section 4 (Ed25519): length-prefixed fields of which the first repeats the type. The types and the
//! lengths of the fields are checked here, to catch a key that was cut or mixed up while it was copied; whether a
//! point lies on its curve is not.

use super::{HostKey, HostKeyKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The types of host key, as an error message lists them.
pub const HOST_KEY_TYPES: &str =
    "ssh-ed25519, ecdsa-sha2-nistp256, ecdsa-sha2-nistp384, ecdsa-sha2-nistp521 or ssh-rsa";

/// An RSA key shorter than this is refused by the servers of our time.
const RSA_BITS: usize = 1024;
/// No key of the supported types comes near this many characters.
const MAX_LENGTH: usize = 8192;

/// Why a text is not a host key.
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
    KnownHostsLine,
    #[error("expected a host key of type {HOST_KEY_TYPES}, found '{0}'")]
    UnknownType(String),
    #[error("the {0} host key has no base64 part after its type")]
    NoKey(HostKeyKind),
    #[error("the base64 part of the {0} host key is damaged")]
    Base64(HostKeyKind),
    #[error("the host key says it is {said}, but holds a key of type '{holds}'")]
    Mismatch { said: HostKeyKind, holds: String },
    #[error("the {0} host key is cut short or damaged")]
    Damaged(HostKeyKind),
    #[error("the RSA host key has {0} bits; at least {RSA_BITS} are needed")]
    Short(usize),
}

impl HostKeyError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            HostKeyError::PrivateKey => Some(
                "give the content of the .pub file of the build machine, such as /etc/ssh/ssh_host_ed25519_key.pub",
            ),
            HostKeyError::Fingerprint => Some(
                "the key itself is needed: /etc/ssh/ssh_host_ed25519_key.pub on the build machine, or ssh-keyscan HOST",
            ),
            HostKeyError::KnownHostsLine => Some("leave out the host name in front"),
            HostKeyError::UnknownType(kind) if kind.contains("-cert-v01@") => {
                Some("certificates are not supported: give the host key itself")
            }
            HostKeyError::NoKey(_) | HostKeyError::Base64(_) | HostKeyError::Damaged(_) => {
                Some("copy the whole line of the .pub file again")
            }
            _ => None,
        }
    }
}

impl HostKeyKind {
    /// Every type that can be pinned.
    pub const ALL: [HostKeyKind; 5] = [
        HostKeyKind::Ed25519,
        HostKeyKind::EcdsaP256,
        HostKeyKind::EcdsaP384,
        HostKeyKind::EcdsaP521,
        HostKeyKind::Rsa,
    ];

    /// The type with this name in the OpenSSH form.
    pub fn from_name(name: &str) -> Option<HostKeyKind> {
        HostKeyKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl HostKey {
    /// Reads a host key in OpenSSH form; a comment may follow it.
    pub fn parse(text: &str) -> Result<HostKey, HostKeyError> {
        let text = text.trim();
        if text.len() > MAX_LENGTH {
            return Err(HostKeyError::TooLong(text.len()));
        }
        if text.contains("PRIVATE KEY-----") {
            return Err(HostKeyError::PrivateKey);
        }
        let mut words = text.split_ascii_whitespace();
        let kind_name = words.next().ok_or(HostKeyError::Empty)?;
        if kind_name.starts_with("SHA256:") || kind_name.starts_with("MD5:") {
            return Err(HostKeyError::Fingerprint);
        }
        let encoded = words.next();
        let Some(kind) = HostKeyKind::from_name(kind_name) else {
            return Err(match encoded.and_then(HostKeyKind::from_name) {
                Some(_) => HostKeyError::KnownHostsLine,
                None => HostKeyError::UnknownType(kind_name.chars().take(40).collect()),
            });
        };
        let encoded = encoded.ok_or(HostKeyError::NoKey(kind))?;
        let blob = STANDARD
            .decode(encoded)
            .or_else(|_| STANDARD_NO_PAD.decode(encoded))
            .map_err(|_| HostKeyError::Base64(kind))?;
        check(kind, &blob)?;
        Ok(HostKey { kind, blob })
    }

    /// The key in OpenSSH form, without a comment.
    pub fn to_openssh(&self) -> String {
        format!("{} {}", self.kind, STANDARD.encode(&self.blob))
    }

    /// The key's fingerprint as OpenSSH shows it: `SHA256:…`.
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&self.blob)))
    }
}

/// Checks the fields of a key's encoding.
fn check(kind: HostKeyKind, blob: &[u8]) -> Result<(), HostKeyError> {
    let damaged = HostKeyError::Damaged(kind);
    let mut rest = blob;
    let name = field(&mut rest).ok_or(damaged.clone())?;
    if name != kind.name().as_bytes() {
        let holds = String::from_utf8_lossy(name).chars().take(40).collect();
        return Err(HostKeyError::Mismatch { said: kind, holds });
    }
    let fields: Vec<&[u8]> = std::iter::from_fn(|| field(&mut rest)).take(3).collect();
    let point = |curve: &str, coordinate: usize| {
        fields.len() == 2
            && fields[0] == curve.as_bytes()
            && fields[1].len() == 1 + 2 * coordinate
            && fields[1].first() == Some(&4)
    };
    let whole = match kind {
        HostKeyKind::Ed25519 => fields.len() == 1 && fields[0].len() == 32,
        HostKeyKind::EcdsaP256 => point("nistp256", 32),
        HostKeyKind::EcdsaP384 => point("nistp384", 48),
        HostKeyKind::EcdsaP521 => point("nistp521", 66),
        HostKeyKind::Rsa => fields.len() == 2 && !fields[0].is_empty(),
    };
    if !whole || !rest.is_empty() {
        return Err(damaged);
    }
    if kind == HostKeyKind::Rsa {
        let modulus = fields[1].iter().position(|&byte| byte != 0).map_or(&[][..], |start| &fields[1][start..]);
        let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
        if bits < RSA_BITS {
            return Err(HostKeyError::Short(bits));
        }
    }
    Ok(())
}

/// Takes a field off `bytes`: its length in four bytes, most significant first, and that many bytes.
fn field<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (field, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *bytes = rest;
    Some(field)
}

#[cfg(test)]
mod tests;
