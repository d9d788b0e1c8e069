//! Parses private keys in OpenSSH's own format (PROTOCOL.key in its source) that have no passphrase.

use super::encoding::string;
use crate::gcrypt::{Curve, Secret};

const OPENSSH_MAGIC: &[u8] = b"openssh-key-v1\0";

/// A key file with one key.
pub(super) struct OpenSshKey<'a> {
    cipher: &'a [u8],
    /// The public key, in the encoding of the protocol.
    pub public: &'a [u8],
    private: &'a [u8],
}

impl OpenSshKey<'_> {
    /// Parses the fields of a key file that are not encrypted. `bytes` is the decoded base64 text.
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

    /// Returns the type, such as `ssh-ed25519`.
    pub fn kind(&self) -> &[u8] {
        string(self.public).map_or(b"", |(kind, _)| kind)
    }

    /// Returns the parts of the private key; `None` if it is damaged or of an unknown type.
    pub fn secret(&self) -> Option<Secret<'_>> {
        // These two numbers are equal only after decryption with the right passphrase.
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
