//! What a session and its thread say to each other.

use std::collections::HashMap;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use super::Error;
use super::keys::Place;

/// How long a build does not try again to take a slot of a host without a free one, unless it hears that one was released.
const FULL_FOR: Duration = Duration::from_secs(1);

/// A build, as others see it in the database.
#[derive(Clone, Debug)]
pub(super) struct Build {
    pub derivation: String,
    pub user: Option<String>,
    /// Whether it takes a slot of a drained machine, too.
    pub ignores_drains: bool,
}

/// What the database says when a session begins.
#[derive(Clone, Debug)]
pub(super) struct Entered {
    /// The heads of the pool within the last day.
    pub heads: u32,
    /// The drained hosts, as JSON.
    pub drains: String,
    /// The number of the server's process.
    pub backend: i32,
}

/// The result of an attempt to take a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Slot(i32),
    Full,
    Drained,
}

/// A request to the thread.
pub(super) enum Command {
    /// Connects.
    Enter(SyncSender<Result<Entered, Error>>),
    /// Takes a slot, which has this number among those of the session.
    Take(u64, Place, Build, SyncSender<Result<Outcome, Error>>),
    /// Takes a slot in the background, for a build that has begun.
    Adopt(u64, Place, Build),
    /// Releases a slot, and replies.
    Release(u64, SyncSender<()>),
    Wait(Vec<String>, Build),
    /// The build does not wait any more, or behind others of this head.
    Leave,
}

/// The news from the database.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Whether the session has a connection that is not known to be lost.
    pub is_connected: bool,
    /// When each host had no free slot.
    full: HashMap<String, Instant>,
    /// The newest list of drained hosts, as JSON.
    drains: Option<String>,
}

impl View {
    pub(super) fn full(&mut self, host: &str) {
        self.full.insert(host.to_owned(), Instant::now());
    }

    pub(super) fn released(&mut self, host: &str) {
        self.full.remove(host);
    }

    pub(super) fn may_be_free(&self, host: &str) -> bool {
        self.full.get(host).is_none_or(|since| since.elapsed() >= FULL_FOR)
    }

    pub(super) fn take_drains(&mut self) -> Option<String> {
        self.drains.take()
    }

    pub(super) fn drained(&mut self, drains: String) {
        self.drains = Some(drains);
    }
}
