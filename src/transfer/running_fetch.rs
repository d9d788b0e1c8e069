//! A fetch that is under way: a thread that waits for the machine's daemon.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::debug;

use super::downloads::Downloads;
use super::fetch_plan::ItemSet;
use crate::cancel;
use crate::daemon::{Client, Error};
use crate::remote::{DaemonStream, SilencePolicy, StreamCloser};
use crate::state::transfers::TransferSlot;

/// A fetch that is under way, or has just ended. Dropping it ends it.
pub(super) struct RunningFetch {
    pub items: ItemSet,
    downloads: Arc<Mutex<Downloads>>,
    end: Receiver<EndedFetch>,
    ended: Option<EndedFetch>,
    /// Ends the stream; `None` once the fetch has ended.
    closer: Option<StreamCloser>,
}

/// The end of a fetch.
pub(super) struct EndedFetch {
    pub client: Client<DaemonStream>,
    /// The reason why the daemon stopped early, if there is one.
    pub cause: Option<String>,
    pub took: Duration,
}

impl RunningFetch {
    /// Has the daemon of `client` fetch `items`. It is given up after the time `limit` without any download, or when
    /// `downloads` are too slow. The slot is freed at the end. `None` if no thread can be started, or too many files are
    /// open.
    pub fn start(
        mut client: Client<DaemonStream>,
        items: ItemSet,
        downloads: Downloads,
        limit: Duration,
        slot: TransferSlot,
    ) -> Option<RunningFetch> {
        let downloads = Arc::new(Mutex::new(downloads));
        let stream = client.stream_mut().progress();
        let closer = client.stream_mut().closer().inspect_err(|error| debug!("cannot fetch: {error}")).ok()?;
        client.stream_mut().set_silence_policy(SilencePolicy::greeting(limit));
        let (counted, pace) = (Arc::clone(&downloads), stream);
        client.set_log(Some(Box::new(move |text| {
            let mut downloads = lock(&counted);
            let before = downloads.bytes();
            downloads.take(text);
            if downloads.bytes() > before {
                pace.step();
            }
            if downloads.is_too_slow(Instant::now()) {
                pace.stop();
            }
        })));
        let (sender, end) = sync_channel(1);
        let (paths, counted) = (items.paths.clone(), Arc::clone(&downloads));
        let work = move || {
            let start = Instant::now();
            let built = client.build_paths(&paths);
            let took = start.elapsed();
            client.set_log(None);
            // Other builds need not wait for these items any more.
            drop(slot);
            let message = lock(&counted).message().to_owned();
            let cause = match built {
                Ok(()) => Some(message).filter(|message| !message.is_empty()),
                Err(Error::Daemon { message: error, .. }) if message.is_empty() => Some(error),
                Err(Error::Daemon { .. }) => Some(message),
                Err(error) => Some(failure(&error, limit)),
            };
            // Nobody receives it if the build has ended.
            let _ = sender.send(EndedFetch { client, cause, took });
        };
        if let Err(error) = thread::Builder::new().name("fetch".to_owned()).spawn(cancel::inherit(work)) {
            debug!("cannot start a thread: {error}");
            return None;
        }
        Some(RunningFetch { items, downloads, end, ended: None, closer: Some(closer) })
    }

    /// Waits for its end, and returns whether it came in time.
    pub fn has_ended_within(&mut self, limit: Duration) -> bool {
        if self.ended.is_some() {
            return true;
        }
        match self.end.recv_timeout(limit) {
            Ok(ended) => self.ended = Some(ended),
            Err(RecvTimeoutError::Timeout) => return false,
            // The thread is gone.
            Err(RecvTimeoutError::Disconnected) => {}
        }
        true
    }

    /// Returns the bytes that were downloaded so far.
    pub fn bytes(&self) -> u64 {
        lock(&self.downloads).bytes()
    }

    /// Returns the items, and how the fetch has ended. The stream stays open.
    pub fn into_end(mut self) -> Option<(ItemSet, EndedFetch)> {
        self.closer = None;
        Some((std::mem::take(&mut self.items), self.ended.take()?))
    }
}

impl Drop for RunningFetch {
    fn drop(&mut self) {
        if let Some(closer) = &self.closer {
            closer.close();
        }
    }
}

/// Returns the message about a daemon that did not reply as it should within `limit`.
pub(super) fn failure(error: &Error, limit: Duration) -> String {
    let seconds = (limit.as_secs_f64() * 10.0).round() / 10.0;
    match error {
        Error::Daemon { message, .. } => message.clone(),
        Error::Link { cause, .. } if cause.kind() == io::ErrorKind::TimedOut => {
            format!("no reply within {seconds} s")
        }
        Error::Link { cause, .. } if cause.kind() == io::ErrorKind::Other => {
            format!("too few bytes within {seconds} s")
        }
        error => error.to_string(),
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
