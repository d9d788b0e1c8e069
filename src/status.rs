//! The status of a build machine, from a probe.
//!
//! Every field may be unknown: systems differ in what they report, and an account may not be allowed to run commands.

use serde::{Deserialize, Serialize};

/// The status of a machine, as far as it is known.
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
    /// The same percentage for memory.
    pub pressure_memory: Option<f64>,
    /// The same percentage for input and output.
    pub pressure_io: Option<f64>,
    /// Bytes available without swapping.
    pub free_memory: Option<u64>,
    /// Bytes free in the store.
    pub free_disk: Option<u64>,
    /// Inodes free in the store; `None` also where the file system has no limit.
    pub free_inodes: Option<u64>,
    /// Bytes free for temporary files of the account (`TMPDIR` or /tmp); builds usually run there.
    pub build_free: Option<u64>,
    /// Its clock, in seconds since 1970.
    pub clock: Option<u64>,
    /// Seconds since it was started.
    pub uptime: Option<u64>,
    /// Kernel and release, such as `Linux 6.12.1`.
    pub kernel: Option<String>,
    /// The output of `uname -m`, such as `x86_64`.
    pub architecture: Option<String>,
    pub host_name: Option<String>,
}

impl MachineStatus {
    /// Returns the one-minute load per core: 1.0 means that all cores are busy.
    pub fn load(&self) -> Option<f64> {
        let cores = f64::from(self.cores.filter(|&cores| cores > 0)?);
        Some(self.load1? / cores)
    }

    /// Returns how many seconds its clock is ahead of this machine's time `now`. Its accuracy is a second: the machine
    /// reports no fractions.
    pub fn clock_skew(&self, now: f64) -> Option<f64> {
        // The exact time is somewhere in the reported second.
        let skew = self.clock? as f64 + 0.5 - now;
        Some(if skew.abs() <= 1.0 { 0.0 } else { skew.round() })
    }
}
