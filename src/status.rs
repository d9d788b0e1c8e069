//! The status of a build machine: what a probe finds out.
//!
//! Every field may be unknown: systems differ in what they tell, and an account may be allowed no command at all.

use serde::{Deserialize, Serialize};

/// How a machine is, as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Runnable processes, averaged over 1, 5 and 15 minutes.
    pub load_average: Option<[f64; 3]>,
    /// Processors online.
    pub cores: Option<u32>,
    /// Pressure stall information: share of the last 10 s in which some process waited, in percent.
    pub pressure: Option<Pressure>,
    /// Memory that new processes could use, in bytes.
    pub free_memory: Option<u64>,
    /// Free space of the store, in bytes.
    pub free_disk: Option<u64>,
    /// Free inodes of the store.
    pub free_inodes: Option<u64>,
    /// Free space where its daemon builds, in bytes.
    pub free_build_disk: Option<u64>,
    /// Its clock less ours, in seconds.
    pub clock_skew: Option<f64>,
    /// Its kernel, such as `Linux 6.1.0`.
    pub kernel: Option<String>,
    /// Its hardware, such as `x86_64`.
    pub architecture: Option<String>,
    /// What it calls itself.
    pub host_name: Option<String>,
}

/// `some avg10` of Linux's `/proc/pressure`, in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    pub cpu: Option<f64>,
    pub memory: Option<f64>,
    pub io: Option<f64>,
}

impl Status {
    /// The load over one minute for each core: 1.0 is a machine whose cores are all busy.
    pub fn load(&self) -> Option<f64> {
        let cores = f64::from(self.cores.filter(|&cores| cores > 0)?);
        Some(self.load_average?[0] / cores)
    }
}
