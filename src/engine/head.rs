//! This machine: its directories, its state and its history.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use log::debug;
use rustix::system::uname;

use crate::build::{OpenSessions, collect_in_background};
use crate::events::pool::PoolListener;
use crate::hook::{HookArguments, Request};
use crate::local::Directories;
use crate::state::history::{History, Outcome, Row};
use crate::state::{Outbox, StateDirectory, health};

/// The directory of all state, inside the daemon's state directory.
pub const STATE_SUBDIRECTORY: &str = "offload";

/// This machine, as a head that offloads builds.
pub struct Engine {
    pub directories: Directories,
    /// The state that all hooks of this machine share.
    pub state: StateDirectory,
    /// The head's own system type, and the limits for builds.
    pub arguments: HookArguments,
    /// Whether SSH sessions stay open for the next build, in the processes that own them. The program must have called
    /// [`serve_if_asked`](crate::remote::owner::serve_if_asked). Default: false.
    pub persists_connections: bool,
    /// Whether the daemon waits for the end of this process. Then this process never waits for the disk to record a build.
    /// Default: false.
    pub is_hook: bool,
    /// Opens the process with which persistent connections end (pidfd_open(2)), such as the daemon whose hook this
    /// process is. Default: `None`.
    pub daemon: fn() -> Option<OwnedFd>,
    /// Returns the name of the user whose command requests the builds, if known. It is called once, when the first request
    /// is considered. Default: `None`.
    pub client: fn() -> Option<String>,
    /// The result of `client`.
    client_name: OnceLock<Option<String>>,
    /// The last machine file that was loaded, if it has `on_event`.
    pub(super) event_file: Arc<Mutex<Option<PathBuf>>>,
}

impl Engine {
    /// Makes an engine that stores its state in the directory `offload` of the daemon's state.
    pub fn new(directories: Directories, arguments: HookArguments) -> Engine {
        let state = StateDirectory::new(directories.state.join(STATE_SUBDIRECTORY));
        let (persists_connections, is_hook) = (false, false);
        let (daemon, client): (fn() -> _, fn() -> _) = (|| None, || None);
        let client_name = OnceLock::new();
        Engine {
            directories,
            state,
            arguments,
            persists_connections,
            is_hook,
            daemon,
            client,
            client_name,
            event_file: Arc::default(),
        }
    }

    /// Passes events on to `on_event` of the machine file that was loaded last, if it has this function: the event is
    /// appended to those that wait, and `launch` has them passed on.
    pub fn hand_events_to(&mut self, launch: fn(&Path)) {
        let (outbox, file) = (Outbox::of(&self.state), Arc::clone(&self.event_file));
        let listener = PoolListener::new(move |event| {
            let Some(file) = file.lock().ok().and_then(|file| file.clone()) else { return };
            match outbox.push(event) {
                Ok(()) => launch(&file),
                Err(error) => debug!("an event is lost: {error}"),
            }
        });
        self.state = self.state.clone().with_listener(listener);
    }

    /// Returns the history of this head.
    pub fn history(&self) -> History {
        if self.is_hook { History::of_hook(&self.state) } else { History::of(&self.state) }
    }

    /// Records that a request was not accepted, and why.
    pub fn record_request(&self, request: &Request, outcome: Outcome, reason: String) {
        let history = self.history();
        history.append(&[Row { reason: Some(reason), ..self.row(request, outcome) }]);
        // If no build runs, nothing else moves the rows.
        if history.has_many_new_rows() {
            collect_in_background(&history);
        }
    }

    /// Returns the name of the user whose command requests the builds, if known.
    pub fn client_name(&self) -> Option<String> {
        self.client_name.get_or_init(self.client).clone()
    }

    /// Returns a row with what all rows about a request have in common.
    pub(super) fn row(&self, request: &Request, outcome: Outcome) -> Row {
        let row = Row::new(request.derivation.as_str(), &request.system, outcome, health::now());
        let head = uname().nodename().to_string_lossy().into_owned();
        Row { user: self.client_name(), head, ..row }
    }

    /// Returns the SSH sessions that builds of this head leave open for each other.
    pub fn sessions(&self) -> OpenSessions {
        OpenSessions::new(&self.state, &self.directories, &self.arguments, self.daemon)
    }
}
