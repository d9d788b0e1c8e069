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
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::sync::Mutex;
    use std::thread;

    use super::*;
    use crate::state::lock::try_lock;

    /// Returns the number of processes that the kernel has waiting for the lock of a file.
    fn waiting(file: &std::path::Path) -> usize {
        let Ok(inode) = fs::metadata(file).map(|metadata| metadata.ino()) else { return 0 };
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks.lines().filter(|line| line.contains("->") && line.contains(&format!(":{inode} "))).count()
    }

    #[test]
    fn waiting_processes_take_turns_in_order_of_arrival() {
        let directory = tempfile::tempdir().unwrap();
        let [slot, queue] = ["0", "turn"].map(|name| directory.path().join(name));
        let held = try_lock(&slot).unwrap().unwrap();
        let order = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for number in 0..4 {
                let (slot, queue, order) = (&slot, &queue, &order);
                scope.spawn(move || {
                    let mut turn = Turn::new(queue.clone());
                    let far = Instant::now() + Duration::from_secs(600);
                    let _slot = loop {
                        if let Some(slot) = try_lock(slot).unwrap() {
                            break slot;
                        }
                        turn.wait(Duration::from_millis(1), far).unwrap();
                    };
                    order.lock().unwrap().push(number);
                });
                // The first has the turn, and the others wait for it.
                let is_first_in = || try_lock(queue).unwrap().is_none();
                let start = Instant::now();
                while !(is_first_in() && waiting(queue) == number) {
                    assert!(start.elapsed() < Duration::from_secs(60), "{number} does not wait in the kernel");
                    thread::sleep(Duration::from_millis(1));
                }
            }
            drop(held);
        });
        assert_eq!(order.into_inner().unwrap(), [0, 1, 2, 3]);
    }

    #[test]
    fn a_stopped_process_with_the_turn_does_not_end_the_checks_of_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("turn");
        let _stopped = try_lock(&path).unwrap().unwrap();
        let mut turn = Turn::new(path);
        let far = Instant::now() + Duration::from_secs(60);
        for _ in 0..2 {
            turn.wait(Duration::from_millis(1), far).unwrap();
        }
        assert!(Instant::now() < far);
    }
}
