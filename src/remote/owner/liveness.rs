//! Detects whether the owner of a session is alive.

use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::{Mutex, PoisonError};

use rustix::process::Pid;

use super::peer;
use super::start::SpawnedOwner;
use crate::cancel::Cancel;
use crate::remote::error::Error;

/// The process that owns a session.
#[derive(Debug)]
pub(in crate::remote) struct Liveness {
    /// `NAME:PORT`.
    machine: String,
    /// Its identifier; `None` if the owner is a thread of this process.
    pid: Option<Pid>,
    /// The process, if this one has started it.
    child: Mutex<Option<Child>>,
    /// The switch of the owner, if it is a thread.
    thread: Option<Cancel>,
}

impl Liveness {
    /// Returns the process of an owner that this process has started.
    pub fn of_spawned(machine: String, owned: SpawnedOwner) -> Liveness {
        let (child, thread) = match owned {
            SpawnedOwner::Process(child) => (Some(child), None),
            SpawnedOwner::Thread(cancel) => (None, Some(cancel)),
        };
        let pid = child.as_ref().and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?));
        Liveness { machine, pid, child: Mutex::new(child), thread }
    }

    /// Returns the process of the owner that listens at the other end of `control`.
    pub fn of_peer(machine: String, control: &UnixStream) -> Liveness {
        Liveness { machine, pid: peer::pid(control), child: Mutex::new(None), thread: None }
    }

    /// Returns the machine, `NAME:PORT`.
    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// Returns the process of the owner, unless the owner is a thread of this process.
    pub fn process(&self) -> Option<u32> {
        self.pid.and_then(|pid| pid.as_raw_nonzero().get().try_into().ok())
    }

    /// Fails with [`Error::OwnerStopped`] if the kernel reports that the owner cannot run. A stopped owner passes no
    /// data on and sends no reply.
    pub fn check(&self) -> Result<(), Error> {
        match self.pid.is_some_and(peer::is_stopped_or_dead) {
            true => Err(Error::OwnerStopped { machine: self.machine.clone() }),
            false => Ok(()),
        }
    }

    /// Ends an owner that has no session yet, if this process has started it.
    pub(super) fn end(&self) {
        if let Some(thread) = &self.thread {
            thread.cancel();
        }
        if let Some(child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
            && child.kill().is_ok()
        {
            let _ = child.wait();
        }
    }

    /// Returns the error for an owner that has ended.
    pub fn ended_error(&self) -> Error {
        Error::OwnerEnded { machine: self.machine.clone() }
    }
}

impl Drop for Liveness {
    fn drop(&mut self) {
        // This reaps the owner if it has ended. Otherwise it continues, and its next parent reaps it.
        if let Some(child) = self.child.get_mut().unwrap_or_else(PoisonError::into_inner) {
            let _ = child.try_wait();
        }
    }
}
