//! Fetching of missing inputs by the machine's own daemon, beside the upload.
//!
//! A second stream to the daemon, over the same session, has substitutes on: those of the first one are off. It makes
//! one [query](super::substitute_query) for all candidates ([`fetch_plan`](super::fetch_plan)) and then, in a thread, BuildPaths on those that the
//! servers have, while the first stream uploads the rest. The items are in flight meanwhile, as uploads are, so other
//! builds wait for them and fetch nothing twice.
//!
//! Whether an item has arrived shows only in the query for missing inputs that follows, since BuildPaths succeeds for
//! items without a substitute. The upload sends the items that are still missing. So a fetch is never an error. If it
//! fails, or takes too long, the machine fetches nothing for a while ([`SubstituteServers`]). Closing the stream ends a
//! query that hangs, and all downloads.
//!
//! The stream stays open until the inputs are protected: its daemon's process has temporary roots for what it fetched.
//!
//! There is no fetch if the SSH server permits no second stream.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use log::{debug, warn};

use super::downloads::Downloads;
use super::fetch_plan::{self, ItemSet};
use super::limiter::TransferLimiter;
use super::progress::EVENT_INTERVAL;
use super::running_fetch::RunningFetch;
use super::substitute_query::{Answer, Unavailable, query};
use crate::cancel;
use crate::daemon::Client;
use crate::events::{Event, Observer};
use crate::local::{Item, Store, content_address};
use crate::machine::Substitutes;
use crate::remote::{Connection, DaemonStream};
use crate::state::transfers::InFlight;
use crate::state::{SubstituteRecord, SubstituteServers, ThroughputRecord, health};
use crate::store::path::StorePath;
use crate::timing::Stopwatch;

/// Time allowed for the daemon to end BuildPaths once all items are valid.
const LAST_REPLY_MAX: Duration = Duration::from_secs(1);

/// The fetch of the inputs of one build.
pub(super) struct Fetch<'a> {
    connection: &'a Connection,
    pub limiter: &'a TransferLimiter<'a>,
    /// Whether it was considered: that is done once for a build.
    is_considered: bool,
    running: Option<RunningFetch>,
    /// The client after a fetch: the daemon's process keeps its temporary roots until the stream is closed.
    client: Option<Client<DaemonStream>>,
}

/// The items to fetch.
pub(super) struct Choice {
    client: Client<DaemonStream>,
    pub items: ItemSet,
    /// The expected rate of an upload, in bytes per second.
    upload_rate: f64,
}

impl<'a> Fetch<'a> {
    pub fn new(connection: &'a Connection, limiter: &'a TransferLimiter<'a>) -> Fetch<'a> {
        Fetch { connection, limiter, is_considered: false, running: None, client: None }
    }

    /// Starts to fetch some of the items that the machine of `first` lacks, if that pays and was not considered before.
    /// `missing` are sorted with their references first; those in flight are left to the processes that send them.
    pub fn start(
        &mut self,
        first: &Client<DaemonStream>,
        missing: &[Item],
        in_flight: &InFlight,
        store: &Store,
        observer: &mut dyn Observer,
    ) {
        if std::mem::replace(&mut self.is_considered, true) {
            return;
        }
        let begin = Instant::now();
        let Some(Choice { client, items, upload_rate }) = self.choose(first, missing, in_flight, store) else { return };
        let machine = self.limiter.machine;
        let Some(slot) = self.limiter.fetch(&items.paths) else { return };
        observer.observe(&Event::Fetching { machine: &machine.name, items: items.paths.len(), bytes: items.bytes });
        // The last download before a silence may come at the end of a period.
        let period = machine.substitute_timeout.saturating_sub(begin.elapsed()) / 2;
        let min_rate = fetch_plan::min_fetch_rate(machine.substitutes, upload_rate);
        let downloads = Downloads::new(period, min_rate, Instant::now());
        self.running = RunningFetch::start(client, items, downloads, period, slot);
    }

    /// Asks the servers if that pays, and chooses the items to fetch. `None`: there are none.
    pub fn choose(
        &self,
        first: &Client<DaemonStream>,
        missing: &[Item],
        in_flight: &InFlight,
        store: &Store,
    ) -> Option<Choice> {
        let machine = self.limiter.machine;
        if machine.substitutes == Substitutes::Never {
            return None;
        }
        let mut candidates = fetch_plan::candidates(missing, |item| content_address(store, item).is_some());
        candidates.paths.retain(|path| !in_flight.contains(path.hash_part()));
        let upload_rate = self.upload_rate(&candidates, first.round_trip())?;
        let mut stopwatch = Stopwatch::start();
        let answer = query(self.connection, machine, first.store(), &candidates.paths);
        stopwatch.lap("substitutes");
        let (client, known) = match answer {
            // A server that cannot be reached has nothing.
            Ok(Answer { known, complaint: Some(complaint), .. }) if known.is_empty() => {
                self.failed(&complaint);
                return None;
            }
            Ok(Answer { client, known, .. }) => (client, known),
            Err(Unavailable::NoStream(error)) => {
                debug!("no stream to fetch over: {error}");
                return None;
            }
            Err(Unavailable::NoReply(cause)) => {
                self.failed(&cause);
                return None;
            }
        };
        let items = fetch_plan::to_fetch(missing, &known);
        debug!("'{}' can fetch {} of {} items", machine.name, items.paths.len(), candidates.paths.len());
        (!items.paths.is_empty()).then_some(Choice { client, items, upload_rate })
    }

    /// Returns the rate of an upload if fetching pays and the servers are not backing off.
    fn upload_rate(&self, candidates: &ItemSet, round_trip: Duration) -> Option<f64> {
        let TransferLimiter { machine, state, .. } = self.limiter;
        if candidates.paths.is_empty() {
            return None;
        }
        let now = health::now();
        let servers = SubstituteRecord::of(state, machine).map(|record| record.read()).unwrap_or_default();
        let throughput = ThroughputRecord::of(state, machine).map(|record| record.read()).unwrap_or_default();
        let rate = fetch_plan::upload_rate(&throughput, self.connection.compressed(), round_trip, now);
        let is_wanted = match machine.substitutes {
            Substitutes::Never => false,
            Substitutes::Always => true,
            Substitutes::Auto => fetch_plan::pays(candidates.bytes, rate, servers.rate(now)),
        };
        (is_wanted && servers.backing_off(now).is_none()).then_some(rate)
    }

    /// Returns the items that the machine is fetching.
    pub fn in_flight(&self) -> InFlight {
        let paths = self.running.iter().flat_map(|running| &running.items.paths);
        paths.map(|path| path.hash_part().to_owned()).collect()
    }

    /// Waits for the end of the fetch, if one is running, and reports its progress.
    pub fn wait(&mut self, observer: &mut dyn Observer) {
        let Some(running) = &mut self.running else { return };
        while !running.has_ended_within(EVENT_INTERVAL) {
            observer.observe(&Event::Fetched { machine: &self.limiter.machine.name, bytes: running.bytes() });
        }
    }

    /// Records the result if the fetch has ended. `missing` is what the machine lacks now.
    pub fn settle(&mut self, missing: &BTreeSet<StorePath>, observer: &mut dyn Observer) {
        let limit = if missing.is_empty() { LAST_REPLY_MAX } else { Duration::ZERO };
        let Some(running) = self.running.take_if(|running| running.has_ended_within(limit)) else { return };
        let Some((items, ended)) = running.into_end() else { return };
        let lacking = items.paths.intersection(missing).count();
        self.client = Some(ended.client);
        if lacking == 0 {
            let machine = &self.limiter.machine.name;
            let (count, bytes, seconds) = (items.paths.len(), items.bytes, ended.took.as_secs());
            observer.observe(&Event::FetchEnded { machine, items: count, bytes, seconds });
            self.record(|_| SubstituteServers::fetched(bytes, ended.took, health::now()));
        } else {
            let cause = ended.cause.unwrap_or_else(|| "no reason was given".to_owned());
            self.failed(&format!("{lacking} of {} items did not arrive: {cause}", items.paths.len()));
        }
    }

    /// Records and reports a failure, unless the build is cancelled.
    fn failed(&self, cause: &str) {
        if cancel::is_cancelled() {
            return;
        }
        self.record(|servers| servers.failed(cause, health::now()));
        let name = &self.limiter.machine.name;
        warn!("the substitute servers of '{name}' failed, so this machine sends the inputs: {cause}");
    }

    fn record(&self, change: impl FnOnce(SubstituteServers) -> SubstituteServers) {
        let TransferLimiter { machine, state, .. } = self.limiter;
        // A missing record costs time, not a build.
        if let Err(error) = SubstituteRecord::of(state, machine).and_then(|record| record.change(change)) {
            debug!("cannot record what '{}' has fetched: {error}", machine.name);
        }
    }
}
