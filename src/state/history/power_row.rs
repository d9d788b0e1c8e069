//! What happened to a machine on demand, as a row of the history, and the sums of such rows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::summary::median;
use crate::events::pool::PoolEventKind;
use crate::state::health::Time;

/// A start or stop of a machine on demand. JSON has these names, too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PowerRow {
    /// `machine_started`, `machine_stopped`, `start_failed` or `stop_failed`.
    pub event: PoolEventKind,
    /// The machine, with its port if that is not 22.
    pub machine: String,
    /// The host name of the head.
    pub head: String,
    /// Milliseconds since 1970.
    pub time: Time,
    /// How long it took to start, or was on before it was stopped, in milliseconds. None: unknown.
    pub duration: Option<u64>,
    /// Why it has failed.
    pub reason: Option<String>,
}

/// The sums of a machine on demand. Times are in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PowerSummary {
    pub machine: String,
    pub starts: u64,
    pub failed_starts: u64,
    pub stops: u64,
    pub failed_stops: u64,
    /// The sum of the times from start to stop.
    pub on: u64,
    /// The sum of the times that starts took.
    pub booting: u64,
    /// The median of these times. None: unknown.
    pub median_boot: Option<u64>,
}

impl PowerSummary {
    /// Adds `count` rows of this kind, with the sum of their durations.
    pub(super) fn add(&mut self, event: PoolEventKind, count: u64, duration: u64) {
        let (number, time) = match event {
            PoolEventKind::MachineStarted => (&mut self.starts, Some(&mut self.booting)),
            PoolEventKind::MachineStopped => (&mut self.stops, Some(&mut self.on)),
            PoolEventKind::StartFailed => (&mut self.failed_starts, None),
            PoolEventKind::StopFailed => (&mut self.failed_stops, None),
            _ => return,
        };
        *number = number.saturating_add(count);
        if let Some(time) = time {
            *time = time.saturating_add(duration);
        }
    }
}

/// Returns the sums of each machine among `rows`, in the order of their names.
pub fn summarize_power(rows: &[PowerRow]) -> Vec<PowerSummary> {
    let mut machines: BTreeMap<&str, (PowerSummary, Vec<u64>)> = BTreeMap::new();
    for row in rows {
        let (summary, boots) = machines.entry(&row.machine).or_default();
        summary.add(row.event, 1, row.duration.unwrap_or(0));
        boots.extend(row.duration.filter(|_| row.event == PoolEventKind::MachineStarted));
    }
    let whole = |(machine, (summary, boots)): (&str, (PowerSummary, Vec<u64>))| PowerSummary {
        machine: machine.to_owned(),
        median_boot: median(boots),
        ..summary
    };
    machines.into_iter().map(whole).collect()
}
