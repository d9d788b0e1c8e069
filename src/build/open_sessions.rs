//! SSH sessions that stay open from one build to the next ([`owner`](crate::remote::owner)).

use std::borrow::Cow;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use log::debug;

use super::connect::{SessionWait, compressed, wait_for_session};
use super::limits::options;
use super::reach::{MachineLink, reach, reach_over};
use crate::daemon::{Client, Options};
use crate::file_stamp::FileStamp;
use crate::hook::HookArguments;
use crate::local::Directories;
use crate::machine::{Compressed, Machine};
use crate::remote::owner::{self, Acquired, CacheKey, Files, idle_timeout};
use crate::remote::{Connection, DaemonStream};
use crate::ssh;
use crate::state::{StateDirectory, as_started};
use crate::timing::Stopwatch;

/// How long a session stays open that was used for a probe and not for a build. Other hooks that start at the same time
/// find it.
const PROBED_IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// The sessions that builds share, as one hook uses them.
#[derive(Clone)]
pub struct OpenSessions {
    state: StateDirectory,
    directories: Directories,
    arguments: HookArguments,
    /// Opens the process with which sessions end (pidfd_open(2)).
    daemon: fn() -> Option<OwnedFd>,
    /// The files as they were before the connection was opened.
    files: Files,
}

impl OpenSessions {
    /// Returns the sessions of hooks with these arguments. `daemon` opens the process with which new ones end.
    pub fn new(
        state: &StateDirectory,
        directories: &Directories,
        arguments: &HookArguments,
        daemon: fn() -> Option<OwnedFd>,
    ) -> OpenSessions {
        OpenSessions {
            state: state.clone(),
            directories: directories.clone(),
            arguments: arguments.clone(),
            daemon,
            files: files(directories),
        }
    }

    /// Reaches a machine over an open session, else over a new one. If several processes need one at the same time, one of
    /// them logs in.
    pub(super) fn connect(&self, machine: &Machine) -> Result<MachineLink, String> {
        let (machine, store) = (&*as_started(&self.state, machine), &self.directories.store);
        if idle_timeout(machine).is_none() {
            return reach(&self.state, machine, store);
        }
        match wait_for_session(&self.state, machine, || self.reach(machine))? {
            SessionWait::Found(link) => Ok(link),
            SessionWait::LogIn(_lock) => {
                let link = reach(&self.state, machine, store)?;
                self.keep_for(PROBED_IDLE_TIMEOUT, machine, &link.connection);
                Ok(link)
            }
        }
    }

    /// Reaches a machine over an open session, if its daemon accepts the options over it.
    fn reach(&self, machine: &Machine) -> Option<MachineLink> {
        let key = ssh::private_key_stamp(machine.private_key.as_deref());
        let options = options(&self.arguments);
        let cache_key = self.cache_key(machine, compressed(&self.state, machine), key, Some(&options))?;
        let mut stopwatch = Stopwatch::start();
        let store = &self.directories.store;
        let acquire = |unless_busy| owner::acquire(&cache_key, machine, store, unless_busy);
        // As many sessions as build slots are shared, however busy they are.
        let acquired = acquire(true).or_else(|| if cache_key.is_full() { acquire(false) } else { None });
        let Acquired { connection, client } = acquired?;
        let link = match client {
            Some(client) => Ok(MachineLink { client, connection: connection.clone(), has_options: false }),
            None => reach_over(&self.state, machine, store, connection.clone()),
        };
        let taken = link.and_then(|mut link| {
            link.client.set_options(&options).map_err(|error| error.to_string())?;
            link.has_options = true;
            Ok(link)
        });
        stopwatch.lap("reuse");
        taken
            .inspect_err(|error| {
                debug!("cannot reuse the persistent connection: {error}");
                connection.retire();
            })
            .ok()
    }

    /// Returns a connection over an open session with the machine, if there is one. Nothing is sent to the machine, so the
    /// session may be lost.
    pub fn find(&self, machine: &Machine) -> Option<Connection> {
        let machine = &*as_started(&self.state, machine);
        let key = ssh::private_key_stamp(machine.private_key.as_deref());
        let cache_key = self.cache_key(machine, compressed(&self.state, machine), key, None)?;
        Some(owner::acquire(&cache_key, machine, &self.directories.store, false)?.connection)
    }

    fn cache_key(
        &self,
        machine: &Machine,
        asked: Compressed,
        key: Option<FileStamp>,
        options: Option<&Options>,
    ) -> Option<CacheKey> {
        let files = Files { private_key: key, ..self.files.clone() };
        CacheKey::new(self.state.persist_directory(), machine, asked, options, &self.directories.store, &files)
    }

    /// Makes a session available to other builds, for as long as the machine file says. A session that another process
    /// made for a probe alone would end sooner.
    pub(super) fn keep(&self, machine: &Machine, connection: &Connection) {
        self.keep_for(Duration::MAX, &as_started(&self.state, machine), connection);
    }

    fn keep_for(&self, longest: Duration, machine: &Machine, connection: &Connection) {
        let Some(idle) = idle_timeout(machine) else { return };
        // The stamp of the key at login counts: the key file may have changed meanwhile. A session that was found has its
        // name already.
        let key = connection.key_stamp().cloned();
        if let Some(cache_key) = self.cache_key(machine, connection.requested_compression(), key, None) {
            if let Err(error) = self.state.make_persist_directory() {
                return debug!("the session does not stay open: {error}");
            }
            let daemon = if connection.is_reused() { None } else { (self.daemon)() };
            let store = self.directories.store.as_str();
            connection.keep_open(&cache_key, idle.min(longest), store, daemon.as_ref().map(AsFd::as_fd));
        }
    }

    /// Leaves the stream over which the outputs came to another build.
    pub(super) fn release(&self, client: Client<DaemonStream>) {
        let mut stopwatch = Stopwatch::start();
        owner::release(client, &options(&self.arguments));
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
    let machines: Vec<Cow<Machine>> = machines.iter().map(|machine| as_started(state, machine)).collect();
    let machines: Vec<&Machine> = machines.iter().map(AsRef::as_ref).collect();
    owner::retire_outdated(&state.persist_directory(), &machines, &directories.store, |machine| Files {
        private_key: ssh::private_key_stamp(machine.private_key.as_deref()),
        ..common.clone()
    });
}
