//! What others learn of a machine that was started or stopped: a row of the history, and an event of the pool.

use rustix::system::uname;

use super::Head;
use crate::events::pool::{PoolEvent, PoolEventKind};
use crate::machine::{Machine, label};
use crate::state::health;
use crate::state::history::{History, PowerRow};

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
    let event = match reason {
        Some(reason) => event.because(reason),
        None => event,
    };
    History::of(head.state).append_power(PowerRow {
        event: kind,
        machine: label(&machine.name, machine.port),
        head: uname().nodename().to_string_lossy().into_owned(),
        time: event.time,
        duration: seconds.map(|seconds| (seconds * 1000.0) as u64),
        reason: event.reason.clone(),
    });
    head.state.announce(&event);
}
