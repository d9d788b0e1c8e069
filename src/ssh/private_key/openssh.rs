//! Private keys in OpenSSH's own form (PROTOCOL.key in its source), as far as they have no passphrase.

use super::encoding::string;
use crate::gcrypt::{Curve, Secret};

const OPENSSH_MAGIC: &[u8] = b"openssh-key-v1\0";

/// A file with one key.
pub(super) struct OpenSshKey<'a> {
    cipher: &'a [u8],
    /// As a server is shown it.
    pub public: &'a [u8],
    private: &'a [u8],
}

impl OpenSshKey<'_> {
    /// The outside of a key. `bytes`: what the base64 stands for.
    pub fn parse(bytes: &[u8]) -> Option<OpenSshKey<'_>> {
        let (cipher, rest) = string(bytes.strip_prefix(OPENSSH_MAGIC)?)?;
        let (_derivation, rest) = string(rest)?;
        let (_derivation_options, rest) = string(rest)?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        if u32::from_be_bytes(*count) != 1 {
            return None;
        }
        let (public, rest) = string(rest)?;
        let (private, _) = string(rest)?;
        Some(OpenSshKey { cipher, public, private })
    }

    pub fn is_encrypted(&self) -> bool {
        self.cipher != b"none"
    }

    /// The type, as `ssh-ed25519`.
    pub fn kind(&self) -> &[u8] {
        string(self.public).map_or(b"", |(kind, _)| kind)
    }

    /// What the key consists of.
    pub fn secret(&self) -> Option<Secret<'_>> {
        // Two numbers that only the right passphrase makes equal.
        let (check, rest) = self.private.split_first_chunk::<8>()?;
        if check[..4] != check[4..] {
            return None;
        }
        let (kind, mut rest) = string(rest)?;
        let mut field = || {
            let (field, after) = string(rest)?;
            rest = after;
            Some(field)
        };
        match kind {
            b"ssh-ed25519" => {
                let [public, both] = [field()?, field()?];
                let is_whole = public.len() == 32 && both.len() == 64;
                is_whole.then_some(Secret::Ed25519 { seed: both.get(..32)?, public: Some(public) })
            }
            b"ssh-rsa" => {
                let [n, e, d, inverse, p, q] = [field()?, field()?, field()?, field()?, field()?, field()?];
                Some(Secret::Rsa { n, e, d, p, q, inverse })
            }
            kind => {
                let curve = match kind {
                    b"ecdsa-sha2-nistp256" => Curve::P256,
                    b"ecdsa-sha2-nistp384" => Curve::P384,
                    b"ecdsa-sha2-nistp521" => Curve::P521,
                    _ => return None,
                };
                let [_name, public, d] = [field()?, field()?, field()?];
                Some(Secret::Ecdsa { curve, d, public: Some(public) })
            }
        }
    }
}
