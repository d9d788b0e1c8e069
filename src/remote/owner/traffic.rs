//! How much a session carries, and whether that keeps its owner busy.
//!
//! One thread encrypts and decrypts all bytes of a session. Two large transfers at the same time are faster over two
//! sessions if the link is fast and the head has several processors: measured on loopback with two processors, two
//! outputs of 128 MiB take 0.81 of the time (0.57 to 1.05). So an owner that has carried [`BUSY_RATE`] in the last
//! [`WINDOW`] is *busy*: a new build gets a session of its own, if the machine may have one more.

use std::time::{Duration, Instant};

/// The rate from which on an owner is busy, in bytes per second. Below this rate the link is the bottleneck.
pub(super) const BUSY_RATE: u64 = 8 << 20;

/// The time over which the rate is measured.
const WINDOW: Duration = Duration::from_millis(500);

/// The bytes of a session over all streams.
pub(super) struct Traffic {
    /// The bytes sent to the machine, and received from it.
    pub bytes: [u64; 2],
    /// When the current window began, and the bytes then.
    window: (Instant, u64),
    /// Whether the window before was busy.
    was_busy: bool,
}

impl Traffic {
    pub fn new(now: Instant) -> Traffic {
        Traffic { bytes: [0; 2], window: (now, 0), was_busy: false }
    }

    /// Returns whether the owner is busy at `now`. It must be called regularly: each call may begin a window.
    pub fn is_busy(&mut self, now: Instant) -> bool {
        let (since, before) = self.window;
        let (time, all) = (now.saturating_duration_since(since), self.bytes.iter().sum::<u64>());
        if time >= WINDOW {
            self.was_busy = (all - before) as f64 >= BUSY_RATE as f64 * time.as_secs_f64();
            self.window = (now, all);
        }
        self.was_busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_busy_while_it_carries_much() {
        let begin = Instant::now();
        let mut traffic = Traffic::new(begin);
        let per_step = BUSY_RATE / 10 + 2;
        let mut step = 0;
        let mut is_busy = |bytes: [u64; 2]| {
            step += 1;
            traffic.bytes[0] += bytes[0];
            traffic.bytes[1] += bytes[1];
            traffic.is_busy(begin + Duration::from_millis(100) * step)
        };
        // Both directions count. A window of five steps must have passed.
        let busy: Vec<bool> = (0..6).map(|_| is_busy([per_step / 2, per_step / 2])).collect();
        assert_eq!(busy, [false, false, false, false, true, true]);
        // It is idle after a window with less.
        let busy: Vec<bool> = (0..10).map(|_| is_busy([per_step - 10, 0])).collect();
        assert_eq!(busy[5..], [false; 5]);
        // A burst is not enough, however long the pause after it.
        traffic.bytes[0] += BUSY_RATE;
        assert!(!traffic.is_busy(begin + Duration::from_secs(60)));
    }
}
