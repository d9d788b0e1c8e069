//! This machine: its directories, its state and its history.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::system::uname;

use crate::build::{OpenSessions, collect_in_background};
use crate::hook::{HookArguments, Request};
use crate::local::Directories;
use crate::state::history::{History, Outcome, Row};
use crate::state::{StateDirectory, health};

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
}

impl Engine {
    /// Makes an engine that stores its state in the directory `offload` of the daemon's state.
    pub fn new(directories: Directories, arguments: HookArguments) -> Engine {
        let state = StateDirectory::new(directories.state.join(STATE_SUBDIRECTORY));
        let (persists_connections, is_hook) = (false, false);
        let (daemon, client): (fn() -> _, fn() -> _) = (|| None, || None);
        let client_name = OnceLock::new();
        Engine { directories, state, arguments, persists_connections, is_hook, daemon, client, client_name }
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
