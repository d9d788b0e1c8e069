//! Connections that are kept from one build for the next ([`kept`](crate::remote::kept)).

use log::debug;

use super::attempt::On;
use super::connect::compressed;
use super::reach::Reached;
use super::surroundings::is_asking;
use crate::daemon::Client;
use crate::machine::Compressed;
use crate::remote::{DaemonStream, kept};
use crate::schedule::Surroundings;
use crate::state::health::Standing;
use crate::timing::Stopwatch;

impl On<'_> {
    /// A connection that an earlier build has kept, if the daemon takes the options over it. A machine that is left
    /// alone is left alone in this way, too.
    pub(super) fn borrow(&self) -> Option<Reached> {
        let job = self.job;
        let terms = self.terms(compressed(job.state, self.machine))?;
        if let Standing::Down { .. } = self.world.health(self.machine).standing(self.world.now()) {
            return None;
        }
        let mut stopwatch = Stopwatch::start();
        let mut client = kept::borrow(&terms, self.machine, &job.directories.store)?;
        let taken = client.set_options(&self.options());
        stopwatch.lap("borrow");
        match taken {
            Ok(()) => Some(Reached { connection: client.stream_mut().connection().clone(), client }),
            Err(error) => {
                debug!("the connection that was kept is of no use: {error}");
                None
            }
        }
    }

    /// Keeps the connection over which the outputs came, if another build could use it.
    pub(super) fn keep(&self, mut client: Client<DaemonStream>) {
        let asked = client.stream_mut().connection().asked_compression();
        if let Some(terms) = self.terms(asked).filter(|_| !is_asking()) {
            let mut stopwatch = Stopwatch::start();
            kept::keep(client, &terms);
            stopwatch.lap("keep");
        }
    }

    fn terms(&self, asked: Compressed) -> Option<kept::Terms> {
        if !self.job.keeps_connections {
            return None;
        }
        let directory = self.job.state.kept().inspect_err(|error| debug!("no connection is kept: {error}")).ok()?;
        kept::Terms::new(directory, self.machine, asked, &self.options(), &self.job.directories.store)
    }
}
