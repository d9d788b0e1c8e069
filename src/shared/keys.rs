//! The numbers of advisory locks: `pg_try_advisory_lock(KEY, SLOT)`.
//!
//! KEY is the first 31 bits of SHA-256 of the pool's name, a NUL and the host, `NAME:PORT`. If two hosts had the same
//! key, they would share their slots: fewer builds, never too many. With 1,000 hosts the probability is 1 in 4,000.

use sha2::{Digest, Sha256};

/// A host, as the database knows it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub host: String,
    pub key: i32,
    pub slots: i32,
}

/// Returns the place of a host, `NAME:PORT`, with this many slots.
pub(super) fn place(pool: &str, host: &str, slots: u32) -> Place {
    Place { host: host.to_owned(), key: key_of(pool, host), slots: i32::try_from(slots).unwrap_or(i32::MAX) }
}

/// Returns the key of a host of a pool.
fn key_of(pool: &str, host: &str) -> i32 {
    let digest = Sha256::new().chain_update(pool).chain_update([0]).chain_update(host).finalize();
    let [a, b, c, d] = [digest[0], digest[1], digest[2], digest[3]];
    i32::from_be_bytes([a & 0x7f, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_and_hosts_have_their_own_keys() {
        // printf 'farm\0b1:22' | sha256sum: heads of all versions must agree.
        assert_eq!(key_of("farm", "b1:22"), KEY);
        let others = [("farm", "b2:22"), ("farm", "b1:23"), ("far", "mb1:22"), ("farm2", "b1:22")];
        assert!(others.iter().all(|(pool, host)| key_of(pool, host) != KEY));
        assert!((0..1000).all(|number| key_of("farm", &format!("b{number}:22")) >= 0));
    }

    const KEY: i32 = 0x2d6cc1aa;
}
