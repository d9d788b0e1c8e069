//! Connections that are kept from one build for the next ([`persist`](crate::remote::persist)).

use log::debug;

use super::attempt::Attempt;
use super::connect::compressed;
use super::live_environment::is_probing;
use super::reach::MachineLink;
use crate::daemon::Client;
use crate::machine::Compressed;
use crate::remote::{DaemonStream, persist};
use crate::scheduler::Environment;
use crate::state::health::Availability;
use crate::timing::Stopwatch;

impl Attempt<'_> {
    /// A connection that an earlier build has kept, if the daemon takes the options over it. A machine that is left
    /// alone is left alone in this way, too.
    pub(super) fn acquire(&self) -> Option<MachineLink> {
        let build = self.build;
        let cache_key = self.cache_key(compressed(build.state, self.machine))?;
        if let Availability::BackingOff { .. } = self.env.health(self.machine).availability(self.env.now()) {
            return None;
        }
        let mut stopwatch = Stopwatch::start();
        let mut client = persist::acquire(&cache_key, self.machine, &build.directories.store)?;
        let taken = client.set_options(&self.options());
        stopwatch.lap("borrow");
        match taken {
            Ok(()) => Some(MachineLink { connection: client.stream_mut().connection().clone(), client }),
            Err(error) => {
                debug!("the connection that was kept is of no use: {error}");
                None
            }
        }
    }

    /// Keeps the connection over which the outputs came, if another build could use it.
    pub(super) fn persist(&self, mut client: Client<DaemonStream>) {
        let asked = client.stream_mut().connection().asked_compression();
        if let Some(cache_key) = self.cache_key(asked).filter(|_| !is_probing()) {
            let mut stopwatch = Stopwatch::start();
            persist::persist(client, &cache_key);
            stopwatch.lap("keep");
        }
    }

    fn cache_key(&self, asked: Compressed) -> Option<persist::CacheKey> {
        if !self.build.persists_connections {
            return None;
        }
        let directory =
            self.build.state.persist_directory().inspect_err(|error| debug!("no connection is kept: {error}")).ok()?;
        persist::CacheKey::new(directory, self.machine, asked, &self.options(), &self.build.directories.store)
    }
}
