//! Connections to this machine's daemon for imports, kept from one build to the next.
//!
//! guix-daemon starts `guix authenticate` for the first signature that it checks on a connection, which takes much longer
//! than a small import. On a connection that has imported before, that program is running already. Each imported item is a
//! temporary root until its connection ends, so a connection is used for [`MAX_AGE`] at most.
//! Unused connections that are older end with the next import, or with this object.
//!
//! Not checked here: whether the daemon accepts the imports.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::directories::Directories;
use super::local_daemon::{LocalDaemon, LocalDaemonError, connect_to_daemon};

/// How long after it was opened a connection is used.
const MAX_AGE: Duration = Duration::from_secs(60);

/// The connections that no import uses.
#[derive(Default)]
pub struct ImportConnections(Mutex<Vec<ImportConnection>>);

/// A connection for one import at a time.
pub struct ImportConnection {
    pub client: LocalDaemon,
    opened_at: Instant,
}

impl ImportConnections {
    /// Returns an unused connection, or opens one.
    pub fn take(&self, directories: &Directories) -> Result<ImportConnection, LocalDaemonError> {
        loop {
            let unused = {
                let mut unused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                unused.retain(|connection| connection.opened_at.elapsed() < MAX_AGE);
                unused.pop()
            };
            match unused {
                // The daemon may have been restarted.
                Some(mut connection) => {
                    if connection.client.query_valid_paths(&BTreeSet::new()).is_ok() {
                        return Ok(connection);
                    }
                }
                None => {
                    let client = connect_to_daemon(directories)?;
                    return Ok(ImportConnection { client, opened_at: Instant::now() });
                }
            }
        }
    }

    /// Keeps a connection whose import has succeeded.
    pub fn put(&self, connection: ImportConnection) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}
