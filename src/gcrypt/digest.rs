//! Hashes of all the algorithms for fixed outputs.

use super::ffi::Hash;
use crate::store::HashAlgorithm;

/// A hash that is being computed.
pub struct Digest(Hash);

impl Digest {
    /// Begins a hash. An error if this libgcrypt does not have the algorithm, or must not use it.
    pub fn new(algorithm: HashAlgorithm) -> Result<Digest, DigestError> {
        // `enum gcry_md_algos` of gcrypt.h.
        let number = match algorithm {
            HashAlgorithm::Md5 => 1,
            HashAlgorithm::Sha1 => 2,
            HashAlgorithm::Sha256 => 8,
            HashAlgorithm::Sha512 => 10,
            HashAlgorithm::Sha3_256 => 313,
            HashAlgorithm::Sha3_512 => 315,
            HashAlgorithm::Blake2s256 => 322,
        };
        Hash::new(number, algorithm.size()).map(Digest).map_err(|problem| DigestError { algorithm, problem })
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the hash of all bytes, with the size of the algorithm.
    pub fn finish(self) -> Vec<u8> {
        self.0.finish()
    }
}

/// The hash is not available.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("libgcrypt cannot compute {algorithm}: {problem}")]
pub struct DigestError {
    algorithm: HashAlgorithm,
    problem: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::base16;

    #[test]
    fn known_hashes_are_computed() {
        for (algorithm, expected) in [
            (HashAlgorithm::Md5, "900150983cd24fb0d6963f7d28e17f72"),
            (HashAlgorithm::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (HashAlgorithm::Sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                HashAlgorithm::Sha512,
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                 2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
            (HashAlgorithm::Sha3_256, "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"),
            (
                HashAlgorithm::Sha3_512,
                "b751850b1a57168a5693cd924b6b096e08f621827444f70d884f5d0240d2712e\
                 10e116e9192af3c91a7ec57647e3934057340b4cf408d5a56592f8274eec53f0",
            ),
            (HashAlgorithm::Blake2s256, "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"),
        ] {
            let mut digest = Digest::new(algorithm).unwrap();
            digest.update(b"a");
            digest.update(b"");
            digest.update(b"bc");
            let hash = digest.finish();
            assert_eq!(hash.len(), algorithm.size());
            assert_eq!(base16::encode(&hash), expected, "{algorithm}");
        }
    }
}
