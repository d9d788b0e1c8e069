//! Host keys in OpenSSH form: `TYPE BASE64 [COMMENT]`, the form of `/etc/ssh/ssh_host_*_key.pub`.
//!
//! The base64 part holds the key in the encoding of RFC 4253, section 6.6 (RSA), RFC 5656, section 3.1 (ECDSA) and
//! RFC 8709, section 4 (Ed25519): length-prefixed fields of which the first repeats the type. The types and the
//! lengths of the fields are checked here, to catch a key that was cut or mixed up while it was copied; whether a
//! point lies on its curve is not.

mod error;
mod mistakes;

use super::{HostKey, HostKeyKind};
pub use error::{HOST_KEY_TYPES, HostKeyError};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest as _, Sha256};

/// The shortest RSA key that is accepted, in bits. NIST SP 800-131A disallows shorter ones.
pub(super) const RSA_BITS: usize = 2048;
/// No key of the supported types comes near this many characters.
const MAX_LENGTH: usize = 8192;

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
        let mut words = text.split_ascii_whitespace();
        let kind = words.next().and_then(HostKeyKind::from_name);
        let Some(kind) = kind.filter(|_| !text.contains('\n')) else { return Err(mistakes::find(text)) };
        let encoded = words.next();
        let encoded = encoded.ok_or(HostKeyError::NoKey(kind))?;
        let blob = decode(encoded).ok_or_else(|| match mistakes::keys_in(text).is_empty() {
            true => HostKeyError::Base64(kind),
            false => mistakes::find(text),
        })?;
        check(kind, &blob)?;
        // What follows is a comment, unless it is another key.
        if words.any(|word| HostKeyKind::from_name(word).is_some()) && mistakes::keys_in(text).len() > 1 {
            return Err(mistakes::find(text));
        }
        Ok(HostKey { kind, blob })
    }

    /// The key whose encoding this is.
    fn from_blob(blob: Vec<u8>) -> Option<HostKey> {
        let name = field(&mut blob.as_slice())?.to_vec();
        let kind = HostKeyKind::ALL.into_iter().find(|kind| kind.name().as_bytes() == name)?;
        check(kind, &blob).ok()?;
        Some(HostKey { kind, blob })
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

fn decode(encoded: &str) -> Option<Vec<u8>> {
    STANDARD.decode(encoded).or_else(|_| STANDARD_NO_PAD.decode(encoded)).ok()
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
