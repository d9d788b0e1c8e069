//! A second connection to a machine's daemon, which gets ready to sign while the first one builds.
//!
//! The first signature on a connection has the daemon start `guix authenticate`, which takes 40 to 95 ms of Guile. So the
//! derivation, which has just been sent, is asked for, signed, and its export left unread until the build is done. The outputs
//! are then fetched over this connection.

use std::io::{self, Read, Write};

use super::transmit::FAR;
use crate::daemon::{Client, Error, ExportError};
use crate::remote::{Connection, DaemonStream, Patience};
use crate::store::derivation;
use crate::store::path::{StoreDir, StorePath};
use crate::timing::Stopwatch;

/// More than the item of any derivation, in bytes.
const MAX_ITEM: u64 = 2 * derivation::MAX_SIZE as u64;

/// A connection whose daemon is about to sign.
pub struct Signer {
    client: Client<DaemonStream>,
}

impl Signer {
    /// Whether it saves time beside `client`, which has been asked to build: not where a helper runs already, and hardly where
    /// the second connection itself takes long.
    pub fn pays(client: &Client<DaemonStream>) -> bool {
        !client.has_helper() && client.round_trip() < FAR
    }

    /// Has the daemon sign `item`, which it must have. The error is a message.
    pub fn start(
        connection: &Connection,
        store: &StoreDir,
        item: &StorePath,
        patience: Patience,
    ) -> Result<Signer, String> {
        let mut stopwatch = Stopwatch::start();
        let stream = connection.daemon().map_err(|error| error.to_string())?;
        let mut client = Client::connect(stream, store.clone()).map_err(|error| error.to_string())?;
        client.stream_mut().set_patience(patience);
        client.start_export(item, true).map_err(|error| error.to_string())?;
        stopwatch.lap("second");
        Ok(Signer { client })
    }

    /// The connection, once the daemon has signed.
    pub fn ready(mut self) -> Result<Client<DaemonStream>, Error> {
        let mut stopwatch = Stopwatch::start();
        finish(&mut self.client)?;
        stopwatch.lap("ready");
        Ok(self.client)
    }
}

/// Reads the item to its end.
fn finish<S: Read + Write>(client: &mut Client<S>) -> Result<(), Error> {
    // What is left after that is an error of the daemon's.
    match client.finish_export(|item| io::copy(&mut item.take(MAX_ITEM), &mut io::sink())) {
        Ok(_) => Ok(()),
        Err(ExportError::Daemon(error)) => Err(error),
        // A sink takes everything, so it was the source: which comes back as the daemon's error, above.
        Err(ExportError::Consumer(cause)) => Err(Error::Link { operation: "ExportPath", cause }),
    }
}
