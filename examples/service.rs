//! A service that builds derivations, three at a time, with progress and cancellation.
//!
//! ```text
//! service MACHINE-FILE
//! ```
//!
//! It reads a command on each line of its standard input, and prints what happens:
//!
//! | command | |
//! |---|---|
//! | `build DERIVATION` | puts a derivation into the queue |
//! | `cancel DERIVATION` | takes it out of the queue, or ends its build |
//! | end of file | the service ends when the queue is empty |
//!
//! Each worker is a thread. SSH sessions stay open between builds, so that only the first build on a machine connects. The
//! first line of `main` gives each session a process of its own; without it sessions are threads of this process.

use std::collections::{HashMap, VecDeque};
use std::env;
use std::error::Error;
use std::io::{self, BufRead, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use offload::{BuildError, Built, Cancel, Engine, Event, Pool};

/// How many builds run at the same time.
const WORKERS: usize = 3;

/// How often progress is printed.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The derivations to build, and the switches of all builds that have not ended.
#[derive(Default)]
struct Queue {
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<(String, Cancel)>,
    switches: HashMap<String, Cancel>,
    is_closed: bool,
}

impl Queue {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, derivation: &str) {
        let mut jobs = self.jobs();
        if jobs.switches.contains_key(derivation) {
            return println!("{derivation}: already in the queue");
        }
        let cancel = Cancel::default();
        jobs.switches.insert(derivation.to_owned(), cancel.clone());
        jobs.waiting.push_back((derivation.to_owned(), cancel));
        self.changed.notify_one();
    }

    /// Turns the switch. The worker that finds the build, or has it, prints the result.
    fn cancel(&self, derivation: &str) {
        match self.jobs().switches.get(derivation) {
            Some(cancel) => cancel.cancel(),
            None => println!("{derivation}: not in the queue"),
        }
    }

    fn close(&self) {
        self.jobs().is_closed = true;
        self.changed.notify_all();
    }

    /// Waits for the next build; `None` when there will be no more.
    fn next(&self) -> Option<(String, Cancel)> {
        let mut jobs = self.jobs();
        loop {
            if let Some(job) = jobs.waiting.pop_front() {
                return Some(job);
            }
            if jobs.is_closed {
                return None;
            }
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn ended(&self, derivation: &str) {
        self.jobs().switches.remove(derivation);
    }
}

/// Copies the output of builders to standard error, with the name of the derivation before each line.
struct PrefixedLog {
    prefix: String,
    line: Vec<u8>,
}

impl Write for PrefixedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            self.line.push(byte);
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                eprint!("{}: {}", self.prefix, String::from_utf8_lossy(&line));
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Builds what is in the queue.
fn work(pool: &Pool, queue: &Queue) {
    while let Some((derivation, cancel)) = queue.next() {
        let result = build(pool, &derivation, &cancel);
        // It leaves the queue first: who reads the result may ask for the same build again.
        queue.ended(&derivation);
        match result {
            Ok(built) => print_result(&built),
            Err(BuildError::Cancelled) => println!("{derivation}: cancelled"),
            Err(error) => {
                println!("{derivation}: failed: {error}");
                if let Some(hint) = error.hint() {
                    println!("{derivation}: hint: {hint}");
                }
            }
        }
    }
}

fn build(pool: &Pool, derivation: &str, cancel: &Cancel) -> Result<Built, BuildError> {
    let mut printed = Instant::now();
    let on_event = |event: &Event<'_>| match event {
        Event::Offloading { machine, .. } => println!("{derivation}: sending inputs to {machine}"),
        Event::Building { machine, .. } => println!("{derivation}: building on {machine}"),
        Event::Abandoned { machine, cause, .. } => println!("{derivation}: {machine} failed: {cause}"),
        Event::Warning { file, line, message } => println!("{file}:{}: {message}", line.unwrap_or(0)),
        Event::Uploaded { bytes, of, .. } if printed.elapsed() >= PROGRESS_INTERVAL => {
            printed = Instant::now();
            println!("{derivation}: sent {bytes} of {of} bytes");
        }
        Event::Downloaded { bytes, .. } if printed.elapsed() >= PROGRESS_INTERVAL => {
            printed = Instant::now();
            println!("{derivation}: fetched {bytes} bytes");
        }
        _ => {}
    };
    let log = PrefixedLog { prefix: derivation.to_owned(), line: Vec::new() };
    pool.build(derivation).cancel(cancel).log(log).on_event(on_event).run()
}

/// Prints the result. The outputs stay protected until `built` is dropped: a real service makes a root before that.
fn print_result(built: &Built) {
    let Built { derivation, machine, sent, fetched, building, .. } = built;
    println!("{derivation}: built on {machine}, {sent} bytes sent, {fetched} bytes fetched, {building:.1?}");
    for (id, output) in &built.outputs {
        println!("{derivation}: {id} is {output}");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    offload::serve_if_asked();
    let file = env::args().nth(1).ok_or("usage: service MACHINE-FILE")?;
    let pool = Engine::builder().build()?.load(file)?;
    let queue = Arc::new(Queue::default());
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (pool, queue) = (pool.clone(), Arc::clone(&queue));
            thread::spawn(move || work(&pool, &queue))
        })
        .collect();
    for line in io::stdin().lock().lines() {
        match line?.split_once(' ') {
            Some(("build", derivation)) => queue.add(derivation),
            Some(("cancel", derivation)) => queue.cancel(derivation),
            _ => println!("commands: build DERIVATION, cancel DERIVATION"),
        }
    }
    queue.close();
    for worker in workers {
        worker.join().map_err(|_| "a worker has panicked")?;
    }
    Ok(())
}
