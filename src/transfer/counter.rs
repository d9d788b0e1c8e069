//! How much has been sent: for those who watch, and for what is remembered of the line.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::gauge::{Gauge, Way};
use super::turns::Turns;
use crate::crash::{Point, half};
use crate::events::{Event, Observer};
use crate::local::Item;
use crate::machine::Compressed;

/// How many bytes are sent between two events.
const PROGRESS: u64 = 16 << 20;

/// And how much time at the most, as long as any are.
const SLOW: Duration = Duration::from_secs(1);

/// Counts what is sent, and tells about it.
pub(super) struct Counter<'a> {
    machine: &'a str,
    observer: &'a mut dyn Observer,
    sent: u64,
    told: u64,
    told_at: Instant,
    of: u64,
    gauge: Gauge,
    /// What took time beside the items.
    other: Duration,
}

impl<'a> Counter<'a> {
    pub fn start(items: &[Item], machine: &'a str, observer: &'a mut dyn Observer) -> Counter<'a> {
        let bytes = items.iter().map(|item| item.nar_size).sum();
        observer.observe(&Event::Sending { machine, items: items.len(), bytes });
        Counter {
            machine,
            observer,
            sent: 0,
            told: 0,
            told_at: Instant::now(),
            of: bytes,
            gauge: Gauge::start(),
            other: Duration::ZERO,
        }
    }

    pub fn count(&mut self, data: &[u8]) {
        self.gauge.pass(data);
        self.sent += data.len() as u64;
        half(Point::UploadHalf, self.sent, self.of);
        if self.sent >= self.told + PROGRESS || self.told_at.elapsed() >= SLOW {
            (self.told, self.told_at) = (self.sent, Instant::now());
            self.observer.observe(&Event::Sent { machine: self.machine, bytes: self.sent, of: self.of });
        }
    }

    /// Something else than items took time.
    pub fn spent(&mut self, other: Duration) {
        self.other += other;
    }

    /// What was sent is to be sent again.
    pub fn again(&mut self, from: u64) {
        self.sent = from;
    }

    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// All of `items` are there.
    pub fn end(self, items: usize, turns: &Turns<'_>, compressed: Compressed) {
        self.gauge.end(Way::Sending, items, self.other, turns, compressed);
    }

    /// Counts what is read from `source`.
    pub fn reader<R: Read>(&mut self, source: R) -> Counted<'_, 'a, R> {
        Counted { source, counter: self }
    }
}

pub(super) struct Counted<'c, 'a, R> {
    source: R,
    counter: &'c mut Counter<'a>,
}

impl<R: Read> Read for Counted<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.counter.count(&buffer[..count]);
        Ok(count)
    }
}
