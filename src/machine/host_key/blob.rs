//! The base64 part of a host key: the key in the encoding of RFC 4253, section 6.6 (RSA), RFC 5656, section 3.1 (ECDSA)
//! and RFC 8709, section 4 (Ed25519).
//!
//! The encoding is a list of fields with their lengths, and the first field repeats the type. Types and lengths are checked
//! here, which detects a key that was damaged while it was copied. Whether a point is on its curve is not checked.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use super::error::{HostKeyError, MIN_RSA_BITS};
use crate::machine::{HostKey, HostKeyKind};

impl HostKeyKind {
    /// Every type that can be pinned.
    pub const ALL: [HostKeyKind; 5] = [
        HostKeyKind::Ed25519,
        HostKeyKind::EcdsaP256,
        HostKeyKind::EcdsaP384,
        HostKeyKind::EcdsaP521,
        HostKeyKind::Rsa,
    ];

    /// Returns the type with this name in the OpenSSH form.
    pub fn from_name(name: &str) -> Option<HostKeyKind> {
        HostKeyKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl HostKey {
    /// Reads a key from its encoding.
    pub(super) fn from_blob(blob: Vec<u8>) -> Option<HostKey> {
        let name = field(&mut blob.as_slice())?.to_vec();
        let kind = HostKeyKind::ALL.into_iter().find(|kind| kind.name().as_bytes() == name)?;
        check(kind, &blob).ok()?;
        Some(HostKey { kind, blob })
    }

    /// Returns the key in OpenSSH form, without a comment.
    pub fn to_openssh(&self) -> String {
        format!("{} {}", self.kind, STANDARD.encode(&self.blob))
    }
}

pub(super) fn decode(encoded: &str) -> Option<Vec<u8>> {
    STANDARD.decode(encoded).or_else(|_| STANDARD_NO_PAD.decode(encoded)).ok()
}

/// Checks the fields of a key's encoding.
pub(super) fn check(kind: HostKeyKind, blob: &[u8]) -> Result<(), HostKeyError> {
    let damaged = HostKeyError::Damaged(kind);
    let mut rest = blob;
    let name = field(&mut rest).ok_or(damaged.clone())?;
    if name != kind.name().as_bytes() {
        let holds = String::from_utf8_lossy(name).chars().take(40).collect();
        return Err(HostKeyError::Mismatch { stated: kind, holds });
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
        if bits < MIN_RSA_BITS {
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
