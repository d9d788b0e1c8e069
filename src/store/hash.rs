//! The hash algorithms that a fixed output may name, with their sizes. [`gcrypt`](crate::gcrypt::Digest)
//! computes them.

use std::fmt;

/// An algorithm for the hash of a fixed output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashAlgorithm {
    Md5,
    Sha1,
    Sha256,
    Sha512,
    Sha3_256,
    Sha3_512,
    Blake2s256,
}

impl HashAlgorithm {
    /// All algorithms.
    pub const ALL: [HashAlgorithm; 7] = [
        HashAlgorithm::Md5,
        HashAlgorithm::Sha1,
        HashAlgorithm::Sha256,
        HashAlgorithm::Sha512,
        HashAlgorithm::Sha3_256,
        HashAlgorithm::Sha3_512,
        HashAlgorithm::Blake2s256,
    ];

    /// Returns its name in derivations and in the worker protocol.
    pub fn name(self) -> &'static str {
        match self {
            HashAlgorithm::Md5 => "md5",
            HashAlgorithm::Sha1 => "sha1",
            HashAlgorithm::Sha256 => "sha256",
            HashAlgorithm::Sha512 => "sha512",
            HashAlgorithm::Sha3_256 => "sha3-256",
            HashAlgorithm::Sha3_512 => "sha3-512",
            HashAlgorithm::Blake2s256 => "blake2s-256",
        }
    }

    /// Returns the algorithm of this name.
    pub fn from_name(name: &[u8]) -> Option<HashAlgorithm> {
        HashAlgorithm::ALL.into_iter().find(|algorithm| algorithm.name().as_bytes() == name)
    }

    /// Returns the number of bytes in a hash.
    pub fn size(self) -> usize {
        match self {
            HashAlgorithm::Md5 => 16,
            HashAlgorithm::Sha1 => 20,
            HashAlgorithm::Sha256 | HashAlgorithm::Sha3_256 | HashAlgorithm::Blake2s256 => 32,
            HashAlgorithm::Sha512 | HashAlgorithm::Sha3_512 => 64,
        }
    }
}

impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_algorithm_is_found_by_its_name() {
        for algorithm in HashAlgorithm::ALL {
            assert_eq!(HashAlgorithm::from_name(algorithm.name().as_bytes()), Some(algorithm));
        }
        for unknown in [&b""[..], b"SHA256", b"sha-256", b"r:sha256", b"sha384"] {
            assert_eq!(HashAlgorithm::from_name(unknown), None);
        }
    }
}
