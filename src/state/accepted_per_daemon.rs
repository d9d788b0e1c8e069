//! The count of builds accepted for a guix-daemon process whose descriptors cannot be counted.
//!
//! The file `accepted/PID` has a byte for each of them. Only the hooks of that process touch it, one at a time, since
//! the daemon makes one request at a time. The count never goes down, because the descriptors that the daemon closes
//! cannot be seen either. Files of processes that have ended are removed.

use std::path::PathBuf;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::lock::{append, contents};
use super::{StateDirectory, StateError, create_directory};
use crate::permissions::files;

/// The builds accepted for one process of guix-daemon.
#[derive(Debug)]
pub struct AcceptedPerDaemon(PathBuf);

impl AcceptedPerDaemon {
    /// Returns the builds of the process `daemon`.
    pub fn of(state: &StateDirectory, daemon: u32) -> Result<AcceptedPerDaemon, StateError> {
        let directory = state.path().join("accepted");
        create_directory(&directory)?;
        let failed = |cause| StateError { path: directory.clone(), cause };
        for file in files::list(&directory).map_err(failed)? {
            let pid = file.file_name().and_then(|name| name.to_str()?.parse().ok());
            if pid.is_some_and(is_gone) {
                let _ = files::remove(&file);
            }
        }
        Ok(AcceptedPerDaemon(directory.join(daemon.to_string())))
    }

    /// Returns their number.
    pub fn count(&self) -> usize {
        contents(&self.0).map_or(0, |marks| marks.len())
    }

    /// Adds one build.
    pub fn add(&self) -> Result<(), StateError> {
        append(&self.0, b".")
    }
}

fn is_gone(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn builds_are_counted_for_each_process_while_it_lives() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let of = |daemon| AcceptedPerDaemon::of(&state, daemon).unwrap();
        let (own, other) = (of(std::process::id()), of(child.id()));
        own.add().unwrap();
        own.add().unwrap();
        other.add().unwrap();
        assert_eq!([own.count(), other.count()], [2, 1]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!([of(std::process::id()).count(), other.count()], [2, 0]);
    }
}
