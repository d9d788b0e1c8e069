//! A second connection to a machine's daemon, which gets ready to sign while the first one sends and builds.
//!
//! The first signature on a connection has the daemon start `guix authenticate`, which takes 40 to 95 ms of Guile. So a
//! small text is added and asked for, signed, and its export left unread until the build is done. The outputs are then
//! fetched over this connection. Not where the first connection has to import anyway, since it starts a helper of its
//! own for that; not where it was kept from a build before and has one; and not over long links, where the connection
//! itself takes longer than that.
//!
//! While others are logging in to the machine, or sending to it, its processors have more urgent things to do, and this
//! is put off: until the build has something to say or has gone on for a moment (`START_DELAY`).

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::time::Duration;

use log::debug;

use super::limiter::TransferLimiter;
use crate::daemon::{Client, Error, ExportError};
use crate::remote::{Connection, DaemonStream, SilencePolicy};
use crate::state::logins::Logins;
use crate::timing::Stopwatch;

/// A link with a longer round trip counts as long.
const LONG_ROUND_TRIP: Duration = Duration::from_millis(5);

/// Name of the text; the same for all, and garbage when nobody is connected.
const NAME: &str = "offload-signer";

/// More than the item of that text, in bytes. What is left after it is an error of the daemon's.
const MAX_ITEM: u64 = 64 << 10;

/// How long a build runs before the deferred connection is made.
const START_DELAY: Duration = Duration::from_millis(200);

/// The second connection, once there is one. Without one, signing takes its time.
pub struct SigningConnection<'a> {
    pub(super) connection: &'a Connection,
    silence_policy: SilencePolicy,
    limiter: &'a TransferLimiter<'a>,
    /// Whether others are sending to the machine.
    pub(super) is_busy: bool,
    is_put_off: bool,
    client: Option<Client<DaemonStream>>,
}

impl<'a> SigningConnection<'a> {
    /// None yet.
    pub fn new(
        connection: &'a Connection,
        silence_policy: &SilencePolicy,
        limiter: &'a TransferLimiter<'a>,
    ) -> SigningConnection<'a> {
        SigningConnection {
            connection,
            silence_policy: silence_policy.clone(),
            limiter,
            is_busy: false,
            is_put_off: false,
            client: None,
        }
    }

    /// Has the daemon get ready to sign, if that saves time beside `client`, the first connection; later, if the
    /// machine is busy.
    pub(super) fn start(&mut self, client: &mut Client<DaemonStream>) {
        if self.client.is_some() || client.round_trip() >= LONG_ROUND_TRIP || client.stream_mut().is_resumed() {
            return;
        }
        let logins = Logins::of(self.limiter.state, self.limiter.machine);
        self.is_put_off = self.is_busy || logins.and_then(|logins| logins.is_crowded(None)).unwrap_or(false);
        if !self.is_put_off {
            self.start_now(client);
        }
    }

    /// Does what was put off, as soon as `client`, which waits for a build, has something to read, or has waited long
    /// enough.
    pub fn start_deferred(&mut self, client: &mut Client<DaemonStream>) {
        if self.is_put_off {
            client.stream_mut().wait(START_DELAY);
            self.start_now(client);
        }
    }

    fn start_now<S: Read + Write>(&mut self, client: &Client<S>) {
        let mut stopwatch = Stopwatch::start();
        match self.connect(client) {
            Ok(client) => self.client = Some(client),
            Err(error) => debug!("no second connection: {error}"),
        }
        stopwatch.lap("second");
    }

    /// The error is a message.
    fn connect<S: Read + Write>(&self, first: &Client<S>) -> Result<Client<DaemonStream>, String> {
        let stream = self.connection.daemon().map_err(|error| error.to_string())?;
        let connect = || -> Result<Client<DaemonStream>, Error> {
            let mut client = stream.greet(first.store().clone())?;
            client.stream_mut().set_silence_policy(self.silence_policy.clone());
            let text = client.add_text_to_store(NAME, b"", &BTreeSet::new())?;
            client.start_export(&text, true)?;
            Ok(client)
        };
        connect().map_err(|error| error.to_string())
    }

    /// The second connection, once its daemon has signed; `None` if there is none, or it did not.
    pub fn ready(self) -> Option<Client<DaemonStream>> {
        let mut client = self.client?;
        let mut stopwatch = Stopwatch::start();
        let signed = client.finish_export(|item| io::copy(&mut item.take(MAX_ITEM), &mut io::sink()));
        stopwatch.lap("ready");
        let failure = match signed {
            Ok(_) => return Some(client),
            Err(ExportError::Daemon(error)) => error.to_string(),
            Err(ExportError::Consumer(error)) => error.to_string(),
        };
        debug!("the second connection failed: {failure}");
        None
    }
}
