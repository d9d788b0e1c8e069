//! What ran on a host and when. Build scripts write it to `/var/lab/builds`, outside of the store (see `client.rs`).

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
}

impl BuildRecord {
    /// Whether its process is still there.
    pub fn is_running(&self) -> bool {
        self.end.is_none() && std::path::Path::new(&format!("/proc/{}", self.pid)).exists()
    }
}

impl Host {
    /// The builds that ran on this host, in the order of their starts.
    pub fn builds(&self) -> Vec<BuildRecord> {
        let mut builds: Vec<BuildRecord> = Vec::new();
        let text = std::fs::read_to_string(self.path("/var/lab/builds")).unwrap_or_default();
        for line in text.lines() {
            let [event, pid, time, name] = line.splitn(4, ' ').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
            let (pid, time) = (pid.parse().unwrap(), time.parse().unwrap());
            match event {
                "start" => builds.push(BuildRecord { name: name.to_owned(), pid, start: time, end: None }),
                _ => {
                    let ended = builds.iter_mut().rev().find(|build| build.pid == pid && build.name == name);
                    ended.unwrap_or_else(|| panic!("{name} ended before it started")).end = Some(time);
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

/// The largest number of these builds that ran at the same time. Times are to 10 ms, and one build may start where another
/// ends: so those that touch do not count as concurrent. One without an end counts to the last start.
pub fn max_concurrency(builds: &[BuildRecord]) -> usize {
    let at = |time: f64| {
        builds.iter().filter(|build| build.start <= time && build.end.is_none_or(|end| time < end)).count()
    };
    builds.iter().map(|build| at(build.start)).max().unwrap_or(0)
}
