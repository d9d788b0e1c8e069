//! The state that the engine and the Lua thread share: whether the evaluation is cancelled, and what to clean up then.

use crate::supervisor::{Killer, Program, Streams};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

/// How long to wait for a cancelled interpreter to report its location. Functions of ours that block check more often
/// than that.
const CANCEL_GRACE: Duration = Duration::from_millis(50);
/// How often functions that wait for something outside check for cancellation.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A location in one of the user's files, for a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceLocation {
    pub file: String,
    pub line: u32,
}

/// The shared state of the Lua thread and the threads that wait for it.
#[derive(Debug, Default)]
pub(crate) struct CancelState {
    is_cancelled: AtomicBool,
    /// The line of the main file that is being evaluated; 0: not known.
    line: AtomicU32,
    state: Mutex<LockedState>,
    thread: OnceLock<rustix::process::Pid>,
}

#[derive(Debug, Default)]
struct LockedState {
    /// Receives the location of the interpreter when it parks.
    asks: Option<mpsc::Sender<Option<SourceLocation>>>,
    /// The function that was called last.
    calling: Option<SourceLocation>,
    /// Locks held for user code, each with a number.
    locks: Vec<(u64, File)>,
    last_lock: u64,
    /// Programs of user code that were not waited for.
    programs: Vec<Killer>,
}

impl CancelState {
    fn state(&self) -> MutexGuard<'_, LockedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the current thread as the interpreter's. The interpreter calls it when it starts.
    pub fn here(&self) {
        let _ = self.thread.set(rustix::thread::gettid());
    }

    /// Returns the thread of the interpreter, once it has started.
    #[cfg(test)]
    pub fn thread(&self) -> Option<rustix::process::Pid> {
        self.thread.get().copied()
    }

    /// Returns whether the evaluation is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Acquire)
    }

    /// Records the user's function that is called now.
    pub fn calling(&self, location: Option<SourceLocation>) {
        self.state().calling = location;
    }

    /// Records the line of the main file that is being evaluated.
    pub fn at_line(&self, line: Option<usize>) {
        self.line.store(line.and_then(|line| u32::try_from(line).ok()).unwrap_or(0), Ordering::Relaxed);
    }

    /// Returns the line of the main file that was evaluated last.
    pub fn line(&self) -> Option<u32> {
        Some(self.line.load(Ordering::Relaxed)).filter(|line| *line > 0)
    }

    /// Holds a locked file until `release` or cancellation: a thread that never returns must not keep a lock.
    pub fn hold(&self, lock: File) -> u64 {
        let mut state = self.state();
        state.last_lock += 1;
        let number = state.last_lock;
        if !self.is_cancelled() {
            state.locks.push((number, lock));
        }
        number
    }

    /// Releases a lock. Closing the file unlocks it.
    pub fn release(&self, number: u64) {
        self.state().locks.retain(|(held, _)| *held != number);
    }

    /// Starts a program, which is killed on cancellation.
    pub fn start(&self, program: &OsStr, arguments: &[OsString], streams: Streams) -> io::Result<Program> {
        let program = Program::start(program, arguments, streams)?;
        let mut state = self.state();
        match self.is_cancelled() {
            true => program.killer().kill(),
            false => state.programs.push(program.killer()),
        }
        Ok(program)
    }

    /// Returns whether a program has ended, with its status. From then on its number may belong to another process.
    pub fn ended(&self, program: &mut Program) -> io::Result<Option<ExitStatus>> {
        let mut state = self.state();
        let status = program.try_wait()?;
        if status.is_some() {
            state.programs.retain(|killer| *killer != program.killer());
        }
        Ok(status)
    }

    /// Kills a program and its children, unless it was waited for.
    pub fn kill(&self, program: &mut Program) {
        {
            let mut state = self.state();
            let before = state.programs.len();
            state.programs.retain(|killer| *killer != program.killer());
            if state.programs.len() == before {
                return;
            }
        }
        program.kill();
    }

    /// Reports the location of the interpreter to the thread that cancelled it, and never returns.
    pub fn park(&self, location: Option<SourceLocation>) -> ! {
        if let Some(asks) = self.state().asks.take() {
            // That thread may have stopped listening.
            let _ = asks.send(location);
        }
        loop {
            thread::park();
        }
    }

    /// Cancels an idle interpreter. Returns the function that was called last.
    pub fn cancel_idle(&self) -> Option<SourceLocation> {
        self.is_cancelled.store(true, Ordering::Release);
        self.state().calling.take()
    }

    /// Cancels the interpreter. Returns its location, if that is known.
    pub fn cancel(&self) -> Option<SourceLocation> {
        let (asks, answer) = mpsc::channel();
        {
            let mut state = self.state();
            state.asks = Some(asks);
            self.is_cancelled.store(true, Ordering::Release);
            state.locks.clear();
            state.programs.drain(..).for_each(|killer| killer.kill());
        }
        let answer = answer.recv_timeout(CANCEL_GRACE);
        if answer.is_err()
            && let Some(thread) = self.thread.get()
        {
            // It is inside a long call. Most calls end; until then they run at the lowest priority.
            if let Err(error) = super::idle_priority::make_idle(*thread) {
                log::debug!("the priority of the Lua interpreter: {error}");
            }
        }
        answer.ok().flatten().or_else(|| self.state().calling.take())
    }
}
