//! Passes the events of a build on to the program, and adds up bytes and times for its result.

use std::cell::RefCell;
use std::mem::take;
use std::time::{Duration, Instant};

use super::built::Attempt;
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

/// The phases of a build, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Waiting,
    Sending,
    Building,
    Fetching,
    Registering,
}

/// The sums of a build so far.
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
    pub sums: Sums,
    phase: Phase,
    since: Instant,
    /// The bytes of an upload that has not ended.
    uploading: u64,
}

impl<'a, 'b> Recorder<'a, 'b> {
    /// Begins to record, in the phase of waiting.
    pub fn new(emitter: &'a Emitter<'b>) -> Recorder<'a, 'b> {
        let (phase, since) = (Phase::Waiting, Instant::now());
        Recorder { emitter, sums: Sums::default(), phase, since, uploading: 0 }
    }

    /// Ends the last phase, and returns the sums.
    pub fn end(mut self) -> Sums {
        self.enter(Phase::Waiting, Instant::now());
        self.sums
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        self.sums.times[self.phase as usize] += now - self.since;
        (self.phase, self.since) = (phase, now);
    }

    fn record(&mut self, event: &Event<'_>, now: Instant) {
        match event {
            Event::Offloading { machine, .. } => {
                self.enter(Phase::Sending, now);
                self.sums.attempts.push(Attempt { machine: (*machine).to_owned(), failure: None });
            }
            Event::Building { .. } => self.enter(Phase::Building, now),
            Event::Built { .. } => self.enter(Phase::Fetching, now),
            Event::DownloadEnded { bytes, .. } => {
                self.enter(Phase::Registering, now);
                self.sums.fetched += bytes;
            }
            Event::Abandoned { cause, .. } => {
                self.enter(Phase::Waiting, now);
                self.sums.sent += take(&mut self.uploading);
                if let Some(last) = self.sums.attempts.last_mut() {
                    last.failure = Some((*cause).to_owned());
                }
            }
            Event::Uploaded { bytes, .. } => self.uploading = *bytes,
            Event::UploadEnded { bytes, .. } => {
                self.uploading = 0;
                self.sums.sent += bytes;
            }
            Event::FetchEnded { bytes, .. } => self.sums.substituted += bytes,
            _ => {}
        }
    }
}

impl Observer for Recorder<'_, '_> {
    fn observe(&mut self, event: &Event<'_>) {
        self.record(event, Instant::now());
        self.emitter.emit(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::path::{StoreDir, StorePath};

    #[test]
    fn phases_and_bytes_add_up_over_attempts() {
        let drv = b"/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-x.drv";
        let drv = &StorePath::parse(&StoreDir::default(), drv).unwrap();
        let emitter = Emitter::new(Box::new(|_| {}));
        let mut recorder = Recorder::new(&emitter);
        let begin = recorder.since;
        let events = [
            Event::Offloading { derivation: drv, machine: "b1" },
            Event::Uploaded { machine: "b1", bytes: 10, of: 20 },
            Event::Abandoned { derivation: drv, machine: "b1", cause: "lost" },
            Event::Offloading { derivation: drv, machine: "b2" },
            Event::UploadEnded { machine: "b2", items: 1, bytes: 20 },
            Event::Building { derivation: drv, machine: "b2" },
            Event::Built { derivation: drv, machine: "b2" },
            Event::DownloadEnded { machine: "b2", items: 1, bytes: 7 },
            Event::Done { derivation: drv, machine: "b2" },
        ];
        for (second, event) in events.iter().enumerate() {
            recorder.record(event, begin + Duration::from_secs(second as u64 + 1));
        }
        let Sums { attempts, sent, fetched, substituted, times } = recorder.sums;
        assert_eq!((sent, fetched, substituted), (30, 7, 0));
        let attempt = |machine: &str, failure: Option<&str>| Attempt {
            machine: machine.to_owned(),
            failure: failure.map(str::to_owned),
        };
        assert_eq!(attempts, [attempt("b1", Some("lost")), attempt("b2", None)]);
        // Waiting, sending, building, fetching; registering has not ended.
        assert_eq!(times.map(|time| time.as_secs()), [2, 4, 1, 1, 0]);
    }
}
