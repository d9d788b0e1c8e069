//! Queries to a machine's substitute servers, over a stream of their own to its daemon, which has substitutes on.
//!
//! The daemon's helper `guix substitute` makes the query. It prints a warning about a server that cannot be reached, and
//! counts it as one that has nothing. If substitutes are off, nothing is printed, since no helper is started.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::downloads::Downloads;
use super::running_fetch::{failure, lock};
use crate::daemon::{self, Client, Options, SubstitutablePathInfo};
use crate::machine::Machine;
use crate::remote::{Connection, DaemonStream, SilencePolicy};
use crate::store::path::{StoreDir, StorePath};

/// The longest time for the query about all candidates, the start of the helper included, which takes seconds on a busy
/// machine.
const QUERY_MAX: Duration = Duration::from_secs(10);
/// The share of `substitute_timeout` for the query: the rest is for the end of the stream, and what else a failure costs.
const QUERY_SHARE: f64 = 0.9;
/// How long a download may be silent before the machine's daemon ends it and continues with the others.
const DOWNLOAD_SILENCE_MAX: Duration = Duration::from_secs(20);
/// How many items the machine's daemon downloads at the same time.
const PARALLEL_DOWNLOADS: u32 = 4;

/// The answer of the servers.
pub(super) struct Answer {
    pub client: Client<DaemonStream>,
    /// The items that they have, signed by keys that the machine has authorized.
    pub known: BTreeMap<StorePath, SubstitutablePathInfo>,
    /// The helper's last warning, for example that a server cannot be reached.
    pub complaint: Option<String>,
    /// Whether the helper has printed anything: progress, if it sent a request.
    pub has_printed: bool,
}

/// The reason why the servers could not be asked.
pub(super) enum Unavailable {
    /// There is no second stream. The servers are not at fault.
    NoStream(String),
    /// No reply came, or an error of the daemon.
    NoReply(String),
}

/// Asks the servers about `paths`, within [`QUERY_MAX`] and [`QUERY_SHARE`] of `substitute_timeout`.
pub(super) fn query(
    connection: &Connection,
    machine: &Machine,
    store: &StoreDir,
    paths: &BTreeSet<StorePath>,
) -> Result<Answer, Unavailable> {
    let begin = Instant::now();
    let stream = connection.daemon().map_err(|error| Unavailable::NoStream(error.to_string()))?;
    let mut client = stream.greet(store.clone()).map_err(|error| Unavailable::NoStream(error.to_string()))?;
    let limit = QUERY_MAX.min(machine.substitute_timeout.mul_f64(QUERY_SHARE));
    let text = Arc::new(Mutex::new(Downloads::new(limit, 0.0, begin)));
    let sink = Arc::clone(&text);
    client.stream_mut().set_silence_policy(SilencePolicy::greeting(limit.saturating_sub(begin.elapsed())));
    client.set_log(Some(Box::new(move |part| lock(&sink).take(part))));
    client.set_options(&options(machine)).map_err(|error| Unavailable::NoStream(error.to_string()))?;
    let known = client.query_substitutable_path_infos(paths);
    client.set_log(None);
    let text = lock(&text);
    let (complaint, has_printed) = (text.complaint().map(str::to_owned), !text.message().is_empty());
    match (known, complaint) {
        (Ok(known), complaint) => Ok(Answer { client, known, complaint, has_printed }),
        (Err(daemon::Error::Daemon { .. }), Some(complaint)) => Err(Unavailable::NoReply(complaint)),
        (Err(error), _) => Err(Unavailable::NoReply(failure(&error, limit))),
    }
}

/// Returns the options of the stream for a query and a fetch.
fn options(machine: &Machine) -> Options {
    Options {
        keep_going: true,
        print_downloads: true,
        max_silent_time: Some(DOWNLOAD_SILENCE_MAX.min(machine.substitute_timeout)),
        max_jobs: Some(PARALLEL_DOWNLOADS),
        substitute_urls: Some(machine.substitute_urls.clone()).filter(|urls| !urls.is_empty()),
        ..Options::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that is silent is left in time, whichever of the two limits is the shorter one.
    #[test]
    fn downloads_have_the_shorter_limit_of_silence_and_the_machines_servers() {
        let mut machine = Machine::new("b1", "root", Vec::new(), Vec::new());
        for (substitute_timeout, expected) in [(5, 5), (20, 20), (60, 20)] {
            machine.substitute_timeout = Duration::from_secs(substitute_timeout);
            let options = options(&machine);
            assert_eq!(options.max_silent_time, Some(Duration::from_secs(expected)));
            assert!(options.use_substitutes && options.substitute_urls.is_none());
        }
        machine.substitute_urls = vec!["https://one".to_owned(), "https://two".to_owned()];
        assert_eq!(options(&machine).substitute_urls, Some(machine.substitute_urls.clone()));
    }
}
