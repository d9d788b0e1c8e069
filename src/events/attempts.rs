//! Adds up the times and bytes of each attempt from the events of a build.

use std::mem::take;
use std::time::{Duration, Instant};

use super::Event;

/// The phases of an attempt, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for a machine.
    Waiting,
    /// Connecting, and sending inputs.
    Sending,
    Building,
    /// Downloading the outputs.
    Retrieving,
    /// Moving the outputs into the store, and registering them outside of a hook.
    Placing,
}

/// The sums of an attempt on a machine, or of a wait without one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttemptSums {
    /// The name and the port of the machine; `None` if no machine was chosen.
    pub machine: Option<(String, u16)>,
    /// The number of its slot there, from 0.
    pub slot: Option<u32>,
    /// Why the attempt was abandoned, if it was.
    pub failure: Option<String>,
    /// Whether the connection was open before; `None` if there was none.
    pub is_reused: Option<bool>,
    pub sent: Moved,
    /// What the machine fetched from substitute servers.
    pub substituted: Moved,
    pub retrieved: Moved,
    /// The time of each phase.
    pub times: [Duration; 5],
}

/// Store items that were moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Items of transfers that ended.
    pub items: u64,
    /// Also those of transfers that were cut off.
    pub bytes: u64,
}

impl Moved {
    fn add(&mut self, items: usize, bytes: u64) {
        self.items = self.items.saturating_add(items as u64);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

impl AttemptSums {
    pub fn time(&self, phase: Phase) -> Duration {
        self.times[phase as usize]
    }
}

/// The attempts of a build so far.
#[derive(Debug)]
pub struct Attempts {
    ended: Vec<AttemptSums>,
    current: AttemptSums,
    phase: Phase,
    since: Instant,
    /// The bytes of an upload that has not ended.
    uploading: u64,
    /// The bytes of the outputs before the one that is downloaded, and of that one.
    downloaded: u64,
    downloading: u64,
}

impl Attempts {
    /// Begins with the phase of waiting.
    pub fn new(now: Instant) -> Attempts {
        let (ended, current, phase) = (Vec::new(), AttemptSums::default(), Phase::Waiting);
        Attempts { ended, current, phase, since: now, uploading: 0, downloaded: 0, downloading: 0 }
    }

    /// Records an event.
    pub fn record(&mut self, event: &Event<'_>, now: Instant) {
        match event {
            Event::Offloading { machine, port, slot, .. } => {
                self.enter(Phase::Sending, now);
                self.current.machine = Some(((*machine).to_owned(), *port));
                self.current.slot = Some(*slot);
            }
            Event::Connected { is_reused, .. } => self.current.is_reused = Some(*is_reused),
            Event::Uploaded { bytes, .. } => self.uploading = *bytes,
            Event::UploadEnded { items, bytes, .. } => {
                self.uploading = 0;
                self.current.sent.add(*items, *bytes);
            }
            Event::FetchEnded { items, bytes, .. } => self.current.substituted.add(*items, *bytes),
            Event::Building { .. } => self.enter(Phase::Building, now),
            Event::Built { .. } => self.enter(Phase::Retrieving, now),
            Event::Downloading { .. } => self.downloaded += take(&mut self.downloading),
            Event::Downloaded { bytes, .. } => self.downloading = *bytes,
            Event::DownloadEnded { items, bytes, .. } => {
                self.enter(Phase::Placing, now);
                (self.downloaded, self.downloading) = (0, 0);
                self.current.retrieved.add(*items, *bytes);
            }
            Event::Abandoned { cause, .. } => {
                self.current.failure = Some((*cause).to_owned());
                self.end_attempt(now);
            }
            _ => {}
        }
    }

    /// Ends the last phase, and returns the attempts. After a last attempt that was abandoned comes the wait for another
    /// machine, which ended without one.
    pub fn end(mut self, now: Instant) -> Vec<AttemptSums> {
        self.end_attempt(now);
        self.ended
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        self.current.times[self.phase as usize] += now.saturating_duration_since(self.since);
        (self.phase, self.since) = (phase, now);
    }

    fn end_attempt(&mut self, now: Instant) {
        self.enter(Phase::Waiting, now);
        self.current.sent.add(0, take(&mut self.uploading));
        self.current.retrieved.add(0, take(&mut self.downloaded) + take(&mut self.downloading));
        self.ended.push(take(&mut self.current));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::path::{StoreDir, StorePath};

    #[test]
    fn phases_and_bytes_are_those_of_their_attempt() {
        let drv = b"/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-x.drv";
        let derivation = &StorePath::parse(&StoreDir::default(), drv).unwrap();
        let begin = Instant::now();
        let mut attempts = Attempts::new(begin);
        let events = [
            Event::Offloading { derivation, machine: "b1", port: 22, slot: 3 },
            Event::Connected { machine: "b1", is_reused: true },
            Event::Uploaded { machine: "b1", bytes: 10, of: 20 },
            Event::Abandoned { derivation, machine: "b1", cause: "lost" },
            Event::Offloading { derivation, machine: "b2", port: 2222, slot: 4 },
            Event::Connected { machine: "b2", is_reused: false },
            Event::UploadEnded { machine: "b2", items: 2, bytes: 20 },
            Event::UploadEnded { machine: "b2", items: 3, bytes: 30 },
            Event::FetchEnded { machine: "b2", items: 4, bytes: 40, seconds: 1 },
            Event::Building { derivation, machine: "b2" },
            Event::Built { derivation, machine: "b2" },
            Event::Downloaded { machine: "b2", output: derivation, bytes: 5 },
            Event::DownloadEnded { machine: "b2", items: 1, bytes: 7 },
            Event::Done { derivation, machine: "b2" },
        ];
        for (second, event) in events.iter().enumerate() {
            attempts.record(event, begin + Duration::from_secs(second as u64 + 1));
        }
        let ended = attempts.end(begin + Duration::from_secs(20));
        let seconds = |times: [u64; 5]| times.map(Duration::from_secs);
        let first = AttemptSums {
            machine: Some(("b1".to_owned(), 22)),
            slot: Some(3),
            failure: Some("lost".to_owned()),
            is_reused: Some(true),
            sent: Moved { items: 0, bytes: 10 },
            times: seconds([1, 3, 0, 0, 0]),
            ..AttemptSums::default()
        };
        let second = AttemptSums {
            machine: Some(("b2".to_owned(), 2222)),
            slot: Some(4),
            failure: None,
            is_reused: Some(false),
            sent: Moved { items: 5, bytes: 50 },
            substituted: Moved { items: 4, bytes: 40 },
            retrieved: Moved { items: 1, bytes: 7 },
            times: seconds([1, 5, 1, 2, 7]),
        };
        assert_eq!(ended, [first, second]);
    }

    #[test]
    fn the_bytes_of_a_lost_transfer_count_once() {
        let drv = b"/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-x.drv";
        let derivation = &StorePath::parse(&StoreDir::default(), drv).unwrap();
        let begin = Instant::now();
        let mut attempts = Attempts::new(begin);
        // The second machine has all inputs.
        for event in [
            Event::Uploaded { machine: "b1", bytes: 10, of: 20 },
            Event::Abandoned { derivation, machine: "b1", cause: "lost" },
            Event::Downloading { machine: "b2", output: derivation },
            Event::Downloaded { machine: "b2", output: derivation, bytes: 3 },
            Event::Abandoned { derivation, machine: "b2", cause: "lost" },
        ] {
            attempts.record(&event, begin);
        }
        let moved: Vec<[u64; 2]> =
            attempts.end(begin).iter().map(|attempt| [attempt.sent.bytes, attempt.retrieved.bytes]).collect();
        assert_eq!(moved, [[10, 0], [0, 3], [0, 0]]);
    }

    #[test]
    fn a_wait_without_a_machine_and_a_lost_download_are_recorded() {
        let drv = b"/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-x.drv";
        let derivation = &StorePath::parse(&StoreDir::default(), drv).unwrap();
        let begin = Instant::now();
        let mut attempts = Attempts::new(begin);
        attempts.record(&Event::Offloading { derivation, machine: "b1", port: 22, slot: 3 }, begin);
        for bytes in [5, 8] {
            attempts.record(&Event::Downloading { machine: "b1", output: derivation }, begin);
            attempts.record(&Event::Downloaded { machine: "b1", output: derivation, bytes: 2 }, begin);
            attempts.record(&Event::Downloaded { machine: "b1", output: derivation, bytes }, begin);
        }
        attempts.record(&Event::Abandoned { derivation, machine: "b1", cause: "lost" }, begin);
        let ended = attempts.end(begin + Duration::from_secs(9));
        assert_eq!((ended.len(), ended[0].retrieved), (2, Moved { items: 0, bytes: 13 }));
        assert_eq!((ended[1].machine.as_ref(), ended[1].time(Phase::Waiting).as_secs()), (None, 9));
    }
}
