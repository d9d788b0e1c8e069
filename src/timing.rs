//! Where the time of a build goes: with `OFFLOAD_LOG=offload::timing=debug` each phase is logged with its milliseconds.
//!
//! | phase | is |
//! |---|---|
//! | evaluate | the machine file is read and evaluated |
//! | choose | a machine is chosen; with connect to probe below where it has to be asked |
//! | read | the daemon's lists of inputs and outputs are read |
//! | connect, handshake, authenticate | TCP, the SSH key exchange, the user's key |
//! | probe | the machine tells how it is doing |
//! | greet | a channel to the machine's daemon, its greeting |
//! | options | the daemon's options are set |
//! | store check | once a day: whether the machine's store is this machine's |
//! | borrow | instead of all these: a connection that was kept is found, and the options are set over it |
//! | query | which inputs it has |
//! | add | the missing ones that need no signature are sent |
//! | sign, send | the other missing ones: signing them; reading, hashing and sending them |
//! | stream | the same, where a program on the other side imports them |
//! | protect | the inputs are protected from its garbage collector |
//! | second | a second connection to the daemon is asked for a signature |
//! | build | the build |
//! | ready | the rest of the wait for that signature |
//! | fetch, restore, verify | an output: waiting for it; hashing and writing it; its signature |
//! | keep | the connection is kept for the next build |
//! | place | the outputs are moved to their places |
//! | log | the daemon reads the rest of the build log |
//!
//! Registering the outputs is the daemon's part, when the hook has ended; `tests/bench output` shows what that takes.
//! `tests/timing.rs` checks that each of these phases is logged.

use std::time::{Duration, Instant};

use log::debug;

/// Measures phases that follow each other.
#[derive(Debug)]
pub struct Stopwatch {
    since: Instant,
}

impl Stopwatch {
    /// The first phase begins now.
    pub fn start() -> Stopwatch {
        Stopwatch { since: Instant::now() }
    }

    /// A phase ends, and the next begins.
    pub fn lap(&mut self, phase: &str) {
        let now = Instant::now();
        tell(phase, now - self.since);
        self.since = now;
    }

    /// Like [`lap`](Stopwatch::lap), where some of the time has been told as that of other phases.
    pub fn lap_without(&mut self, others: Duration, phase: &str) {
        self.since += others;
        self.lap(phase);
    }
}

/// Adds up a phase that comes in pieces.
#[derive(Debug, Default)]
pub struct Pieces {
    spent: Duration,
}

impl Pieces {
    /// Does a piece of it.
    pub fn add<T>(&mut self, piece: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = piece();
        self.spent += start.elapsed();
        result
    }

    /// The phase has ended; returns what it took.
    pub fn end(self, phase: &str) -> Duration {
        tell(phase, self.spent);
        self.spent
    }
}

fn tell(phase: &str, time: Duration) {
    debug!("{phase}: {:.1} ms", time.as_secs_f64() * 1000.0);
}
