//! Connections that are kept from one build for the next ([`owner`](crate::remote::owner)).

use std::os::fd::AsFd;

use log::debug;

use super::Build;
use super::connect::compressed;
use super::live_environment::LiveEnvironment;
use super::reach::{MachineLink, reach_over};
use crate::daemon::{Client, Options};
use crate::file_stamp::FileStamp;
use crate::local::Directories;
use crate::machine::{Compressed, Machine};
use crate::remote::owner::{self, Acquired, CacheKey, Files};
use crate::remote::{Connection, DaemonStream};
use crate::scheduler::Environment;
use crate::ssh;
use crate::state::StateDirectory;
use crate::state::health::Availability;
use crate::timing::Stopwatch;

/// The connections to one machine that builds keep for each other.
pub(super) struct ConnectionCache<'a> {
    build: &'a Build<'a>,
    machine: &'a Machine,
    options: &'a Options,
    /// As they were before a connection was made.
    files: Files,
}

impl<'a> ConnectionCache<'a> {
    /// Those of which the daemon has these options; for a build that has no connection yet.
    pub fn new(build: &'a Build<'a>, machine: &'a Machine, options: &'a Options) -> ConnectionCache<'a> {
        ConnectionCache { build, machine, options, files: files(build.directories) }
    }

    /// A connection that an earlier build has kept, if the daemon takes the options over it. A machine that is left
    /// alone is left alone in this way, too.
    pub fn acquire(&self, env: &LiveEnvironment) -> Option<MachineLink> {
        let build = self.build;
        let key = ssh::private_key_stamp(self.machine.private_key.as_deref());
        let cache_key = self.cache_key(compressed(build.state, self.machine), key)?;
        if let Availability::BackingOff { .. } = env.health(self.machine).availability(env.now()) {
            return None;
        }
        let mut stopwatch = Stopwatch::start();
        let Acquired { connection, client } = owner::acquire(&cache_key, self.machine, &build.directories.store)?;
        let link = match client {
            Some(client) => Ok(MachineLink { client, connection: connection.clone() }),
            None => reach_over(build.state, self.machine, &build.directories.store, connection.clone()),
        };
        let taken = link.and_then(|mut link| {
            link.client.set_options(self.options).map_err(|error| error.to_string())?;
            Ok(link)
        });
        stopwatch.lap("borrow");
        taken
            .inspect_err(|error| {
                debug!("the connection that was kept is of no use: {error}");
                connection.retire();
            })
            .ok()
    }

    /// Keeps a new connection for other builds, from now on.
    pub fn keep(&self, connection: &Connection) {
        // Not the stamp of what is there now: the key may have changed meanwhile.
        let Some(key) = connection.key_stamp() else { return };
        if let Some(cache_key) = self.cache_key(connection.asked_compression(), Some(key.clone())) {
            let daemon = (self.build.daemon)();
            connection.keep(&cache_key, daemon.as_ref().map(AsFd::as_fd));
        }
    }

    /// Leaves the stream over which the outputs came for another build.
    pub fn release(&self, client: Client<DaemonStream>) {
        if self.build.persists_connections {
            let mut stopwatch = Stopwatch::start();
            owner::release(client, self.options);
            stopwatch.lap("keep");
        }
    }

    fn cache_key(&self, asked: Compressed, key: Option<FileStamp>) -> Option<CacheKey> {
        if !self.build.persists_connections {
            return None;
        }
        let directory =
            self.build.state.persist_directory().inspect_err(|error| debug!("no connection is kept: {error}")).ok()?;
        let files = Files { private_key: key, ..self.files.clone() };
        CacheKey::new(directory, self.machine, asked, self.options, &self.build.directories.store, &files)
    }
}

/// The files of this machine that every kept connection depends on, as they are now, and the private key of none.
fn files(directories: &Directories) -> Files {
    let key = directories.signing_key();
    Files {
        private_key: None,
        acl: FileStamp::of(&directories.acl()),
        signing_key: [FileStamp::of(&key), FileStamp::of(&key.with_extension("pub"))],
    }
}

/// Ends the connections that are kept and must not be used any more: those to machines that are not among `machines`, or
/// whose entries, or keys, have changed since.
pub fn end_outdated(state: &StateDirectory, directories: &Directories, machines: &[&Machine]) {
    // Nothing is made for it.
    let common = files(directories);
    owner::end_outdated(&state.path().join("persist"), machines, &directories.store, |machine| Files {
        private_key: ssh::private_key_stamp(machine.private_key.as_deref()),
        ..common.clone()
    });
}
