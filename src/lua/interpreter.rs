//! The thread on which Lua runs, and its time limit.
//!
//! Lua code may never return: a loop, a pattern that backtracks indefinitely, a command that sleeps. So no Lua code
//! runs on the threads of the engine. They pass work to this thread and wait for a limited time. After that they
//! continue without a result, and the interpreter is abandoned for the rest of the process.
//!
//! No thread can be killed safely from outside. So an abandoned interpreter parks its thread itself: within 100
//! instructions of Lua, or inside the functions that can take long (`lua/bounded.lua`, `libraries`), which check for
//! cancellation. Until then the thread has the scheduling policy `SCHED_IDLE`. Work that memory bounds takes some
//! seconds at most. `machine_file/tests/bounded.rs` lists the functions with their slowest calls.
//!
//! Two cases cannot be interrupted; they stay idle until they end or the process does. One is an instruction that calls
//! a table whose `__call` is that table, which takes minutes until the stack is full. The other is a garbage collection
//! among tens of thousands of weak tables that hold each other's keys.

use super::cancellation::{CancelState, SourceLocation};
use crate::cancel;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Work on the values of the thread.
type Work<T> = Box<dyn FnOnce(&mut T) + Send>;

/// Space for 200 nested C calls, Lua's own limit, with Rust functions between them.
const STACK_SIZE: usize = 16 << 20;

/// A running interpreter. Dropping it ends its thread, unless that is blocked. `T` stays on the thread: a runtime and
/// the values that belong to it.
pub(crate) struct Interpreter<T> {
    work: mpsc::Sender<Work<T>>,
    cancel_state: Arc<CancelState>,
}

/// The reason why there is no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// The time limit passed, at this location.
    Late(Option<SourceLocation>),
    /// It was cancelled before.
    Before,
    /// Its thread has ended.
    Gone,
    /// The caller's own work was cancelled. The interpreter continues.
    Cancelled,
}

impl<T> fmt::Debug for Interpreter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interpreter").field("cancel_state", &self.cancel_state).finish_non_exhaustive()
    }
}

impl<T: 'static> Interpreter<T> {
    /// Starts the thread and makes its values there with `make`.
    pub fn start<E: Send + 'static>(
        make: impl FnOnce(Arc<CancelState>) -> Result<T, E> + Send + 'static,
    ) -> std::io::Result<Result<Interpreter<T>, Option<E>>> {
        let cancel_state = Arc::new(CancelState::default());
        let (work, jobs) = mpsc::channel::<Work<T>>();
        let (made, result) = mpsc::channel();
        let context = Arc::clone(&cancel_state);
        thread::Builder::new().name("lua".to_owned()).stack_size(STACK_SIZE).spawn(move || {
            context.here();
            let mut held = match make(context) {
                Ok(held) => held,
                Err(error) => return drop(made.send(Err(error))),
            };
            drop(made.send(Ok(())));
            for job in jobs {
                // A panic ends only this interpreter: the sender of the result is dropped with the job.
                if catch_unwind(AssertUnwindSafe(|| job(&mut held))).is_err() {
                    return;
                }
            }
        })?;
        Ok(match result.recv() {
            Ok(Ok(())) => Ok(Interpreter { work, cancel_state }),
            Ok(Err(error)) => Err(Some(error)),
            Err(_) => Err(None),
        })
    }

    /// Runs `job` on the interpreter, and waits for the result at most for the rest of `budget`. The time taken is
    /// subtracted from `budget`. The time for jobs of other threads, which come first, does not count.
    pub fn run<R: Send + 'static>(
        &self,
        budget: &mut Duration,
        job: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, Stopped> {
        if self.cancel_state.is_cancelled() {
            return Err(Stopped::Before);
        }
        if budget.is_zero() {
            return Err(Stopped::Late(self.cancel_state.cancel_idle()));
        }
        let (answer, result) = mpsc::channel();
        let job = Box::new(move |held: &mut T| {
            drop(answer.send(None));
            drop(answer.send(Some(job(held))));
        });
        if self.work.send(job).is_err() {
            self.cancel_state.cancel_idle();
            return Err(Stopped::Gone);
        }
        let mut start = None;
        loop {
            let spent = start.map_or(Duration::ZERO, |start: Instant| start.elapsed());
            let received = result.recv_timeout(budget.saturating_sub(spent).min(cancel::POLL_INTERVAL));
            let spent = start.map_or(Duration::ZERO, |start: Instant| start.elapsed());
            match received {
                Ok(None) => start = Some(Instant::now()),
                Ok(Some(value)) => {
                    *budget = budget.saturating_sub(spent);
                    return Ok(value);
                }
                Err(mpsc::RecvTimeoutError::Timeout) if cancel::is_cancelled() => return Err(Stopped::Cancelled),
                // Another thread's job was too late, so this one never begins.
                Err(mpsc::RecvTimeoutError::Timeout) if start.is_none() && self.cancel_state.is_cancelled() => {
                    return Err(Stopped::Before);
                }
                Err(mpsc::RecvTimeoutError::Timeout) if spent < *budget => {}
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    *budget = Duration::ZERO;
                    return Err(Stopped::Late(self.cancel_state.cancel()));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    self.cancel_state.cancel_idle();
                    return Err(Stopped::Gone);
                }
            }
        }
    }

    /// Returns the line of the main file that was evaluated last, if the evaluation did not finish.
    pub fn line(&self) -> Option<u32> {
        self.cancel_state.line()
    }

    /// Returns the thread on which it runs.
    #[cfg(test)]
    pub fn thread(&self) -> rustix::process::Pid {
        self.cancel_state.thread().unwrap()
    }
}
