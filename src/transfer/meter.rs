//! The throughput and the compressibility of a transfer, for the choice of [`compression`](super::compression)
//! and of [substitutes](super::fetch_plan).
//!
//! A transfer counts if its bytes limit it and not its items, each of which takes a daemon some milliseconds
//! ([`ITEM_COST`]). Its rate is that of its fastest stretch of 8 MiB, except the first. A stretch has this length
//! because up to 2 MiB, OpenSSH's window, may be in flight. A transfer that is too short for a stretch only counts if
//! it shows a slow link: if it takes long even without half a second for other delays.

use std::time::{Duration, Instant};

use log::debug;

use super::compression::{self, Observation};
use super::limiter::TransferLimiter;
use crate::machine::Compressed;
use crate::state::{ThroughputRecord, health};

/// A transfer of fewer bytes is not measured.
const MIN_MEASURED_BYTES: u64 = 1 << 20;
const INTERVAL_BYTES: u64 = 8 << 20;
/// The longest time that a daemon takes for an item.
const ITEM_COST: Duration = Duration::from_millis(10);
/// The longest delay that a busy machine causes in any transfer.
const DELAY_MAX: Duration = Duration::from_millis(500);
/// A transfer must take this many times longer than its items.
const SLOW_LINK_RATIO: f64 = 4.0;

/// A sample is taken of each mebibyte, up to `MAX_SAMPLES`.
const BYTES_PER_SAMPLE: u64 = 1 << 20;
const SAMPLE_BYTES: usize = 32 << 10;
/// The most samples that are kept.
const MAX_SAMPLES: usize = 16;

/// The two directions of a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Direction {
    Sending,
    Receiving,
}

/// Measures one transfer.
pub(super) struct ThroughputMeter {
    start: Instant,
    bytes: u64,
    /// Where the current stretch began, in bytes and time.
    stretch: (u64, Instant),
    /// The rate of the fastest stretch.
    fastest: f64,
    samples: Vec<u8>,
}

impl ThroughputMeter {
    pub fn start() -> ThroughputMeter {
        let now = Instant::now();
        ThroughputMeter { start: now, bytes: 0, stretch: (0, now), fastest: 0.0, samples: Vec::new() }
    }

    /// Counts more data of the transfer.
    pub fn pass(&mut self, data: &[u8]) {
        let before = self.bytes;
        self.bytes += data.len() as u64;
        if before / BYTES_PER_SAMPLE != self.bytes / BYTES_PER_SAMPLE && self.samples.len() < MAX_SAMPLES * SAMPLE_BYTES
        {
            self.samples.extend_from_slice(&data[..data.len().min(SAMPLE_BYTES)]);
        }
        if self.bytes - self.stretch.0 >= INTERVAL_BYTES {
            let now = Instant::now();
            if self.stretch.0 > 0 {
                self.fastest = self.fastest.max(rate(self.bytes - self.stretch.0, now - self.stretch.1));
            }
            self.stretch = (self.bytes, now);
        }
    }

    /// Records the observation. `items` is the number of items; `other` is
    /// the time for other work.
    pub fn end(
        self,
        direction: Direction,
        items: usize,
        other: Duration,
        limiter: &TransferLimiter<'_>,
        compressed: Compressed,
    ) {
        let took = self.start.elapsed();
        let Some(rate) = estimated_rate(self.bytes, self.fastest, took, items, other) else { return };
        let is_compressed = match direction {
            Direction::Sending => compressed.sending,
            Direction::Receiving => compressed.receiving,
        };
        let is_worth_a_look = compression::is_worth_sampling(rate, is_compressed);
        let data = if is_worth_a_look { compression::try_out(&self.samples) } else { None };
        record_speed(limiter, direction, Observation { rate, is_compressed, data });
    }
}

/// Returns the rate of the link, if the transfer shows it. `fastest` is the rate of the fastest stretch.
fn estimated_rate(bytes: u64, fastest: f64, took: Duration, items: usize, other: Duration) -> Option<f64> {
    let of_items = ITEM_COST * u32::try_from(items).unwrap_or(u32::MAX);
    if bytes < MIN_MEASURED_BYTES || took < of_items.mul_f64(SLOW_LINK_RATIO) {
        return None;
    }
    if fastest > 0.0 {
        return Some(fastest);
    }
    let rate = rate(bytes, took.saturating_sub(of_items + other + DELAY_MAX));
    compression::is_slow(rate).then_some(rate)
}

fn rate(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64().max(1e-6)
}

fn record_speed(limiter: &TransferLimiter<'_>, direction: Direction, seen: Observation) {
    debug!("{direction:?} to '{}': {seen:?}", limiter.machine.name);
    let changed = ThroughputRecord::of(limiter.state, limiter.machine).and_then(|record| {
        record.change(|throughput| {
            let link_speed = match direction {
                Direction::Sending => &mut throughput.sending,
                Direction::Receiving => &mut throughput.receiving,
            };
            *link_speed = compression::learn(*link_speed, seen, health::now());
        })
    });
    // A missing record costs time, not a build.
    if let Err(error) = changed {
        debug!("cannot record the throughput of '{}': {error}", limiter.machine.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(bytes: u64, fastest: f64, milliseconds: u64, items: usize, other: u64) -> Option<f64> {
        estimated_rate(bytes, fastest, Duration::from_millis(milliseconds), items, Duration::from_millis(other))
    }

    #[test]
    fn a_daemon_that_is_slow_with_items_does_not_make_a_slow_link() {
        assert_eq!(estimate(4 << 20, 0.0, 2800, 1000, 0), None);
        assert_eq!(estimate(40 << 20, 1.4e6, 28_000, 10_000, 0), None);
        assert_eq!(estimate(256 << 20, 3e8, 1000, 1, 0), Some(3e8));
    }

    #[test]
    fn time_for_other_work_is_not_counted() {
        // 4 MiB take two and a half seconds, of which the program on the other side takes one to start.
        assert_eq!(estimate(4 << 20, 0.0, 2500, 1, 1000), None);
        assert_eq!(estimate(32 << 20, 3e7, 2000, 1, 1000), Some(3e7));
        assert_eq!(estimate(8_000_000, 0.0, 5510, 1, 1000), Some(2e6));
    }

    #[test]
    fn a_short_transfer_only_shows_a_slow_link() {
        assert_eq!(estimate(1000, 0.0, 10_000, 1, 0), None);
        assert_eq!(estimate(2_000_000, 0.0, 1510, 1, 0), Some(2e6));
        assert_eq!(estimate(2_000_000, 0.0, 700, 1, 0), None);
        assert_eq!(estimate(8_000_000, 0.0, 700, 1, 0), None);
    }

    #[test]
    fn samples_are_spread_and_bounded() {
        let mut meter = ThroughputMeter::start();
        for number in 0..1000 {
            meter.pass(&vec![number as u8; 64 << 10]);
        }
        assert_eq!(meter.bytes, 1000 << 16);
        assert_eq!(meter.samples.len(), MAX_SAMPLES * SAMPLE_BYTES);
        assert_eq!(meter.samples[0], 15);
        assert_eq!(meter.samples[SAMPLE_BYTES], 31);
        assert!(meter.fastest > 0.0);
    }
}
