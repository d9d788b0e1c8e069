//! Files that this process does not see, and that exist all the same: outside of its mount name space.
//!
//! A service of systemd with `ProtectHome=`, `PrivateTmp=` or `InaccessiblePaths=` has a mount name space of its own
//! (mount_namespaces(7)), in which empty directories cover what is there. `/proc/1/root` is the root directory as the first
//! process has it (proc_pid_root(5)); root may look into it.
//!
//! Without the right to look, or in a container whose first process is in the same name space, nothing is known.

use std::fs;
use std::path::Path;

/// Whether `path`, which does not exist here, exists for the first process. False if that cannot be found out.
pub(super) fn exists_outside(path: &Path) -> bool {
    let name_space = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let (Some(own), Some(first)) = (name_space("self"), name_space("1")) else { return false };
    let Ok(below_root) = path.strip_prefix("/") else { return false };
    own != first && Path::new("/proc/1/root").join(below_root).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/ssh/private_key.rs` has a file that is covered.
    #[test]
    fn what_exists_nowhere_is_not_outside() {
        assert!(!exists_outside(Path::new("/nonexistent/key")));
        assert!(!exists_outside(Path::new("relative")));
    }
}
