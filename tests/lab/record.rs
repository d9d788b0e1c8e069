//! What ran on a host and when. Build scripts write it to `/var/lab/builds`, outside of the store (see
//! `derivation.rs`).

use super::host::Host;
use super::processes;

/// One run of a build script.
#[derive(Clone, Debug, PartialEq)]
pub struct BuildRecord {
    pub name: String,
    pub pid: u32,
    /// Seconds since the machine started, to 10 ms; the same on all hosts.
    pub start: f64,
    /// `None`: it runs, or was killed.
    pub end: Option<f64>,
    /// The order of all starts and ends on the host, which the times are too coarse to give.
    started: usize,
    ended: Option<usize>,
}

impl BuildRecord {
    /// Whether its process is still there, and not another one that has got its number since.
    pub fn is_running(&self) -> bool {
        // One that has ended and was not waited for has no program any more.
        self.end.is_none()
            && std::fs::read_link(format!("/proc/{}/exe", self.pid)).is_ok()
            && processes::started(self.pid).is_some_and(|started| started <= self.start + 1.0)
    }
}

impl Host {
    /// The builds that ran on this host, in the order of their starts.
    pub fn builds(&self) -> Vec<BuildRecord> {
        let mut builds: Vec<BuildRecord> = Vec::new();
        let text = std::fs::read_to_string(self.path("/var/lab/builds")).unwrap_or_default();
        // The last one may be incomplete.
        for (number, line) in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).enumerate() {
            let [event, pid, time, name] = line.splitn(4, ' ').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
            let (pid, time) = (pid.parse().unwrap(), time.parse().unwrap());
            match event {
                "start" => {
                    let name = name.to_owned();
                    builds.push(BuildRecord { name, pid, start: time, end: None, started: number, ended: None });
                }
                _ => {
                    let build = builds.iter_mut().rev().find(|build| build.pid == pid && build.name == name);
                    let build = build.unwrap_or_else(|| panic!("{name} ended before it started"));
                    (build.end, build.ended) = (Some(time), Some(number));
                }
            }
        }
        builds
    }

    /// The names of the builds that ran on this host, in the order of their starts.
    pub fn built(&self) -> Vec<String> {
        self.builds().into_iter().map(|build| build.name).collect()
    }

    /// Whether a build runs on this host now.
    pub fn is_building(&self) -> bool {
        self.builds().iter().any(BuildRecord::is_running)
    }
}

/// Seconds since the machine started, as build records have it.
pub fn uptime() -> f64 {
    std::fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap()
}

/// The largest number of these builds, all of one host, that ran at the same time. One that was killed counts as if it
/// still ran.
pub fn max_concurrency(builds: &[BuildRecord]) -> usize {
    let running = |at: usize| {
        builds.iter().filter(|build| build.started <= at && build.ended.is_none_or(|ended| at < ended)).count()
    };
    builds.iter().map(|build| running(build.started)).max().unwrap_or(0)
}
