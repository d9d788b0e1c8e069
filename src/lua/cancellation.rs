//! What the engine and the thread on which Lua runs share: whether anyone still waits, and what is to be undone if not.

use crate::supervisor::{Killer, Program, Streams};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

/// How long to wait for an interpreter that is given up to say where it is. Functions of ours that wait look up more
/// often than that.
const CANCEL_GRACE: Duration = Duration::from_millis(50);
/// How often functions that wait for something outside look whether anyone waits for them.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A place in one of the user's files, as a message names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceLocation {
    pub file: String,
    pub line: u32,
}

/// The connection between those who wait for Lua and the thread that runs it.
#[derive(Debug, Default)]
pub(crate) struct CancelState {
    is_cancelled: AtomicBool,
    /// Line of the main file that is being evaluated; 0: not known.
    line: AtomicU32,
    state: Mutex<State>,
    thread: OnceLock<rustix::process::Pid>,
}

#[derive(Debug, Default)]
struct State {
    /// Who wants to know where the interpreter was when it was given up.
    asks: Option<mpsc::Sender<Option<SourceLocation>>>,
    /// The function that was called last.
    calling: Option<SourceLocation>,
    /// Locks held for user code, by a number.
    locks: Vec<(u64, File)>,
    last_lock: u64,
    /// Programs of user code that have not been waited for.
    programs: Vec<Killer>,
}

impl CancelState {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called by the interpreter's thread when it starts.
    pub fn here(&self) {
        let _ = self.thread.set(rustix::thread::gettid());
    }

    /// The thread of the interpreter, once it has started.
    #[cfg(test)]
    pub fn thread(&self) -> Option<rustix::process::Pid> {
        self.thread.get().copied()
    }

    /// Whether nobody waits for this interpreter any more.
    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Acquire)
    }

    /// Notes which function of the user is called now.
    pub fn calling(&self, location: Option<SourceLocation>) {
        self.state().calling = location;
    }

    /// Notes which line of the main file is evaluated.
    pub fn at_line(&self, line: Option<usize>) {
        self.line.store(line.and_then(|line| u32::try_from(line).ok()).unwrap_or(0), Ordering::Relaxed);
    }

    /// Line of the main file that was evaluated last.
    pub fn line(&self) -> Option<u32> {
        Some(self.line.load(Ordering::Relaxed)).filter(|line| *line > 0)
    }

    /// Keeps a locked file until `release`, or until nobody waits for the interpreter any more: a lock must not stay
    /// behind in a thread that never comes back.
    pub fn hold(&self, lock: File) -> u64 {
        let mut state = self.state();
        state.last_lock += 1;
        let number = state.last_lock;
        if !self.is_cancelled() {
            state.locks.push((number, lock));
        }
        number
    }

    /// Gives back a lock. Closing the file unlocks it.
    pub fn release(&self, number: u64) {
        self.state().locks.retain(|(held, _)| *held != number);
    }

    /// Starts a program, to be killed when the interpreter is given up.
    pub fn start(&self, program: &OsStr, arguments: &[OsString], streams: Streams) -> io::Result<Program> {
        let program = Program::start(program, arguments, streams)?;
        let mut state = self.state();
        match self.is_cancelled() {
            true => program.killer().kill(),
            false => state.programs.push(program.killer()),
        }
        Ok(program)
    }

    /// Whether a program has ended, and how. From then on its number may belong to another process.
    pub fn ended(&self, program: &mut Program) -> io::Result<Option<ExitStatus>> {
        let mut state = self.state();
        let status = program.try_wait()?;
        if status.is_some() {
            state.programs.retain(|killer| *killer != program.killer());
        }
        Ok(status)
    }

    /// Kills a program and what it has started, unless it has been waited for.
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

    /// Says where the interpreter is to whoever gave it up, and never comes back.
    pub fn park(&self, location: Option<SourceLocation>) -> ! {
        if let Some(asks) = self.state().asks.take() {
            // They may have stopped listening.
            let _ = asks.send(location);
        }
        loop {
            thread::park();
        }
    }

    /// Gives up the interpreter when it has nothing to do. Gives the function that was called last.
    pub fn cancel_idle(&self) -> Option<SourceLocation> {
        self.is_cancelled.store(true, Ordering::Release);
        self.state().calling.take()
    }

    /// Gives up the interpreter. Gives the place where it was, if that can be told.
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
            // Inside something that takes long. Most of it comes to an end; until then it costs others nothing.
            if let Err(error) = super::ffi::make_idle(*thread) {
                log::debug!("the priority of the Lua interpreter: {error}");
            }
        }
        answer.ok().flatten().or_else(|| self.state().calling.take())
    }
}
