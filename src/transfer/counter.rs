//! Counting what is sent, and telling about it.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::events::{Event, Observer};
use crate::local::Item;

/// How many bytes are sent between two events.
const PROGRESS: u64 = 16 << 20;

/// And how much time at the most, as long as any are.
const SLOW: Duration = Duration::from_secs(1);

/// Counts what is sent, and tells about it.
pub(super) struct Counter<'a> {
    machine: &'a str,
    observer: &'a mut dyn Observer,
    pub sent: u64,
    told: u64,
    told_at: Instant,
    of: u64,
}

impl<'a> Counter<'a> {
    pub fn start(items: &[Item], machine: &'a str, observer: &'a mut dyn Observer) -> Counter<'a> {
        let bytes = items.iter().map(|item| item.nar_size).sum();
        observer.observe(&Event::Sending { machine, items: items.len(), bytes });
        Counter { machine, observer, sent: 0, told: 0, told_at: Instant::now(), of: bytes }
    }

    pub fn count(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        if self.sent >= self.told + PROGRESS || self.told_at.elapsed() >= SLOW {
            (self.told, self.told_at) = (self.sent, Instant::now());
            self.observer.observe(&Event::Sent { machine: self.machine, bytes: self.sent, of: self.of });
        }
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
        self.counter.count(count);
        Ok(count)
    }
}
