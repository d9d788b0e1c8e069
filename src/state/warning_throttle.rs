//! Throttled warnings: a warning that holds for weeks is logged once a day, not once a build.
//!
//! Each kind of warning has the file `warned-KIND` in the host's state directory, or in the directory of all state. Its modification time is the time of
//! the last warning. Two processes at the same time may both warn. A time in the future, as after a clock was set back,
//! is ignored.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::{StateDirectory, StateError};
use crate::machine::Machine;
use crate::permissions::files;

/// The time after which a warning is repeated.
const REPEAT_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns whether to log a warning of this kind, a word, now, and records that it was logged.
pub fn should_warn(state: &StateDirectory, machine: &Machine, kind: &str) -> Result<bool, StateError> {
    should_warn_at(state.of(machine)?.join(format!("warned-{kind}")), SystemTime::now())
}

/// Works like [`should_warn`], for problems of the history, which is one for all hosts.
pub fn should_warn_of_history(state: &StateDirectory) -> Result<bool, StateError> {
    should_warn_at(state.path().join("warned-history"), SystemTime::now())
}

fn should_warn_at(path: PathBuf, now: SystemTime) -> Result<bool, StateError> {
    let last = files::modified(&path);
    if last.is_ok_and(|last| now.duration_since(last).is_ok_and(|age| age < REPEAT_AFTER)) {
        return Ok(false);
    }
    // This needs no space on a full disk.
    let written = files::open_or_make_all(&path).and_then(|file| file.set_modified(now));
    written.map_err(|cause| StateError { path, cause })?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_warning_appears_once_a_day_for_each_host_and_kind() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        let machine = |name| Machine::new(name, "root", vec!["x86_64-linux".into()], Vec::new());
        let should_warn = |name, kind| should_warn(&state, &machine(name), kind).unwrap();
        assert!(should_warn("b1", "relay") && !should_warn("b1", "relay"));
        assert!(should_warn("b2", "relay") && should_warn("b1", "other"));

        let path = || state.of(&machine("b1")).unwrap().join("warned-relay");
        let now = SystemTime::now();
        assert!(!should_warn_at(path(), now + REPEAT_AFTER / 2).unwrap());
        assert!(should_warn_at(path(), now - REPEAT_AFTER).unwrap());
        assert!(should_warn_at(path(), now + REPEAT_AFTER * 2).unwrap());
    }

    /// Root checks machines, too, and the directory may be another user's.
    #[test]
    fn a_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let precious = directory.path().join("precious");
        fs::write(&precious, "kept").unwrap();
        std::os::unix::fs::symlink(&precious, directory.path().join("warned-relay")).unwrap();
        let later = SystemTime::now() + REPEAT_AFTER * 2;
        assert!(should_warn_at(directory.path().join("warned-relay"), later).is_err());
        assert_eq!(fs::read_to_string(&precious).unwrap(), "kept");
    }
}
