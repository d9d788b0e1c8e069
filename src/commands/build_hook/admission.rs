//! Decides whether this hook may accept a build, based on the descriptors of its daemon.

use std::time::Instant;

use log::{debug, info, warn};

use crate::hook::daemon_process::DaemonProcess;
use crate::hook::{Reply, Request};
use crate::scheduler::admission::{DAEMON_POLL_INTERVAL, Refusals, accepts_uncounted, has_room};
use crate::state::{AcceptedPerDaemon, StateDirectory};

/// Checks the daemon before each request, and chooses the replies while it has no descriptors left.
pub struct Admission<'a> {
    daemon: DaemonProcess,
    state: &'a StateDirectory,
    /// Since when requests are refused.
    refusals: Option<(Instant, Refusals)>,
    /// The builds of a daemon whose descriptors cannot be counted.
    uncounted: Option<AcceptedPerDaemon>,
    is_reported: bool,
}

impl<'a> Admission<'a> {
    pub fn new(state: &'a StateDirectory) -> Admission<'a> {
        Admission { daemon: DaemonProcess::of_this_hook(), state, refusals: None, uncounted: None, is_reported: false }
    }

    /// Returns the reply to a request that must not be accepted now.
    pub fn refuse(&mut self, request: &Request) -> Option<Reply> {
        let open = self.daemon.open_descriptors();
        if self.may_accept(open, request) {
            self.refusals = None;
            return None;
        }
        let is_current = |(since, _): &(Instant, Refusals)| since.elapsed() < DAEMON_POLL_INTERVAL;
        let is_lasting = self.refusals.is_some_and(|refusals| !is_current(&refusals));
        let (since, mut refusals) = self.refusals.filter(is_current).unwrap_or_else(|| {
            let refusals = if open.is_some() { Refusals::new(self.daemon.children()) } else { Refusals::for_good() };
            debug!("no room for another hook: {open:?} descriptors of {:?}, {refusals:?}", self.daemon);
            (Instant::now(), refusals)
        });
        let reply = refusals.next(request.wants_local);
        self.refusals = Some((since, refusals));
        if is_lasting || refusals.are_slow() || refusals.is_exhausted() {
            self.report(open, refusals.is_exhausted());
        }
        Some(reply)
    }

    /// Records that a build is about to be accepted.
    pub fn accepted(&self) {
        if let Some(Err(error)) = self.uncounted.as_ref().map(AcceptedPerDaemon::add) {
            warn!("cannot count accepted builds: {error}");
        }
    }

    fn may_accept(&mut self, open: Option<usize>, request: &Request) -> bool {
        let limit = self.daemon.descriptor_limit();
        if let Some(open) = open {
            return has_room(open, limit, request.wants_local);
        }
        // Without the directory no slot can be taken either, and that has a message of its own.
        self.uncounted = AcceptedPerDaemon::of(self.state, self.daemon.pid()).ok();
        self.uncounted.as_ref().is_none_or(|accepted| accepts_uncounted(accepted.count(), limit))
    }

    /// Reports once why builds are not accepted.
    fn report(&mut self, open: Option<usize>, is_exhausted: bool) {
        if std::mem::replace(&mut self.is_reported, true) {
            return;
        }
        let limit = self.daemon.descriptor_limit();
        match open {
            Some(open) if is_exhausted => warn!(
                "guix-daemon has {open} of {limit} descriptors in use: it keeps one for each finished build of this \
                 request until the request ends, so no more of its builds can be offloaded\n  hint: what is built stays in \
                 the store; run the same command again to build the rest"
            ),
            Some(_) => info!(
                "as many builds are under way for this client as guix-daemon has descriptors for; the others wait until \
                 some are done"
            ),
            None => warn!(
                "the descriptors of guix-daemon cannot be counted (/proc/{}/fd), so no more builds are offloaded for this \
                 client of the daemon\n  hint: let the build hook see /proc, or run the same command again to build the rest",
                self.daemon.pid()
            ),
        }
    }
}
