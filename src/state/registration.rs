//! The lock under which outputs are registered through this machine's daemon.
//!
//! The daemon takes the lock of an output itself when it imports it, so the builder has to release that lock first. Between
//! the two no other program may find the output both unlocked and invalid, and build it again. So programs look at an
//! output, and hand over its lock, only while they hold one of the locks `registration/0` to `registration/63` in the
//! state directory. The derivation determines which one.

use std::fs::File;

use super::lock::try_lock;
use super::{StateDirectory, StateError, create_directory};
use crate::store::path::StorePath;

/// The number of locks. Derivations that share one by chance wait for each other's registration.
const LOCKS: u32 = 64;

/// The lock for one derivation; dropping it releases it.
#[derive(Debug)]
pub struct RegistrationLock {
    _file: File,
}

impl RegistrationLock {
    /// Takes the lock for a derivation; `None` while another process or thread has it. Never waits.
    pub fn try_take(state: &StateDirectory, derivation: &StorePath) -> Result<Option<RegistrationLock>, StateError> {
        let directory = state.shared()?.join("registration");
        create_directory(&directory)?;
        let number =
            derivation.hash_part().bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31) + u32::from(byte)) % LOCKS;
        Ok(try_lock(&directory.join(number.to_string()))?.map(|file| RegistrationLock { _file: file }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::path::StoreDir;

    #[test]
    fn one_at_a_time_registers_a_derivation() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        let drv =
            |hash: &str| StorePath::parse(&StoreDir::default(), format!("/gnu/store/{hash}-x.drv").as_bytes()).unwrap();
        let [one, two] = ["0yjkz5790xvq2z2fnq7s9wbmlrs56imh", "xnryj9c4k27hjviqs29c3dydawc71ga6"].map(drv);
        let held = RegistrationLock::try_take(&state, &one).unwrap().unwrap();
        assert!(RegistrationLock::try_take(&state, &one).unwrap().is_none());
        assert!(RegistrationLock::try_take(&state, &two).unwrap().is_some());
        drop(held);
        assert!(RegistrationLock::try_take(&state, &one).unwrap().is_some());
    }
}
