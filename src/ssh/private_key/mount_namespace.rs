//! Finds files that exist outside of the mount name space of this process, where it cannot see them.
//!
//! A service of systemd with `ProtectHome=`, `PrivateTmp=` or `InaccessiblePaths=` has a mount name space of its own
//! (mount_namespaces(7)), in which empty directories cover the real ones. `/proc/1/root` is the root directory of the
//! first process (proc_pid_root(5)), which root may read.
//!
//! Not checked: files that this user may not read there, and containers whose first process is in the same name space.

use std::fs;
use std::path::Path;

/// Returns whether `path`, which this process does not see, exists for the first process. False if that is unknown.
pub(super) fn exists_outside(path: &Path) -> bool {
    let name_space = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let (Some(own), Some(first)) = (name_space("self"), name_space("1")) else { return false };
    let Ok(below_root) = path.strip_prefix("/") else { return false };
    own != first && Path::new("/proc/1/root").join(below_root).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/ssh/private_key.rs` tests a file that is covered.
    #[test]
    fn a_missing_file_does_not_exist_outside() {
        assert!(!exists_outside(Path::new("/nonexistent/key")));
        assert!(!exists_outside(Path::new("relative")));
    }
}
