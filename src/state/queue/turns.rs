//! When the builds of each user last left the queue for a slot of a host: `turns.json` of the host, times by users.
//!
//! It is changed under the lock `queue/lock`. A user without a waiting build needs no entry, because its next build will
//! have come later than its last turn ([`super::fair_order`]). So an entry is dropped with the user's last ticket, and
//! the file stays small. The user without a name has an empty one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::state::StateError;
use crate::state::health::Time;
use crate::state::lock::{contents, replace};

/// The turns of the users at one host.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(BTreeMap<String, Time>);

/// Returns the file of a host, in the state directory.
fn path(state: &Path, host: &str) -> PathBuf {
    state.join(host).join("turns.json")
}

impl Turns {
    /// Reads the turns. An unreadable or missing file has none.
    pub fn read(state: &Path, host: &str) -> Turns {
        let turns = contents(&path(state, host)).and_then(|text| serde_json::from_slice(&text).ok());
        Turns(turns.unwrap_or_default())
    }

    /// Returns the last turn of a user. One in the future does not count: the clock was set back.
    pub fn of(&self, user: Option<&str>, now: Time) -> Option<Time> {
        self.0.get(user.unwrap_or_default()).copied().filter(|turn| *turn <= now)
    }

    /// Records that it is the turn of `user`, and drops the entries of users that are not in `waiting`.
    pub fn record(
        mut self,
        state: &Path,
        host: &str,
        user: Option<&str>,
        waiting: &BTreeSet<Option<&str>>,
        now: Time,
    ) -> Result<(), StateError> {
        self.0.retain(|known, _| waiting.iter().any(|user| user.unwrap_or_default() == known));
        if waiting.contains(&user) {
            self.0.insert(user.unwrap_or_default().to_owned(), now);
        }
        let path = path(state, host);
        let text =
            serde_json::to_vec(&self.0).map_err(|error| StateError { path: path.clone(), cause: error.into() })?;
        replace(&path, &text)
    }
}
