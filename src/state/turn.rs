//! A queue of processes that wait for one of several locks.
//!
//! A process cannot wait in the kernel (flock(2)) for whichever of several locks is released first. If hundreds of processes
//! polled the locks, they would keep the processors busy and delay the work that they wait for. So they wait in the
//! kernel for one lock, their turn, in order of arrival, and only the process that has it polls. A process that is
//! stopped while it has the turn delays the others by a second at most: they also check without it.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::StateError;
use super::lock::LockWait;
use crate::cancel;

/// How often a process checks that does not have the turn.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The place of this process in a queue. Dropping it leaves the queue.
#[derive(Debug)]
pub struct Turn {
    path: PathBuf,
    state: TurnState,
}

#[derive(Debug)]
enum TurnState {
    /// This process is not in the queue.
    Away,
    Waiting(LockWait),
    /// This process has the turn, as long as the lock is held.
    Held(#[expect(dead_code, reason = "holds the lock")] File),
}

impl Turn {
    /// Returns a place in the queue whose lock is `path`. The queue is entered with the first wait.
    pub(super) fn new(path: PathBuf) -> Turn {
        Turn { path, state: TurnState::Away }
    }

    /// Waits until the caller should check again, at most until the time `until`: with the turn after `interval`, otherwise
    /// when this process gets the turn, or after a second.
    pub fn wait(&mut self, interval: Duration, until: Instant) -> Result<(), StateError> {
        let now = Instant::now();
        match &self.state {
            TurnState::Held(_) => cancel::sleep(interval.min(until.saturating_duration_since(now))),
            TurnState::Away => {
                self.state = TurnState::Waiting(LockWait::exclusive(&self.path)?);
                return self.wait(interval, until);
            }
            TurnState::Waiting(wait) => {
                if let Some(lock) = wait.wait(until.min(now + CHECK_INTERVAL))? {
                    self.state = TurnState::Held(lock);
                }
            }
        }
        Ok(())
    }

    /// Lets the next process have the turn, if this one has it. Otherwise this process keeps its place. For a process that
    /// waits for something else meanwhile.
    pub fn pass(&mut self) -> Result<(), StateError> {
        let has_turn = match &self.state {
            TurnState::Away => false,
            TurnState::Waiting(wait) => wait.wait(Instant::now())?.is_some(),
            TurnState::Held(_) => true,
        };
        if has_turn {
            self.state = TurnState::Away;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
