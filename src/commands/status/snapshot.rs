//! A snapshot of one machine: its reported status, and the records of this head.

use serde::Serialize;

use crate::state::{Phase, SubstituteServers};
use crate::status::MachineStatus;

/// The state of a machine. Unknown values are null in JSON, and missing in a record.
#[derive(Clone, Debug, Serialize)]
pub struct MachineSnapshot {
    pub name: String,
    pub port: u16,
    pub state: MachineState,
    pub reachable: bool,
    /// The reason why it is not reachable, with a hint.
    pub error: Option<String>,
    pub hint: Option<String>,
    /// The result of its last probe; empty if it is not reachable.
    #[serde(flatten)]
    pub status: MachineStatus,
    /// The version of the worker protocol that its daemon speaks, with the releases of Guix that speak it.
    pub protocol: Option<String>,
    pub guix: Option<String>,
    /// Seconds that its clock is ahead of this machine's.
    pub clock_skew: Option<f64>,
    pub slots: u32,
    /// Slots that this head's hooks hold.
    pub taken: Option<usize>,
    /// The reason why they cannot be counted, except that this user lacks permission.
    #[serde(skip)]
    pub slots_error: Option<String>,
    pub builds: Vec<Build>,
    /// The SSH connections to it that stay open on this head.
    pub connections: Vec<OpenConnection>,
    pub failures: Option<Failures>,
    pub drained: Option<Drained>,
    /// For a machine on demand.
    pub power: Option<PowerReport>,
    /// What hooks recorded about its substitute servers.
    pub substitutes: SubstituteServers,
}

/// Its current state; the first that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachineState {
    /// `enabled` is false.
    Disabled,
    /// A key has to be corrected: the private key cannot be used, the host key differs, or the login is refused.
    Misconfigured,
    /// It is a machine on demand, and off.
    Off,
    Starting,
    Stopping,
    Unreachable,
    Drained,
    /// Less is free in its store than `minimum_disk_space`.
    DiskLow,
    /// Its load is above `overload_threshold`.
    Overloaded,
    /// All its slots are taken.
    Busy,
    Ready,
}

impl MachineState {
    pub fn word(self) -> &'static str {
        match self {
            MachineState::Disabled => "disabled",
            MachineState::Misconfigured => "misconfigured",
            MachineState::Off => "off",
            MachineState::Starting => "starting",
            MachineState::Stopping => "stopping",
            MachineState::Unreachable => "unreachable",
            MachineState::Drained => "drained",
            MachineState::DiskLow => "disk-low",
            MachineState::Overloaded => "overloaded",
            MachineState::Busy => "busy",
            MachineState::Ready => "ready",
        }
    }
}

/// The holder of a slot.
#[derive(Clone, Debug, Serialize)]
pub struct Build {
    pub slot: u32,
    /// The hook process.
    pub pid: Option<u32>,
    pub derivation: Option<String>,
    /// Seconds since 1970.
    pub since: Option<u64>,
}

/// An SSH connection that stays open for builds.
#[derive(Clone, Debug, Serialize)]
pub struct OpenConnection {
    /// The process that owns it.
    pub pid: Option<u32>,
    /// Seconds since 1970.
    pub since: u64,
    /// Streams in use, to the machine's daemon and to commands.
    pub streams: usize,
    /// Streams to the daemon that wait for the next build.
    pub idle: usize,
    /// Bytes that went to the machine, and that came from it.
    pub sent: u64,
    pub received: u64,
}

/// Consecutive failures that hooks recorded. Times are seconds since 1970.
#[derive(Clone, Debug, Serialize)]
pub struct Failures {
    pub since: u64,
    pub count: u32,
    pub error: String,
    /// Hooks skip the machine until then.
    pub until: u64,
}

/// The time of the drain, and its end. Seconds since 1970.
#[derive(Clone, Debug, Serialize)]
pub struct Drained {
    pub since: u64,
    pub until: Option<u64>,
}

/// The power of a machine on demand. Times are seconds since 1970.
#[derive(Clone, Debug, Serialize)]
pub struct PowerReport {
    /// `off`, `starting`, `running` or `stopping`.
    pub phase: Phase,
    pub since: u64,
    /// The name and port that it is contacted by, if `start` has returned them.
    pub contact: Option<String>,
    /// Why the last start or stop has failed.
    pub error: Option<String>,
    /// The median of the last boots, in seconds.
    pub boot_seconds: Option<f64>,
    /// The hours that it has run within 24 hours.
    pub hours: f64,
}
