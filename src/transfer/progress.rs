//! Progress of an upload: for observers, and for the measurement of the link.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::limiter::TransferLimiter;
use super::meter::{Direction, ThroughputMeter};
use crate::events::{Event, Observer};
use crate::failpoints::{Failpoint, half};
use crate::local::Item;
use crate::machine::Compressed;

/// The bytes between two progress events.
pub(super) const EVENT_BYTES: u64 = 16 << 20;

/// The longest time between two progress events while bytes flow.
pub(super) const EVENT_INTERVAL: Duration = Duration::from_secs(1);

/// Counts and reports the bytes that are sent.
pub(super) struct Progress<'a> {
    machine: &'a str,
    observer: &'a mut dyn Observer,
    sent: u64,
    reported: u64,
    reported_at: Instant,
    of: u64,
    meter: ThroughputMeter,
    /// The time for work other than sending items.
    other: Duration,
}

impl<'a> Progress<'a> {
    pub fn start(items: &[Item], machine: &'a str, observer: &'a mut dyn Observer) -> Progress<'a> {
        let bytes = items.iter().map(|item| item.nar_size).sum();
        observer.observe(&Event::Uploading { machine, items: items.len(), bytes });
        Progress {
            machine,
            observer,
            sent: 0,
            reported: 0,
            reported_at: Instant::now(),
            of: bytes,
            meter: ThroughputMeter::start(),
            other: Duration::ZERO,
        }
    }

    pub fn count(&mut self, data: &[u8]) {
        self.meter.pass(data);
        self.sent += data.len() as u64;
        half(Failpoint::UploadHalf, self.sent, self.of);
        if self.sent >= self.reported + EVENT_BYTES || self.reported_at.elapsed() >= EVENT_INTERVAL {
            (self.reported, self.reported_at) = (self.sent, Instant::now());
            self.observer.observe(&Event::Uploaded { machine: self.machine, bytes: self.sent, of: self.of });
        }
    }

    /// Adds time for work other than sending items.
    pub fn spent(&mut self, other: Duration) {
        self.other += other;
    }

    /// Resets the count to `from`, because the data are sent again.
    pub fn again(&mut self, from: u64) {
        self.sent = from;
    }

    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Ends the upload after all of `items` have arrived.
    pub fn end(self, items: usize, limiter: &TransferLimiter<'_>, compressed: Compressed) {
        self.observer.observe(&Event::UploadEnded { machine: self.machine, items, bytes: self.sent });
        self.meter.end(Direction::Sending, items, self.other, limiter, compressed);
    }

    /// Returns a reader that counts what is read from `source`.
    pub fn reader<R: Read>(&mut self, source: R) -> CountedReader<'_, 'a, R> {
        CountedReader { source, progress: self }
    }
}

pub(super) struct CountedReader<'c, 'a, R> {
    source: R,
    progress: &'c mut Progress<'a>,
}

impl<R: Read> Read for CountedReader<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.progress.count(&buffer[..count]);
        Ok(count)
    }
}
