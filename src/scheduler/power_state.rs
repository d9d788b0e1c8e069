//! Whether a machine runs, as far as the scheduler is concerned.
//!
//! A machine that is not on demand always runs, whether it responds or not.

use std::fmt;
use std::time::Duration;

use crate::state::health::Time;
use crate::state::{Phase, Power};

/// Whether a machine runs, as far as a build is concerned.
#[derive(Clone, Debug, PartialEq)]
pub enum PowerState {
    Running,
    /// It can be started, for a build that has waited this long for a machine that runs.
    Off {
        start_after: Duration,
    },
    /// A process starts it, for this long already.
    Starting {
        since: Duration,
    },
    /// A process stops it. It can be started afterwards.
    Stopping,
    /// A limit of the pool forbids a start.
    Limited(String),
    /// Its last start has failed, and it is not started again for a while.
    Failed(String),
}

impl fmt::Display for PowerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PowerState::Running => f.write_str("it runs"),
            PowerState::Off { start_after } if start_after.is_zero() => f.write_str("off, and can be started"),
            PowerState::Off { start_after } => {
                write!(f, "off, and can be started (after {} s if a matching machine runs)", start_after.as_secs_f64())
            }
            PowerState::Starting { since } => write!(f, "starting for {} s", since.as_secs()),
            PowerState::Stopping => f.write_str("stopping"),
            PowerState::Limited(limit) => write!(f, "off: {limit}"),
            PowerState::Failed(error) => write!(f, "off: its last start failed: {error}"),
        }
    }
}

impl PowerState {
    /// Returns what a record means at `now`. `is_changing`: a process starts or stops the machine. `is_dead`: the machine
    /// should run, and does not respond. `limits`: an error if a limit of the pool forbids a start.
    pub fn of(
        power: &Power,
        is_changing: bool,
        now: Time,
        start_after: Duration,
        is_dead: impl FnOnce() -> bool,
        limits: impl FnOnce() -> Result<(), String>,
    ) -> PowerState {
        match power.phase {
            // A process that has just taken the lock has written nothing yet.
            Phase::Off if is_changing => PowerState::Starting { since: Duration::ZERO },
            Phase::Starting if is_changing => {
                PowerState::Starting { since: Duration::from_millis(now.saturating_sub(power.started)) }
            }
            Phase::Running if !is_dead() => PowerState::Running,
            _ if is_changing => PowerState::Stopping,
            _ if power.backs_off_until(now).is_some() => PowerState::Failed(power.error.clone().unwrap_or_default()),
            _ => limits().map_or_else(PowerState::Limited, |()| PowerState::Off { start_after }),
        }
    }

    /// Returns whether the machine does not run, and will take builds once it has been started.
    pub fn is_on_demand(&self) -> bool {
        matches!(self, PowerState::Off { .. } | PowerState::Starting { .. } | PowerState::Stopping)
    }

    /// Returns its name for functions of the machine file.
    pub fn word(&self) -> &'static str {
        match self {
            PowerState::Running => "running",
            PowerState::Off { .. } | PowerState::Limited(_) => "off",
            PowerState::Starting { .. } => "starting",
            PowerState::Stopping => "stopping",
            PowerState::Failed(_) => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_machine_that_will_run_soon_is_worth_a_wait() {
        let off = PowerState::Off { start_after: Duration::ZERO };
        let soon = [off, PowerState::Starting { since: Duration::ZERO }, PowerState::Stopping];
        assert!(soon.iter().all(PowerState::is_on_demand));
        let others = [PowerState::Running, PowerState::Limited(String::new()), PowerState::Failed(String::new())];
        assert!(!others.iter().any(PowerState::is_on_demand));
    }
}
