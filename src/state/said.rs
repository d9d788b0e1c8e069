//! What has been said of a host lately: a warning that holds for weeks is to be read once a day, not once a build.
//!
//! Each kind of warning has the file `said-KIND` in the host's state directory, whose modification time tells when it
//! was said. Two processes at once may both say it. A time in the future, as after a clock was set back, counts for
//! nothing.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::{StateDirectory, StateError};
use crate::machine::Machine;
use crate::rights;

/// How long something that was said need not be said again.
const LATELY: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether a warning of this kind, a word, is to be said now; it counts as said then.
pub fn is_due(state: &StateDirectory, machine: &Machine, kind: &str) -> Result<bool, StateError> {
    is_due_at(state.of(machine)?.join(format!("said-{kind}")), SystemTime::now())
}

fn is_due_at(path: PathBuf, now: SystemTime) -> Result<bool, StateError> {
    let said = fs::metadata(&path).and_then(|metadata| metadata.modified());
    if said.is_ok_and(|said| now.duration_since(said).is_ok_and(|age| age < LATELY)) {
        return Ok(false);
    }
    // Whatever is written sets the time.
    let written = rights::open_or_make(&path).and_then(|mut file| file.write_all(b"\n"));
    written.map_err(|cause| StateError { path, cause })?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_a_day_for_each_host_and_kind() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        let machine = |name| Machine::new(name, "root", vec!["x86_64-linux".into()], Vec::new());
        let is_due = |name, kind| is_due(&state, &machine(name), kind).unwrap();
        assert!(is_due("b1", "relay") && !is_due("b1", "relay"));
        assert!(is_due("b2", "relay") && is_due("b1", "other"));

        let path = || state.of(&machine("b1")).unwrap().join("said-relay");
        let now = SystemTime::now();
        assert!(!is_due_at(path(), now + LATELY / 2).unwrap());
        assert!(is_due_at(path(), now - LATELY).unwrap());
        assert!(is_due_at(path(), now + LATELY * 2).unwrap());
    }

    /// Root looks at machines, too, and the directory may be another user's.
    #[test]
    fn a_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let precious = directory.path().join("precious");
        fs::write(&precious, "kept").unwrap();
        std::os::unix::fs::symlink(&precious, directory.path().join("said-relay")).unwrap();
        let later = SystemTime::now() + LATELY * 2;
        assert!(is_due_at(directory.path().join("said-relay"), later).is_err());
        assert_eq!(fs::read_to_string(&precious).unwrap(), "kept");
    }
}
