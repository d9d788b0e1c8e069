//! Limits how much a server may send.
//!
//! libssh2 (1.11.1) stores unrequested packets in a list without a limit (`_libssh2_packet_add`): packets of unknown
//! types, replies without a request, data packets without content. The window of a channel limits its data. This budget
//! limits the rest, by the number of received bytes:
//!
//! - Before the login, the limit is [`MAX_BEFORE_LOGIN`] in all. A key exchange needs about 5 KiB, and a long text
//!   before the login ten more. Small packets need about twenty times their length in memory. So a server that is not
//!   authenticated can use about 20 MiB.
//! - After the login, the limit is [`MAX_UNREQUESTED`] without a requested byte. That is enough for the windows of
//!   several channels that are not read, in small packets, including a widened window of 8 MiB. It is at most 100 MiB
//!   in memory. Requested bytes, writes that the server accepts and keep-alive requests each add to the budget.
//!
//! Not limited: an authenticated machine that sends requested data may send [`BUDGET_PER_REQUESTED_BYTE`] times as much
//! unrequested data with it. If a connection is compressed, the number of bytes says little about their decompressed
//! size: at most 40 kB for each packet, from less than a hundred bytes.

use super::error::Cause;

/// The most bytes that one call of libssh2 receives. The clock is read many times in a second, and the buffers still
/// fill.
const MAX_RECEIVED_PER_CALL: u64 = 256 << 10;

/// The most bytes that a server may send before the login.
const MAX_BEFORE_LOGIN: u64 = 1 << 20;
/// The most unrequested bytes that a server may send at a time after the login.
const MAX_UNREQUESTED: u64 = 32 << 20;

/// The number of bytes on the wire for each requested byte. The smallest packets of a daemon are 24 bytes of a build
/// log, with up to 90 bytes of overhead.
const BUDGET_PER_REQUESTED_BYTE: u64 = 8;

/// The size of a reply to a keep-alive request, with its overhead, in bytes.
const MIN_REPLY_BYTES: u64 = 256;

/// The number of bytes that a server may still send.
pub(super) struct ReceiveBudget {
    left: u64,
    is_logged_in: bool,
}

impl ReceiveBudget {
    pub(super) fn new() -> ReceiveBudget {
        ReceiveBudget { left: MAX_BEFORE_LOGIN, is_logged_in: false }
    }

    /// Notes that the login has succeeded.
    pub(super) fn set_logged_in(&mut self) {
        *self = ReceiveBudget { left: MAX_UNREQUESTED, is_logged_in: true };
    }

    /// Returns the number of bytes that the next call may receive.
    pub(super) fn next_limit(&self) -> usize {
        self.left.min(MAX_RECEIVED_PER_CALL) as usize
    }

    /// Subtracts received bytes.
    pub(super) fn received(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes as u64);
    }

    /// Adds to the budget for bytes that a caller has read, or that the server has accepted.
    pub(super) fn credit(&mut self, bytes: usize) {
        self.add((bytes as u64).saturating_mul(BUDGET_PER_REQUESTED_BYTE));
    }

    /// Adds to the budget for a keep-alive request, which has a reply.
    pub(super) fn credit_keepalive(&mut self) {
        self.add(MIN_REPLY_BYTES);
    }

    /// Returns the cause to report if the budget is used up.
    pub(super) fn exceeded(&self) -> Option<Cause> {
        let cause =
            if self.is_logged_in { Cause::TooMuchUnrequested } else { Cause::TooMuchBeforeLogin(MAX_BEFORE_LOGIN) };
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

    /// Returns the number of bytes that are received before the budget is used up. Calls `each` after each step.
    fn received(receive_budget: &mut ReceiveBudget, each: impl Fn(&mut ReceiveBudget)) -> u64 {
        let mut received = 0;
        while receive_budget.exceeded().is_none() && received < 1 << 30 {
            let slice = receive_budget.next_limit();
            assert!(slice > 0 && slice as u64 <= MAX_RECEIVED_PER_CALL);
            receive_budget.received(slice);
            received += slice as u64;
            each(receive_budget);
        }
        received
    }

    #[test]
    fn nothing_adds_to_the_budget_before_the_login() {
        let mut receive_budget = ReceiveBudget::new();
        let each = |receive_budget: &mut ReceiveBudget| {
            receive_budget.credit(1 << 20);
            receive_budget.credit_keepalive();
        };
        assert_eq!(received(&mut receive_budget, each), MAX_BEFORE_LOGIN);
        assert!(matches!(receive_budget.exceeded(), Some(Cause::TooMuchBeforeLogin(MAX_BEFORE_LOGIN))));
    }

    #[test]
    fn unrequested_data_is_limited() {
        let mut receive_budget = ReceiveBudget::new();
        receive_budget.set_logged_in();
        assert_eq!(received(&mut receive_budget, |_| ()), MAX_UNREQUESTED);
        assert!(matches!(receive_budget.exceeded(), Some(Cause::TooMuchUnrequested)));
        // Requested bytes do not raise the budget above its maximum.
        let mut receive_budget = ReceiveBudget::new();
        receive_budget.set_logged_in();
        receive_budget.credit(1 << 40);
        assert_eq!(received(&mut receive_budget, |_| ()), MAX_UNREQUESTED);
    }

    #[test]
    fn requested_data_is_not_limited_even_in_small_packets() {
        for requested in [MAX_RECEIVED_PER_CALL, MAX_RECEIVED_PER_CALL / 5] {
            let mut receive_budget = ReceiveBudget::new();
            receive_budget.set_logged_in();
            assert_eq!(
                received(&mut receive_budget, |receive_budget| receive_budget.credit(requested as usize)),
                1 << 30
            );
        }
    }
}
