//! What other people and programs learn of a machine that was started or stopped: an event of the pool.

use super::Head;
use crate::events::pool::{PoolEvent, PoolEventKind};
use crate::machine::{Machine, label};
use crate::state::health;

/// Reports that a machine was started or stopped, or was not. `seconds` is the time that it took to start, or that it was on.
pub(super) fn report(
    head: Head<'_>,
    machine: &Machine,
    kind: PoolEventKind,
    reason: Option<&str>,
    seconds: Option<f64>,
) {
    let event = PoolEvent::of_machine(kind, health::now(), label(&machine.name, machine.port));
    let event = PoolEvent { seconds, ..event };
    head.state.announce(&match reason {
        Some(reason) => event.because(reason),
        None => event,
    });
}
