//! The phases of a build: `OFFLOAD_LOG=offload::timing=debug` logs each with its milliseconds, the derivation and the
//! machine. Threads that serve several builds, such as those of a connection, name neither.
//!
//! | phase | contents |
//! |---|---|
//! | evaluate | the machine file is read and evaluated |
//! | choose | a machine is chosen; includes connect to probe below if it is probed |
//! | read | the daemon's lists of inputs and outputs are read |
//! | connect, handshake, authenticate | TCP, the SSH key exchange, the user's key |
//! | probe | the machine reports its status |
//! | greet | a channel to the machine's daemon, its greeting |
//! | options | the daemon's options are set |
//! | store check | once a day: whether the machine's store is this machine's |
//! | signing key | before the first build on the machine: its signing key is checked |
//! | reuse | instead of all these: a persistent connection is acquired, and the options are set over it |
//! | query | the present inputs are queried |
//! | add | the missing ones that need no signature are sent |
//! | sign, send | the other missing ones: signing them; reading, hashing and sending them |
//! | stream | instead of send: a program on the other side imports them |
//! | protect | the inputs are protected from its garbage collector |
//! | second | a second connection to the daemon requests a signature |
//! | build | the build |
//! | ready | the rest of the wait for that signature |
//! | fetch, restore, verify | an output: waiting for it; hashing and writing it; its signature |
//! | keep | the connection is persisted for the next build |
//! | place | the outputs are moved into the store |
//! | log | the daemon reads the rest of the build log |
//!
//! The daemon registers the outputs after the hook has ended; `tests/bench output` measures that. `tests/timing.rs`
//! checks that each of these phases is logged.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use log::debug;

thread_local! {
    /// The build that this thread works for, in words.
    static SUBJECT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Sets the derivation, and the machine if there is one, that the phases of this thread are about from now on.
pub fn set_subject(derivation: &str, machine: Option<&str>) {
    let name = derivation.rsplit('/').next().unwrap_or(derivation);
    let on = machine.map(|machine| format!(" on {machine}")).unwrap_or_default();
    SUBJECT.with(|subject| *subject.borrow_mut() = format!(" ({name}{on})"));
}

/// Measures consecutive phases.
#[derive(Debug)]
pub struct Stopwatch {
    since: Instant,
}

impl Stopwatch {
    /// Starts the first phase.
    pub fn start() -> Stopwatch {
        Stopwatch { since: Instant::now() }
    }

    /// Ends a phase, and starts the next.
    pub fn lap(&mut self, phase: &str) {
        let now = Instant::now();
        log_phase(phase, now - self.since);
        self.since = now;
    }

    /// Works like [`lap`](Stopwatch::lap), but subtracts time that was logged for other phases.
    pub fn lap_without(&mut self, others: Duration, phase: &str) {
        self.since += others;
        self.lap(phase);
    }
}

/// Adds up a phase that consists of pieces.
#[derive(Debug, Default)]
pub struct Pieces {
    spent: Duration,
}

impl Pieces {
    /// Runs a piece of it.
    pub fn add<T>(&mut self, piece: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = piece();
        self.spent += start.elapsed();
        result
    }

    /// Ends the phase; returns its duration.
    pub fn end(self, phase: &str) -> Duration {
        log_phase(phase, self.spent);
        self.spent
    }
}

fn log_phase(phase: &str, time: Duration) {
    SUBJECT.with(|subject| debug!("{phase}: {:.1} ms{}", time.as_secs_f64() * 1000.0, subject.borrow()));
}
