//! A machine on demand: how it is started and stopped, and the limits of all of them.
//!
//! Slurm's power saving has the same terms: a start (`ResumeProgram`), a stop (`SuspendProgram`), limits for both, and
//! the idle time before a stop.

use std::time::Duration;

/// How to start and to stop a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct OnDemand {
    pub start: Action,
    pub stop: Action,
    /// From the beginning of `start` until its daemon must have responded.
    pub boot_timeout: Duration,
    /// The time limit of `stop`.
    pub stop_timeout: Duration,
    /// How long the machine must be without builds before it is stopped.
    pub idle: Duration,
    /// The shortest time from a start to a stop.
    pub min_up: Duration,
    /// How long a build waits for a machine that runs, before another one is started for it.
    pub start_after: Duration,
}

/// What starts or stops a machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A program and its arguments.
    Program(Vec<String>),
    /// A function of the machine file.
    Function,
}

impl Default for OnDemand {
    /// Returns the defaults, with empty actions.
    fn default() -> OnDemand {
        OnDemand {
            start: Action::Program(Vec::new()),
            stop: Action::Program(Vec::new()),
            boot_timeout: Duration::from_secs(300),
            stop_timeout: Duration::from_secs(120),
            idle: Duration::from_secs(600),
            min_up: Duration::ZERO,
            start_after: Duration::from_secs(15),
        }
    }
}

/// The limits of all machines on demand together. `None`: no limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolLimits {
    /// How many may run, those that start included.
    pub max_running: Option<u32>,
    /// How many may start at the same time.
    pub max_starting: Option<u32>,
    /// The hours that they may run within 24 hours, all machines added up.
    pub max_hours: Option<f64>,
}
