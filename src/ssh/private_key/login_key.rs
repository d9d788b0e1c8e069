//! A private key with the SSH encoding of its public key and of its signatures (RFC 4253, 5656, 8332, 8709).

use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::encoding::{fixed, string, write_number, write_string};
use crate::gcrypt::{Curve, Message, Secret, UserKey};

/// A private key that can sign. The key itself is in libgcrypt's secure memory.
pub(super) struct LoginKey {
    key: UserKey,
    kind: KeyKind,
    /// The public key, in the encoding of the protocol.
    public: Vec<u8>,
}

#[derive(Clone, Copy)]
enum KeyKind {
    Ed25519,
    Ecdsa(Curve),
    Rsa {
        /// The length of the modulus, in bytes.
        size: usize,
    },
}

impl LoginKey {
    /// Creates the key from its parts. The error is a message.
    pub fn new(secret: &Secret<'_>) -> Result<LoginKey, String> {
        let key = UserKey::new(secret)?;
        let mut public = Vec::new();
        let kind = match *secret {
            Secret::Ed25519 { public: known, .. } => {
                write_string(&mut public, b"ssh-ed25519");
                write_string(&mut public, &point(&key, known)?);
                KeyKind::Ed25519
            }
            Secret::Ecdsa { curve, public: known, .. } => {
                let name = name(curve);
                write_string(&mut public, format!("ecdsa-sha2-{name}").as_bytes());
                write_string(&mut public, name.as_bytes());
                write_string(&mut public, &point(&key, known)?);
                KeyKind::Ecdsa(curve)
            }
            Secret::Rsa { n, e, .. } => {
                write_string(&mut public, b"ssh-rsa");
                write_number(&mut public, e);
                write_number(&mut public, n);
                KeyKind::Rsa { size: n.iter().skip_while(|byte| **byte == 0).count() }
            }
        };
        Ok(LoginKey { key, kind, public })
    }

    /// Returns the public key, in the encoding of the protocol.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Returns the signature of the data of a login (RFC 4252, section 7), without the name of its algorithm. The data
    /// contains that name. The error is a message.
    pub fn sign(&self, data: &[u8]) -> Result<Vec<u8>, String> {
        let unexpected = || "libgcrypt made a signature of an unexpected type".to_owned();
        match self.kind {
            KeyKind::Ed25519 => {
                // The signature consists of two byte strings, not of numbers.
                let signature = self.key.sign(&Message::Whole(data))?.concat();
                if signature.len() == 64 { Ok(signature) } else { Err(unexpected()) }
            }
            KeyKind::Ecdsa(curve) => {
                let (name, hash) = match curve {
                    Curve::P256 => ("sha256", Sha256::digest(data).to_vec()),
                    Curve::P384 => ("sha384", Sha384::digest(data).to_vec()),
                    Curve::P521 => ("sha512", Sha512::digest(data).to_vec()),
                };
                let numbers = self.key.sign(&Message::Hash(name, &hash))?;
                let mut signature = Vec::new();
                numbers.iter().for_each(|number| write_number(&mut signature, number));
                if numbers.len() == 2 { Ok(signature) } else { Err(unexpected()) }
            }
            KeyKind::Rsa { size } => {
                let (name, hash) = match algorithm(data) {
                    Some(b"rsa-sha2-512") => ("sha512", Sha512::digest(data).to_vec()),
                    Some(b"rsa-sha2-256") => ("sha256", Sha256::digest(data).to_vec()),
                    Some(b"ssh-rsa") => ("sha1", Sha1::digest(data).to_vec()),
                    _ => return Err("the server requests a signature of an unknown type".to_owned()),
                };
                let numbers = self.key.sign(&Message::Hash(name, &hash))?;
                numbers.first().and_then(|number| fixed(number, size)).ok_or_else(unexpected)
            }
        }
    }
}

/// Returns the public point of a key over an elliptic curve: the known one, or else a computed one, which takes as long
/// as a signature.
fn point(key: &UserKey, known: Option<&[u8]>) -> Result<Vec<u8>, String> {
    known.map_or_else(|| key.public_point(), |known| Ok(known.to_vec()))
}

/// Returns the name of a curve in SSH.
fn name(curve: Curve) -> &'static str {
    match curve {
        Curve::P256 => "nistp256",
        Curve::P384 => "nistp384",
        Curve::P521 => "nistp521",
    }
}

/// Returns the signature algorithm in the data of a login. The data is: session, message number, user, service,
/// `publickey`, true, algorithm.
fn algorithm(data: &[u8]) -> Option<&[u8]> {
    let (_session, rest) = string(data)?;
    let (_user, rest) = string(rest.get(1..)?)?;
    let (_service, rest) = string(rest)?;
    let (_method, rest) = string(rest)?;
    let (algorithm, _) = string(rest.get(1..)?)?;
    Some(algorithm)
}
