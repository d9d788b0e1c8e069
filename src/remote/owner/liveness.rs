//! Whether the owner of a session lives.

use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::{Mutex, PoisonError};

use rustix::process::Pid;

use super::peer;
use super::start::Owned;
use crate::remote::error::Error;

/// The owner of a session, as far as it can be observed.
#[derive(Debug)]
pub(in crate::remote) struct Liveness {
    /// `NAME:PORT`.
    machine: String,
    /// Its process, if that is another one.
    pid: Option<Pid>,
    /// The same if this process has started it.
    child: Mutex<Option<Child>>,
}

impl Liveness {
    /// That of an owner which this process has started.
    pub fn of_started(machine: String, owned: Owned) -> Liveness {
        let child = match owned {
            Owned::ByProcess(child) => Some(child),
            Owned::Here => None,
        };
        let pid = child.as_ref().and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?));
        Liveness { machine, pid, child: Mutex::new(child) }
    }

    /// That of an owner which listens at the other end of `control`.
    pub fn of_found(machine: String, control: &UnixStream) -> Liveness {
        Liveness { machine, pid: peer::process(control), child: Mutex::new(None) }
    }

    /// `NAME:PORT`.
    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// Returns its process, if it is another one than this.
    pub fn process(&self) -> Option<u32> {
        self.pid.and_then(|pid| pid.as_raw_nonzero().get().try_into().ok())
    }

    /// Whether it runs, as far as the kernel knows. One that is stopped passes nothing on, and says nothing.
    pub fn check(&self) -> Result<(), Error> {
        match self.pid.is_some_and(peer::is_stopped) {
            true => Err(Error::OwnerStopped { machine: self.machine.clone() }),
            false => Ok(()),
        }
    }

    /// What to say when it has ended.
    pub fn ended(&self) -> Error {
        Error::OwnerEnded { machine: self.machine.clone() }
    }
}

impl Drop for Liveness {
    fn drop(&mut self) {
        // Where it has ended already. It goes on as long as it likes, and whoever is its parent then waits for it.
        if let Some(child) = self.child.get_mut().unwrap_or_else(PoisonError::into_inner) {
            let _ = child.try_wait();
        }
    }
}
