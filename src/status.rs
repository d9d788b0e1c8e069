//! The status of a build machine: what a probe finds out.
//!
//! Every field may be unknown: systems differ in what they tell, and an account may be allowed no command at all.

use serde::{Deserialize, Serialize};

/// How a machine is doing, as far as it says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineStatus {
    /// Load average of the last minute.
    pub load1: Option<f64>,
    pub load5: Option<f64>,
    pub load15: Option<f64>,
    pub cores: Option<u32>,
    /// Percentage of the last ten seconds in which some process waited for a processor.
    pub pressure_cpu: Option<f64>,
    /// The same for memory.
    pub pressure_memory: Option<f64>,
    /// The same for input and output.
    pub pressure_io: Option<f64>,
    /// Bytes available without swapping.
    pub free_memory: Option<u64>,
    /// Bytes free in the store.
    pub free_disk: Option<u64>,
    /// Inodes free in the store; `None` also where the file system has no limit.
    pub free_inodes: Option<u64>,
    /// Bytes free where temporary files of the account go (`TMPDIR` or /tmp); usually where builds run.
    pub build_free: Option<u64>,
    /// Its clock, in seconds since 1970.
    pub clock: Option<u64>,
    /// Seconds since it was started.
    pub uptime: Option<u64>,
    /// Kernel and release, such as `Linux 6.12.1`.
    pub kernel: Option<String>,
    /// As `uname -m` says, such as `x86_64`.
    pub architecture: Option<String>,
    pub host_name: Option<String>,
}

impl MachineStatus {
    /// The load over one minute for each core: 1.0 is a machine whose cores are all busy.
    pub fn load(&self) -> Option<f64> {
        let cores = f64::from(self.cores.filter(|&cores| cores > 0)?);
        Some(self.load1? / cores)
    }

    /// How many seconds its clock is ahead of this machine's, which says `now`. To a second: it tells no fractions.
    pub fn clock_skew(&self, now: f64) -> Option<f64> {
        // It was somewhere in the second that it tells.
        let skew = self.clock? as f64 + 0.5 - now;
        Some(if skew.abs() <= 1.0 { 0.0 } else { skew.round() })
    }
}
