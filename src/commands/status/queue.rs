//! The builds of this head that wait for a machine, and those that guix-daemon builds here because the hook has declined
//! them.
//!
//! The first are the tickets of the queue. The others are found in the history: a build whose last request was declined,
//! and whose output guix-daemon holds locked, although no hook has it.

use std::collections::{BTreeMap, BTreeSet};

use log::debug;
use serde::Serialize;

use crate::engine::Engine;
use crate::local::{is_output_locked, read_derivation};
use crate::state::health::{self, Time};
use crate::state::history::{Filter, Outcome, Row};
use crate::state::{Queue, Slots};
use crate::store::path::StorePath;

/// How long ago the request of a build that runs here may have been declined, in milliseconds.
const LONGEST_LOCAL_BUILD: Time = 7 * 24 * 3_600_000;

/// The most declined requests that are read.
const MAX_DECLINED: u64 = 10_000;

/// A build that waits. Times are seconds since 1970.
#[derive(Clone, Debug, Serialize)]
pub struct QueuedBuild {
    pub derivation: String,
    pub system: String,
    /// The user whose command requests it, if known.
    pub user: Option<String>,
    pub since: u64,
    /// The hook process.
    pub pid: u32,
    /// The hosts that may take it, `NAME:PORT`.
    pub hosts: Vec<String>,
}

/// A build that runs on this machine, because the hook has declined it.
#[derive(Clone, Debug, Serialize)]
pub struct LocalBuild {
    pub derivation: String,
    pub user: Option<String>,
    /// When it was declined, in seconds since 1970.
    pub since: u64,
    pub reason: Option<String>,
}

/// The builds of this head that are on no machine.
#[derive(Clone, Debug, Default, Serialize)]
pub struct OtherBuilds {
    /// In the order of their arrival.
    pub queue: Vec<QueuedBuild>,
    pub local_builds: Vec<LocalBuild>,
}

/// Reads the builds that wait, and those that run here. Without the right to read them, it returns none.
pub fn read(engine: &Engine) -> OtherBuilds {
    let queue = queued(engine);
    OtherBuilds { local_builds: local(engine, &queue), queue }
}

/// Returns the builds that wait, in the order of their arrival.
pub fn queued(engine: &Engine) -> Vec<QueuedBuild> {
    let records = Queue::read(&engine.state, health::now()).unwrap_or_else(|error| {
        debug!("{error}");
        Vec::new()
    });
    let mut records: Vec<_> = records.into_iter().map(|(_, record)| record).collect();
    records.sort_by_key(|record| record.since);
    let build = |record: crate::state::queue::TicketRecord| QueuedBuild {
        derivation: record.build.derivation,
        system: record.build.system,
        user: record.build.user,
        since: record.since / 1000,
        pid: record.build.pid,
        hosts: record.hosts,
    };
    records.into_iter().map(build).collect()
}

fn local(engine: &Engine, queue: &[QueuedBuild]) -> Vec<LocalBuild> {
    let filter = Filter {
        since: Some(health::now().saturating_sub(LONGEST_LOCAL_BUILD)),
        outcomes: vec![Outcome::Declined],
        limit: Some(MAX_DECLINED),
        ..Filter::default()
    };
    let rows = engine.history().rows(&filter).unwrap_or_else(|error| {
        debug!("{error}");
        Vec::new()
    });
    let mut last: BTreeMap<String, Row> = BTreeMap::new();
    for row in rows {
        last.insert(row.derivation.clone(), row);
    }
    let holders = Slots::holders(&engine.state);
    let elsewhere: BTreeSet<&str> = holders
        .iter()
        .map(|holder| holder.derivation.as_str())
        .chain(queue.iter().map(|build| build.derivation.as_str()))
        .collect();
    last.retain(|derivation, _| !elsewhere.contains(derivation.as_str()) && is_being_built(engine, derivation));
    let mut builds: Vec<LocalBuild> = last
        .into_values()
        .map(|row| LocalBuild {
            derivation: row.derivation,
            user: row.user,
            since: row.ended / 1000,
            reason: row.reason,
        })
        .collect();
    builds.sort_by_key(|build| build.since);
    builds
}

fn is_being_built(engine: &Engine, derivation: &str) -> bool {
    let store = &engine.directories.store;
    let Ok(path) = StorePath::parse(store, derivation.as_bytes()) else { return false };
    let Ok(read) = read_derivation(store, &path) else { return false };
    read.outputs.values().any(|output| is_output_locked(&output.path).unwrap_or(false))
}
