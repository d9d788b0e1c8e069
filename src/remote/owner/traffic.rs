//! How much a session carries, and whether that keeps its owner busy.
//!
//! One thread encrypts and decrypts all bytes of a session. Two large transfers at the same time are faster over two
//! sessions if the link is fast and the head has several processors: measured on loopback with two processors, two
//! outputs of 128 MiB take 0.81 of the time (0.57 to 1.05). So an owner that has carried [`BUSY_RATE`] in the last
//! [`WINDOW`] and still has a stream in use is *busy*: a new build gets a session of its own, if the machine may have one
//! more.

use std::time::{Duration, Instant};

/// The rate from which on an owner is busy, in bytes per second. Below this rate the link is the bottleneck.
pub(super) const BUSY_RATE: u64 = 8 << 20;

/// The time over which the rate is measured.
const WINDOW: Duration = Duration::from_millis(500);

/// The bytes of a session over all streams.
pub(super) struct Traffic {
    sent: u64,
    received: u64,
    /// When the current window began, and the bytes then.
    window: (Instant, u64),
    /// Whether the window before was busy.
    was_busy: bool,
}

impl Traffic {
    pub fn new(now: Instant) -> Traffic {
        Traffic { sent: 0, received: 0, window: (now, 0), was_busy: false }
    }

    /// Returns the bytes sent to the machine, and received from it.
    pub fn bytes(&self) -> [u64; 2] {
        [self.sent, self.received]
    }

    /// Adds bytes that were sent.
    pub fn add_sent(&mut self, bytes: usize, now: Instant) {
        self.sent += bytes as u64;
        self.end_window(now);
    }

    /// Adds bytes that were received.
    pub fn add_received(&mut self, bytes: usize, now: Instant) {
        self.received += bytes as u64;
        self.end_window(now);
    }

    /// Returns whether the owner is busy at `now`.
    pub fn is_busy(&mut self, now: Instant) -> bool {
        self.end_window(now);
        self.was_busy
    }

    /// Ends the current window, if its time is over.
    fn end_window(&mut self, now: Instant) {
        let (since, before) = self.window;
        let (time, all) = (now.saturating_duration_since(since), self.sent + self.received);
        if time >= WINDOW {
            self.was_busy = (all - before) as f64 >= BUSY_RATE as f64 * time.as_secs_f64();
            self.window = (now, all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_busy_while_it_carries_much() {
        let begin = Instant::now();
        let mut traffic = Traffic::new(begin);
        let per_step = BUSY_RATE as usize / 10 + 2;
        let mut step = 0;
        let mut is_busy = |bytes: [usize; 2]| {
            step += 1;
            let now = begin + Duration::from_millis(100) * step;
            // The second call may end the window that the first one has filled.
            traffic.add_sent(bytes[0], now - Duration::from_micros(1));
            traffic.add_received(bytes[1], now - Duration::from_micros(1));
            traffic.is_busy(now)
        };
        // Both directions count. A window of five steps must have passed.
        let busy: Vec<bool> = (0..6).map(|_| is_busy([per_step / 2, per_step / 2])).collect();
        assert_eq!(busy, [false, false, false, false, true, true]);
        // It is idle after a window with less.
        let busy: Vec<bool> = (0..10).map(|_| is_busy([per_step - 10, 0])).collect();
        assert_eq!(busy[5..], [false; 5]);
        // A burst is not enough, however long the pause after it.
        traffic.add_sent(BUSY_RATE as usize, begin + Duration::from_millis(1700));
        assert!(!traffic.is_busy(begin + Duration::from_secs(60)));
    }
}
