//! The options of a connection, which the client sends to the daemon (`SetOptions`).

use std::time::Duration;

/// Options of a connection. They stay in force until they are set again.
///
/// The daemon's own settings apply to options that are `None`. The defaults are those of a head that starts a build on
/// a machine: no further offloading, no machine-readable trace in the log, substitutes allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Keep the build directory of a failed build. Default false.
    pub keep_failed: bool,
    /// Continue with other builds after one failed. Default false.
    pub keep_going: bool,
    /// Build if a substitute cannot be fetched. Default false.
    pub fallback: bool,
    /// 0 (errors only) to 5. Default 0; the log of a builder is sent at any value.
    pub verbosity: u32,
    /// Whether the daemon may offload builds itself. Default false.
    pub offload: bool,
    /// Whether the log has events of builds in lines that begin with `@ `. Default false.
    pub print_build_trace: bool,
    /// Whether the output of builders is marked in the log, so that it cannot be taken for something else. Default
    /// false.
    pub multiplexed_build_output: bool,
    /// Whether the daemon may fetch substitutes; true has no effect on a daemon that was started without them. Default
    /// true.
    pub use_substitutes: bool,
    /// The substitute servers; `None`: the daemon's own.
    pub substitute_urls: Option<Vec<String>>,
    /// Whether the log has lines `@ download-progress FILE URL SIZE BYTES` about substitutes. Default false.
    pub print_downloads: bool,
    /// Time limit of a build, whole seconds; zero is no limit. Default `None`.
    pub build_timeout: Option<Duration>,
    /// How long a builder may be silent, whole seconds; zero is no limit. Default `None`.
    pub max_silent_time: Option<Duration>,
    /// Builds at the same time on behalf of this connection. Default `None`.
    pub max_jobs: Option<u32>,
    /// Cores each build may use (`NIX_BUILD_CORES`); zero is all. Default `None`.
    pub build_cores: Option<u32>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            keep_failed: false,
            keep_going: false,
            fallback: false,
            verbosity: 0,
            offload: false,
            print_build_trace: false,
            multiplexed_build_output: false,
            use_substitutes: true,
            substitute_urls: None,
            print_downloads: false,
            build_timeout: None,
            max_silent_time: None,
            max_jobs: None,
            build_cores: None,
        }
    }
}

impl Options {
    /// Returns the options that are sent as names and values. A limit between two seconds is rounded up, so that it
    /// never becomes "no limit".
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        let seconds = |limit: Duration| (limit.as_secs() + u64::from(limit.subsec_nanos() > 0)).min(i32::MAX as u64);
        let numbers = [
            ("build-timeout", self.build_timeout.map(seconds)),
            ("build-max-silent-time", self.max_silent_time.map(seconds)),
            ("build-max-jobs", self.max_jobs.map(u64::from)),
            ("build-cores", self.build_cores.map(u64::from)),
        ];
        let numbers = numbers.into_iter().filter_map(|(name, value)| Some((name, value?.to_string())));
        let downloads = self.print_downloads.then(|| ("print-extended-build-trace", "1".to_owned()));
        let urls = self.substitute_urls.as_ref().map(|urls| ("substitute-urls", urls.join(" ")));
        let multiplexed = self.multiplexed_build_output.then(|| ("multiplexed-build-output", "true".to_owned()));
        numbers.chain(multiplexed).chain(downloads).chain(urls).collect()
    }
}
