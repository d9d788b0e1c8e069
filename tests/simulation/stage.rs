//! A stage on which tasks act one at a time, in a time of its own.
//!
//! Each task is a thread, but only one of them runs; the others wait for their turn. A task that pauses gives way to
//! the one that is due next, and the clock jumps to that moment. So code that blocks can be run unchanged, thousands of
//! seconds take none, and the same seed gives the same play.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// What a killed task unwinds with.
struct Killed;

/// A process: tasks that are killed together.
#[derive(Clone, Default)]
pub struct Process(Arc<AtomicBool>);

impl Process {
    /// Its tasks end where they are, when their next turns come.
    pub fn kill(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone)]
pub struct Stage(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    over: Condvar,
}

struct State {
    /// Microseconds since the beginning.
    now: u64,
    random: u64,
    turns: BinaryHeap<Reverse<(u64, u64, usize)>>,
    next_turn: u64,
    /// Where each task waits for its turn.
    tasks: Vec<Arc<Turn>>,
    alive: usize,
    failure: Option<String>,
}

#[derive(Default)]
struct Turn {
    has_come: Mutex<bool>,
    comes: Condvar,
}

impl Turn {
    fn wait(&self) {
        let mut has_come = lock(&self.has_come);
        while !*has_come {
            has_come = self.comes.wait(has_come).unwrap_or_else(PoisonError::into_inner);
        }
        *has_come = false;
    }

    fn give(&self) {
        *lock(&self.has_come) = true;
        self.comes.notify_one();
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    static ME: std::cell::RefCell<Option<(usize, Process)>> = const { std::cell::RefCell::new(None) };
}

impl Stage {
    pub fn new(seed: u64) -> Stage {
        let state = State {
            now: 0,
            random: seed,
            turns: BinaryHeap::new(),
            next_turn: 0,
            tasks: Vec::new(),
            alive: 0,
            failure: None,
        };
        Stage(Arc::new(Shared { state: Mutex::new(state), over: Condvar::new() }))
    }

    pub fn elapsed(&self) -> Duration {
        Duration::from_micros(lock(&self.0.state).now)
    }

    /// A number below `bound`.
    pub fn random(&self, bound: u64) -> u64 {
        let mut state = lock(&self.0.state);
        state.random = state.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    /// Lets a task of `process` begin in a while.
    pub fn start(&self, after: Duration, process: &Process, task: impl FnOnce() + Send + 'static) {
        let (stage, process, turn) = (self.clone(), process.clone(), Arc::new(Turn::default()));
        let number = {
            let mut state = lock(&self.0.state);
            state.tasks.push(Arc::clone(&turn));
            state.alive += 1;
            let number = state.tasks.len() - 1;
            state.queue(after, number);
            number
        };
        let body = move || {
            turn.wait();
            ME.set(Some((number, process.clone())));
            let result =
                if process.0.load(Ordering::Relaxed) { Ok(()) } else { panic::catch_unwind(AssertUnwindSafe(task)) };
            let mut state = lock(&stage.0.state);
            state.alive -= 1;
            if let Err(payload) = result
                && !payload.is::<Killed>()
            {
                let text = payload.downcast_ref::<String>().cloned();
                let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                state.failure.get_or_insert(text.unwrap_or_default());
            }
            match state.next() {
                Some(next) => next.give(),
                None => stage.0.over.notify_all(),
            }
        };
        thread::Builder::new().stack_size(256 << 10).spawn(body).unwrap();
    }

    /// Gives way for a while. The task ends here if its process has been killed.
    pub fn pause(&self, time: Duration) {
        let Some((me, process)) = ME.with_borrow(Clone::clone) else { return };
        let (mine, next) = {
            let mut state = lock(&self.0.state);
            state.queue(time, me);
            (Arc::clone(&state.tasks[me]), state.next())
        };
        if let Some(next) = next.filter(|next| !Arc::ptr_eq(next, &mine)) {
            next.give();
            mine.wait();
        }
        if process.0.load(Ordering::Relaxed) && !thread::panicking() {
            panic::resume_unwind(Box::new(Killed));
        }
    }

    /// Plays until no task is left. An error is the message of the first task that failed.
    pub fn play(&self) -> Result<(), String> {
        let mut state = lock(&self.0.state);
        if let Some(first) = state.next() {
            first.give();
        }
        while state.alive > 0 {
            state = self.0.over.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.failure.take().map_or(Ok(()), Err)
    }
}

impl State {
    fn queue(&mut self, after: Duration, task: usize) {
        let at = self.now + after.as_micros() as u64;
        self.turns.push(Reverse((at, self.next_turn, task)));
        self.next_turn += 1;
    }

    /// Whose turn it is next; the clock jumps there.
    fn next(&mut self) -> Option<Arc<Turn>> {
        let Reverse((at, _, task)) = self.turns.pop()?;
        self.now = at;
        Some(Arc::clone(&self.tasks[task]))
    }
}
