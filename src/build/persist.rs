//! Connections that persist from one build to the next ([`persist`](crate::remote::persist)).

use log::debug;

use super::Build;
use super::connect::compressed;
use super::live_environment::{LiveEnvironment, is_probing};
use super::reach::MachineLink;
use crate::daemon::{Client, Options};
use crate::file_stamp::FileStamp;
use crate::local::Directories;
use crate::machine::{Compressed, Machine};
use crate::remote::{DaemonStream, persist};
use crate::scheduler::Environment;
use crate::ssh;
use crate::state::StateDirectory;
use crate::state::health::Availability;
use crate::timing::Stopwatch;

/// The persistent connections to one machine.
pub(super) struct ConnectionCache<'a> {
    build: &'a Build<'a>,
    machine: &'a Machine,
    options: &'a Options,
    /// The files as they were before the connection was opened.
    files: persist::Files,
}

impl<'a> ConnectionCache<'a> {
    /// Returns the connections whose daemon has these options; for a build that has no connection yet.
    pub fn new(build: &'a Build<'a>, machine: &'a Machine, options: &'a Options) -> ConnectionCache<'a> {
        ConnectionCache { build, machine, options, files: files(build.directories) }
    }

    /// Acquires the persistent connection of an earlier build, if the daemon accepts the options over it. A machine in
    /// a back-off is skipped here, too.
    pub fn acquire(&self, env: &LiveEnvironment) -> Option<MachineLink> {
        let build = self.build;
        let key = ssh::private_key_stamp(self.machine.private_key.as_deref());
        let cache_key = self.cache_key(compressed(build.state, self.machine), key)?;
        if let Availability::BackingOff { .. } = env.health(self.machine).availability(env.now()) {
            return None;
        }
        let mut stopwatch = Stopwatch::start();
        let mut client = persist::acquire(&cache_key, self.machine, &build.directories.store)?;
        let taken = client.set_options(self.options);
        stopwatch.lap("borrow");
        match taken {
            Ok(()) => Some(MachineLink { connection: client.stream_mut().connection().clone(), client }),
            Err(error) => {
                debug!("cannot reuse the persistent connection: {error}");
                None
            }
        }
    }

    /// Persists the connection over which the outputs came, if another build can use it.
    pub fn persist(&self, mut client: Client<DaemonStream>) {
        let connection = client.stream_mut().connection();
        // The stamp of the key at login counts: the key file may have changed meanwhile.
        let key = connection.key_stamp().cloned();
        if let Some(cache_key) = self.cache_key(connection.asked_compression(), key).filter(|_| !is_probing()) {
            let mut stopwatch = Stopwatch::start();
            persist::persist(client, &cache_key, self.build.daemon);
            stopwatch.lap("keep");
        }
    }

    fn cache_key(&self, asked: Compressed, key: Option<FileStamp>) -> Option<persist::CacheKey> {
        if !self.build.persists_connections {
            return None;
        }
        let directory = self
            .build
            .state
            .persist_directory()
            .inspect_err(|error| debug!("the connection does not persist: {error}"))
            .ok()?;
        let files = persist::Files { private_key: key, ..self.files.clone() };
        persist::CacheKey::new(directory, self.machine, asked, self.options, &self.build.directories.store, &files)
    }
}

/// Returns the stamps of this machine's files that every persistent connection depends on, without a private key.
fn files(directories: &Directories) -> persist::Files {
    let key = directories.signing_key();
    persist::Files {
        private_key: None,
        acl: FileStamp::of(&directories.acl()),
        signing_key: [FileStamp::of(&key), FileStamp::of(&key.with_extension("pub"))],
    }
}

/// Ends the persistent connections that must not be used any more: those to machines that are not among `machines`, or
/// whose entries or keys have changed.
pub fn end_outdated(state: &StateDirectory, directories: &Directories, machines: &[&Machine]) {
    // No directory is created for this.
    let common = files(directories);
    persist::end_outdated(&state.path().join("persist"), machines, &directories.store, |machine| persist::Files {
        private_key: ssh::private_key_stamp(machine.private_key.as_deref()),
        ..common.clone()
    });
}
