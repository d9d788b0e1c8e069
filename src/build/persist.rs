//! SSH sessions that stay open from one build to the next ([`owner`](crate::remote::owner)).

use std::os::fd::{AsFd, OwnedFd};

use log::debug;

use super::connect::compressed;
use super::limits::options;
use super::reach::{MachineLink, reach_over};
use crate::daemon::{Client, Options};
use crate::file_stamp::FileStamp;
use crate::hook::HookArguments;
use crate::local::Directories;
use crate::machine::{Compressed, Machine};
use crate::remote::owner::{self, Acquired, CacheKey, Files};
use crate::remote::{Connection, DaemonStream};
use crate::ssh;
use crate::state::StateDirectory;
use crate::timing::Stopwatch;

/// The sessions that builds share, as one hook uses them.
#[derive(Clone)]
pub struct OpenSessions {
    state: StateDirectory,
    directories: Directories,
    arguments: HookArguments,
    /// The files as they were before the connection was opened.
    files: Files,
}

impl OpenSessions {
    /// Returns the sessions of hooks with these arguments.
    pub fn new(state: &StateDirectory, directories: &Directories, arguments: &HookArguments) -> OpenSessions {
        OpenSessions {
            state: state.clone(),
            directories: directories.clone(),
            arguments: arguments.clone(),
            files: files(directories),
        }
    }

    /// Reaches a machine over an open session, if its daemon accepts the options over it.
    pub(super) fn reach(&self, machine: &Machine) -> Option<MachineLink> {
        let key = ssh::private_key_stamp(machine.private_key.as_deref());
        let options = options(&self.arguments, machine);
        let cache_key = self.cache_key(machine, compressed(&self.state, machine), key, &options)?;
        let mut stopwatch = Stopwatch::start();
        let store = &self.directories.store;
        let Acquired { connection, client } = owner::acquire(&cache_key, machine, store)?;
        let link = match client {
            Some(client) => Ok(MachineLink { client, connection: connection.clone() }),
            None => reach_over(&self.state, machine, store, connection.clone()),
        };
        let taken = link.and_then(|mut link| {
            link.client.set_options(&options).map_err(|error| error.to_string())?;
            Ok(link)
        });
        stopwatch.lap("borrow");
        taken
            .inspect_err(|error| {
                debug!("cannot reuse the persistent connection: {error}");
                connection.retire();
            })
            .ok()
    }

    fn cache_key(
        &self,
        machine: &Machine,
        asked: Compressed,
        key: Option<FileStamp>,
        options: &Options,
    ) -> Option<CacheKey> {
        let directory = self
            .state
            .persist_directory()
            .inspect_err(|error| debug!("the session does not stay open: {error}"))
            .ok()?;
        let files = Files { private_key: key, ..self.files.clone() };
        CacheKey::new(directory, machine, asked, options, &self.directories.store, &files)
    }

    /// Makes a new session available to other builds from now on. It ends with the process that `daemon` finds.
    pub(super) fn keep(&self, machine: &Machine, connection: &Connection, daemon: fn() -> Option<OwnedFd>) {
        // The stamp of the key at login counts: the key file may have changed meanwhile.
        let Some(key) = connection.key_stamp() else { return };
        let options = options(&self.arguments, machine);
        if let Some(cache_key) = self.cache_key(machine, connection.asked_compression(), Some(key.clone()), &options) {
            let daemon = daemon();
            connection.keep(&cache_key, daemon.as_ref().map(AsFd::as_fd));
        }
    }

    /// Leaves the stream over which the outputs came to another build.
    pub(super) fn release(&self, machine: &Machine, client: Client<DaemonStream>) {
        let mut stopwatch = Stopwatch::start();
        owner::release(client, &options(&self.arguments, machine));
        stopwatch.lap("keep");
    }
}

/// Returns the stamps of this machine's files that every open session depends on, without a private key.
fn files(directories: &Directories) -> Files {
    let key = directories.signing_key();
    Files {
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
    owner::end_outdated(&state.path().join("persist"), machines, &directories.store, |machine| Files {
        private_key: ssh::private_key_stamp(machine.private_key.as_deref()),
        ..common.clone()
    });
}
