//! A second connection to a machine's daemon, which prepares for signing while the first one sends and builds.
//!
//! For the first signature on a connection, the daemon starts `guix authenticate`, which takes 40 to 95 ms of Guile. So
//! a small text is added and its signed export requested; the export is left unread until the build is done. The
//! outputs are then downloaded over this connection. There is no second connection in three cases: the first connection
//! has to import anyway, since the daemon starts a helper for that; the first connection persists from an earlier build
//! and has a helper; the link has a high latency, so that connecting takes longer than starting the helper.
//!
//! While other processes are logging in to the machine or sending to it, its processors have more urgent work. Then the
//! second connection is deferred until the build prints something or has run for a moment (`START_DELAY`).

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::time::Duration;

use log::debug;

use super::limiter::TransferLimiter;
use crate::daemon::{Client, Error, ExportError};
use crate::remote::{Connection, DaemonStream, SilencePolicy};
use crate::state::logins::Logins;
use crate::timing::Stopwatch;

/// The round-trip time above which a link has a high latency.
const LONG_ROUND_TRIP: Duration = Duration::from_millis(5);

/// The name of the text. It is the same for all heads, and garbage when no head is connected.
const ITEM_NAME: &str = "offload-signer";

/// The size limit of the item of that text, in bytes. Data after it are an error of the daemon.
const MAX_ITEM_SIZE: u64 = 64 << 10;

/// How long a build runs before the deferred connection is made.
const START_DELAY: Duration = Duration::from_millis(200);

/// The second connection, if it exists yet. Without it, the first signature takes longer.
pub struct SigningConnection<'a> {
    pub(super) connection: Connection,
    silence_policy: SilencePolicy,
    limiter: &'a TransferLimiter<'a>,
    /// Whether other processes are sending to the machine.
    pub(super) is_busy: bool,
    is_put_off: bool,
    client: Option<Client<DaemonStream>>,
}

impl<'a> SigningConnection<'a> {
    /// Returns a signing connection that is not open yet.
    pub fn new(
        connection: &Connection,
        silence_policy: &SilencePolicy,
        limiter: &'a TransferLimiter<'a>,
    ) -> SigningConnection<'a> {
        SigningConnection {
            connection: connection.clone(),
            silence_policy: silence_policy.clone(),
            limiter,
            is_busy: false,
            is_put_off: false,
            client: None,
        }
    }

    /// Opens the connection, so that the daemon prepares for signing, if that saves time beside `client`, the first
    /// connection. If the machine is busy, this is deferred.
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

    /// Opens the deferred connection as soon as `client`, which waits for a build, has data to read, or has waited long
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

    /// Opens the connection. The error is a message.
    fn connect<S: Read + Write>(&self, first: &Client<S>) -> Result<Client<DaemonStream>, String> {
        let stream = self.connection.daemon().map_err(|error| error.to_string())?;
        let connect = || -> Result<Client<DaemonStream>, Error> {
            let mut client = stream.greet(first.store().clone())?;
            client.stream_mut().set_silence_policy(self.silence_policy.clone());
            let text = client.add_text_to_store(ITEM_NAME, b"", &BTreeSet::new())?;
            client.start_export(&text, true)?;
            Ok(client)
        };
        connect().map_err(|error| error.to_string())
    }

    /// Returns the second connection once its daemon has signed; `None` if there is none or it failed.
    pub fn ready(self) -> Option<Client<DaemonStream>> {
        let mut client = self.client?;
        let mut stopwatch = Stopwatch::start();
        let signed = client.finish_export(|item| io::copy(&mut item.take(MAX_ITEM_SIZE), &mut io::sink()));
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
