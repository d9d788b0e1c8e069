//! The limit of processes that log in to a host at the same time.
//!
//! OpenSSH drops connections when too many are not authenticated yet: by default some from 10 on and all from 100 on
//! (`MaxStartups 10:30:100`). So each process that connects holds one of the locks `logins/0` to `logins/5` in the
//! host's state directory until it is logged in. That leaves room for the logins of other heads. A process whose
//! connection was dropped nevertheless retries under the lock `logins/again`, so that retries come one after the other. A
//! process whose session is for all processes logs in under the lock `logins/for-all`, for which the others wait.

use std::fs::File;
use std::path::PathBuf;

use super::lock::{is_locked, try_lock};
use super::{LockWait, StateDirectory, StateError, Turn};
use crate::machine::Machine;

/// The number of processes that may log in to a host at the same time.
pub const MAX_PARALLEL_LOGINS: u32 = 6;

/// The logins to one host.
#[derive(Clone, Debug)]
pub struct Logins {
    directory: PathBuf,
}

/// The permission to connect; dropping it returns it.
#[derive(Debug)]
pub struct Login {
    number: u32,
    /// Holds the lock.
    _file: File,
}

impl Logins {
    /// Returns the logins to the host that `machine` describes.
    pub fn of(state: &StateDirectory, machine: &Machine) -> Result<Logins, StateError> {
        Ok(Logins { directory: state.of(machine)?.join("logins") })
    }

    /// Takes the permission to connect; `None` while too many processes have it. Never waits.
    pub fn try_take(&self) -> Result<Option<Login>, StateError> {
        for number in 0..MAX_PARALLEL_LOGINS {
            if let Some(file) = try_lock(&self.login(number))? {
                return Ok(Some(Login { number, _file: file }));
            }
        }
        Ok(None)
    }

    /// Returns whether a process other than the holder of `login` is connecting.
    pub fn is_crowded(&self, login: Option<&Login>) -> Result<bool, StateError> {
        for number in 0..MAX_PARALLEL_LOGINS {
            if login.is_none_or(|login| login.number != number) && is_locked(&self.login(number))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes the permission to connect again after a dropped connection; `None` while another process has it.
    pub fn try_again(&self) -> Result<Option<File>, StateError> {
        try_lock(&self.directory.join("again"))
    }

    /// Takes the permission to make a session for all processes; `None` while another process has it.
    pub fn try_for_all(&self) -> Result<Option<File>, StateError> {
        try_lock(&self.directory.join("for-all"))
    }

    /// Waits until no process has the permission to make a session for all.
    pub fn wait_for_all(&self) -> Result<LockWait, StateError> {
        LockWait::release(&self.directory.join("for-all"))
    }

    /// Returns a place in the queue of processes that wait for the permission to connect, or to connect again.
    pub fn turn(&self) -> Turn {
        Turn::new(self.directory.join("turn"))
    }

    fn login(&self, number: u32) -> PathBuf {
        self.directory.join(number.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_processes_log_in_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::new("b1", "root", vec!["x86_64-linux".into()], Vec::new());
        let logins = Logins::of(&StateDirectory::new(directory.path()), &machine).unwrap();
        let first = logins.try_take().unwrap();
        assert!(!logins.is_crowded(first.as_ref()).unwrap() && logins.is_crowded(None).unwrap());
        let mut others: Vec<_> = (1..MAX_PARALLEL_LOGINS).map(|_| logins.try_take().unwrap().unwrap()).collect();
        assert!(logins.try_take().unwrap().is_none());
        assert!(logins.is_crowded(first.as_ref()).unwrap());
        others.pop();
        assert!(logins.try_take().unwrap().is_some());
        let again = logins.try_again().unwrap();
        assert!(again.is_some() && logins.try_again().unwrap().is_none());
    }
}
