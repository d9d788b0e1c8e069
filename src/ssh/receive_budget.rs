//! How much a server may send.
//!
//! libssh2 (1.11.1) keeps what nobody has asked for, in a list without a limit (`_libssh2_packet_add`): packets of
//! types that it does not know, answers without a question, data without content. A channel's data is bounded by its
//! window; what is left here bounds the rest, by the bytes that come:
//!
//! - Until the login is through, [`MAX_BEFORE_LOGIN`] in all. A key exchange takes some 5 KiB, a long text before the login
//!   ten more. Small packets cost about twenty times their length, so that is what a stranger can take in memory: some
//!   20 MiB.
//! - After that, [`MAX_UNREQUESTED`] bytes without one that was wanted: room for the windows of several channels that are not
//!   being read, the widened one's 8 MiB among them, in packets that are small. In memory they are 100 MiB at worst.
//!   Bytes that were wanted, a write that was taken and a question whether the server is alive each make up for a
//!   number of others.
//!
//! What remains: a machine that has proved who it is and sends what is wanted may send [`BUDGET_PER_WANTED_BYTE`] times as much beside
//! it, for as long as it does so. And where a link is compressed, bytes say little about what they are unpacked to: 40
//! kB for each packet at the most, from less than a hundred bytes.

use super::error::Cause;

/// What one call of libssh2 may receive: little enough to look at the clock many times in a second, and enough for the
/// buffers to be full.
const BUDGET_STEP: u64 = 256 << 10;

/// The most bytes that a server may send before the login.
const MAX_BEFORE_LOGIN: u64 = 1 << 20;
/// The most unrequested bytes that a server may send at a time after the login.
const MAX_UNREQUESTED: u64 = 32 << 20;

/// The bytes on the wire for one that is wanted, when they come in the smallest packets that a daemon makes: 24 bytes
/// of a build's log, with up to 90 around them.
const BUDGET_PER_WANTED_BYTE: u64 = 8;

/// An answer to a keep-alive, with all that is around it.
const MIN_REPLY_BYTES: u64 = 256;

pub(super) struct ReceiveBudget {
    left: u64,
    is_logged_in: bool,
}

impl ReceiveBudget {
    pub(super) fn new() -> ReceiveBudget {
        ReceiveBudget { left: MAX_BEFORE_LOGIN, is_logged_in: false }
    }

    pub(super) fn log_in(&mut self) {
        *self = ReceiveBudget { left: MAX_UNREQUESTED, is_logged_in: true };
    }

    /// What the next call may receive.
    pub(super) fn slice(&self) -> usize {
        self.left.min(BUDGET_STEP) as usize
    }

    pub(super) fn received(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes as u64);
    }

    /// Bytes that were wanted have been read, or bytes of ours been taken.
    pub(super) fn moved(&mut self, bytes: usize) {
        self.add((bytes as u64).saturating_mul(BUDGET_PER_WANTED_BYTE));
    }

    /// The server has been asked for a sign of life.
    pub(super) fn asked(&mut self) {
        self.add(MIN_REPLY_BYTES);
    }

    /// Whether it is used up, and what to say then.
    pub(super) fn exceeded(&self) -> Option<Cause> {
        let cause = if self.is_logged_in { Cause::TooMuchUnasked } else { Cause::TooMuchBeforeLogin(MAX_BEFORE_LOGIN) };
        (self.left == 0).then_some(cause)
    }

    fn add(&mut self, bytes: u64) {
        if self.is_logged_in {
            self.left = self.left.saturating_add(bytes).min(MAX_UNREQUESTED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that come before it is too much, with this done after each slice.
    fn taken(receive_budget: &mut ReceiveBudget, each: impl Fn(&mut ReceiveBudget)) -> u64 {
        let mut taken = 0;
        while receive_budget.exceeded().is_none() && taken < 1 << 30 {
            let slice = receive_budget.slice();
            assert!(slice > 0 && slice as u64 <= BUDGET_STEP);
            receive_budget.received(slice);
            taken += slice as u64;
            each(receive_budget);
        }
        taken
    }

    #[test]
    fn nothing_makes_it_more_before_the_login() {
        let mut receive_budget = ReceiveBudget::new();
        let each = |receive_budget: &mut ReceiveBudget| {
            receive_budget.moved(1 << 20);
            receive_budget.asked();
        };
        assert_eq!(taken(&mut receive_budget, each), MAX_BEFORE_LOGIN);
        assert!(matches!(receive_budget.exceeded(), Some(Cause::TooMuchBeforeLogin(MAX_BEFORE_LOGIN))));
    }

    #[test]
    fn what_nobody_wants_comes_to_an_end() {
        let mut receive_budget = ReceiveBudget::new();
        receive_budget.log_in();
        assert_eq!(taken(&mut receive_budget, |_| ()), MAX_UNREQUESTED);
        assert!(matches!(receive_budget.exceeded(), Some(Cause::TooMuchUnasked)));
        // Nor is anything saved up by what was wanted before.
        let mut receive_budget = ReceiveBudget::new();
        receive_budget.log_in();
        receive_budget.moved(1 << 40);
        assert_eq!(taken(&mut receive_budget, |_| ()), MAX_UNREQUESTED);
    }

    #[test]
    fn what_is_wanted_does_not_even_in_small_packets() {
        for wanted in [BUDGET_STEP, BUDGET_STEP / 5] {
            let mut receive_budget = ReceiveBudget::new();
            receive_budget.log_in();
            assert_eq!(taken(&mut receive_budget, |receive_budget| receive_budget.moved(wanted as usize)), 1 << 30);
        }
    }
}
