//! The thread on which Lua runs, and the time it is given.
//!
//! Lua code can fail to come back: a loop, a pattern that backtracks for ever, a command that sleeps. So nothing of it
//! runs on the threads of the engine. They hand a piece of work to this thread and wait for a limited time; when that
//! is over they go on without an answer, and the interpreter is abandoned for the rest of the process.
//!
//! A thread cannot be killed from outside in any sound way. So an abandoned interpreter parks its thread itself: within
//! 100 instructions of Lua, or inside the functions that can take long (`lua/bounded.lua`, `libraries`), which look
//! whether anyone still waits. Until then the thread has the scheduling policy `SCHED_IDLE`. What memory bounds takes
//! some seconds at the most. `machine_file/tests/bounded.rs` has the list of functions, and the worst calls of each.
//!
//! Two things are not reached, and stay idle until they end or the process does: an instruction that calls a table
//! whose `__call` is that table, which takes minutes before the stack is full; and a garbage collection among tens of
//! thousands of weak tables that hold each other's keys.

use super::cancellation::{CancelState, SourceLocation};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Work on what the thread holds.
type Work<T> = Box<dyn FnOnce(&mut T) + Send>;

/// Room for 200 nested C calls, Lua's own limit, with Rust functions between them.
const STACK: usize = 16 << 20;

/// A running interpreter; dropping it ends its thread unless it is stuck. `T` is what stays on the thread: a runtime and
/// what belongs to it.
pub(crate) struct Interpreter<T> {
    work: mpsc::Sender<Work<T>>,
    cancel_state: Arc<CancelState>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// Time was up, here.
    Late(Option<SourceLocation>),
    /// It was given up before.
    Before,
    /// Its thread has ended.
    Gone,
}

impl<T> fmt::Debug for Interpreter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interpreter").field("cancel_state", &self.cancel_state).finish_non_exhaustive()
    }
}

impl<T: 'static> Interpreter<T> {
    /// Starts the thread and makes what it holds there with `make`.
    pub fn start<E: Send + 'static>(
        make: impl FnOnce(Arc<CancelState>) -> Result<T, E> + Send + 'static,
    ) -> std::io::Result<Result<Interpreter<T>, Option<E>>> {
        let cancel_state = Arc::new(CancelState::default());
        let (work, jobs) = mpsc::channel::<Work<T>>();
        let (made, result) = mpsc::channel();
        let context = Arc::clone(&cancel_state);
        thread::Builder::new().name("lua".to_owned()).stack_size(STACK).spawn(move || {
            context.here();
            let mut held = match make(context) {
                Ok(held) => held,
                Err(error) => return drop(made.send(Err(error))),
            };
            drop(made.send(Ok(())));
            for job in jobs {
                // A panic ends this interpreter and nothing else: the sender of the answer is dropped with the job.
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

    /// Has `job` done by the interpreter, and waits for the answer no longer than `budget` has left, which the time
    /// taken is subtracted from.
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
        let start = Instant::now();
        let (answer, result) = mpsc::channel();
        let job = Box::new(move |held: &mut T| drop(answer.send(job(held))));
        if self.work.send(job).is_err() {
            self.cancel_state.cancel_idle();
            return Err(Stopped::Gone);
        }
        let result = result.recv_timeout(*budget);
        *budget = budget.saturating_sub(start.elapsed());
        result.map_err(|error| match error {
            mpsc::RecvTimeoutError::Timeout => Stopped::Late(self.cancel_state.cancel()),
            mpsc::RecvTimeoutError::Disconnected => {
                self.cancel_state.cancel_idle();
                Stopped::Gone
            }
        })
    }

    /// Line of the main file that was evaluated last, if the evaluation did not come to its end.
    pub fn line(&self) -> Option<u32> {
        self.cancel_state.line()
    }

    /// The thread on which it runs.
    #[cfg(test)]
    pub fn thread(&self) -> rustix::process::Pid {
        self.cancel_state.thread().unwrap()
    }
}
