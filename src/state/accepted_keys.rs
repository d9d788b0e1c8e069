//! The keys whose signatures this machine has accepted. They distinguish a revoked key from one that was never
//! authorized.
//!
//! The record `accepted-keys` has a hash of each, the most recently used last. It only changes the text of a message:
//! the access-control list alone decides whether a key is authorized.

use sha2::{Digest, Sha256};

use super::json_record::JsonRecord;
use super::{StateDirectory, StateError};
use crate::store::base16;
use crate::store::signature::PublicKey;

/// The number of keys that are remembered.
const MAX_ACCEPTED_KEYS: usize = 200;

/// The keys that were accepted.
pub struct AcceptedKeys(JsonRecord<Vec<String>>);

impl AcceptedKeys {
    pub fn of(state: &StateDirectory) -> Result<AcceptedKeys, StateError> {
        Ok(AcceptedKeys(JsonRecord::shared(state, "accepted-keys")?))
    }

    /// Returns whether a signature by this key was accepted before.
    pub fn has(&self, key: &PublicKey) -> bool {
        self.0.read().is_some_and(|keys| keys.contains(&hash(key)))
    }

    /// Records that signatures by this key are accepted.
    pub fn remember(&self, key: &PublicKey) -> Result<(), StateError> {
        if self.has(key) {
            return Ok(());
        }
        self.0.change(|keys| {
            let mut keys = keys.unwrap_or_default();
            let hash = hash(key);
            keys.retain(|known| *known != hash);
            keys.push(hash);
            let surplus = keys.len().saturating_sub(MAX_ACCEPTED_KEYS);
            keys.split_off(surplus)
        })
    }
}

/// Returns the hash that identifies a key.
pub(super) fn hash(key: &PublicKey) -> String {
    base16::encode(&Sha256::digest(key.as_sexp().to_advanced()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> PublicKey {
        PublicKey::parse(format!("(public-key (ecc (curve Ed25519) (q #{number:04x}#)))").as_bytes()).unwrap()
    }

    #[test]
    fn a_limited_number_of_keys_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let accepted = AcceptedKeys::of(&StateDirectory::new(directory.path().join("offload"))).unwrap();
        assert!(!accepted.has(&key(1)));
        for _ in 0..2 {
            accepted.remember(&key(1)).unwrap();
        }
        assert!(accepted.has(&key(1)) && !accepted.has(&key(2)));
        for number in 2..=MAX_ACCEPTED_KEYS + 1 {
            accepted.remember(&key(number)).unwrap();
        }
        assert!(!accepted.has(&key(1)) && accepted.has(&key(2)) && accepted.has(&key(MAX_ACCEPTED_KEYS + 1)));
    }
}
