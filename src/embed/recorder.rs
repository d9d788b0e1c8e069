//! Passes the events of a build on to the program, and adds up bytes and times for its result.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use super::built::Attempt;
use crate::events::attempts::{AttemptSums, Attempts};
use crate::events::{Event, Observer};

/// The program's function for events.
pub(super) type OnEvent<'a> = Box<dyn FnMut(&Event<'_>) + 'a>;

/// Passes events on to the program.
pub(super) struct Emitter<'a>(RefCell<OnEvent<'a>>);

impl<'a> Emitter<'a> {
    pub fn new(on_event: OnEvent<'a>) -> Emitter<'a> {
        Emitter(RefCell::new(on_event))
    }

    pub fn emit(&self, event: &Event<'_>) {
        // The program's function cannot cause an event itself.
        if let Ok(mut on_event) = self.0.try_borrow_mut() {
            on_event(event);
        }
    }
}

/// The sums of a build.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub attempts: Vec<Attempt>,
    pub sent: u64,
    pub substituted: u64,
    pub fetched: u64,
    /// The time of each phase.
    pub times: [Duration; 5],
}

pub(super) struct Recorder<'a, 'b> {
    emitter: &'a Emitter<'b>,
    attempts: Attempts,
}

impl<'a, 'b> Recorder<'a, 'b> {
    /// Begins to record, in the phase of waiting.
    pub fn new(emitter: &'a Emitter<'b>) -> Recorder<'a, 'b> {
        Recorder { emitter, attempts: Attempts::new(Instant::now()) }
    }

    /// Ends the last phase, and returns the sums.
    pub fn end(self) -> Sums {
        sums(self.attempts.end(Instant::now()))
    }
}

/// Adds up the attempts.
fn sums(attempts: Vec<AttemptSums>) -> Sums {
    let mut sums = Sums::default();
    for attempt in attempts {
        sums.sent += attempt.sent.bytes;
        sums.substituted += attempt.substituted.bytes;
        sums.fetched += attempt.retrieved.bytes;
        for (sum, time) in sums.times.iter_mut().zip(attempt.times) {
            *sum += time;
        }
        if let Some((machine, _)) = attempt.machine {
            sums.attempts.push(Attempt { machine, failure: attempt.failure });
        }
    }
    sums
}

impl Observer for Recorder<'_, '_> {
    fn observe(&mut self, event: &Event<'_>) {
        self.attempts.record(event, Instant::now());
        self.emitter.emit(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::attempts::Moved;

    #[test]
    fn phases_and_bytes_add_up_over_attempts() {
        let moved = |bytes| Moved { items: 1, bytes };
        let seconds = |times: [u64; 5]| times.map(Duration::from_secs);
        let machine = |name: &str| Some((name.to_owned(), 22));
        let attempts = vec![
            AttemptSums {
                machine: machine("b1"),
                failure: Some("lost".to_owned()),
                sent: moved(10),
                times: seconds([1, 2, 0, 0, 0]),
                ..AttemptSums::default()
            },
            AttemptSums {
                machine: machine("b2"),
                sent: moved(20),
                substituted: moved(5),
                retrieved: moved(7),
                times: seconds([1, 2, 3, 4, 5]),
                ..AttemptSums::default()
            },
            AttemptSums { times: seconds([9, 0, 0, 0, 0]), ..AttemptSums::default() },
        ];
        let Sums { attempts, sent, fetched, substituted, times } = sums(attempts);
        assert_eq!((sent, fetched, substituted), (30, 7, 5));
        let attempt = |machine: &str, failure: Option<&str>| Attempt {
            machine: machine.to_owned(),
            failure: failure.map(str::to_owned),
        };
        assert_eq!(attempts, [attempt("b1", Some("lost")), attempt("b2", None)]);
        assert_eq!(times.map(|time| time.as_secs()), [11, 4, 3, 4, 5]);
    }
}
