//! Events that `on_event` of the machine file is to be called with, in the record `events.json`.
//!
//! A process that has an event appends it, and launches a process that takes them one by one and makes the calls. That
//! process holds the lock of `events-calls.lock` meanwhile, so that there is one such process at a time. A killed process
//! loses the event that it has taken: no event is passed on twice.

use std::fs::File;

use serde::{Deserialize, Serialize};

use super::json_record::JsonRecord;
use super::lock::try_lock;
use super::{StateDirectory, StateError};
use crate::events::pool::PoolEvent;
use crate::permissions::files;

/// The most events that wait. Further ones are dropped.
const MAX_EVENTS: usize = 200;

/// The longest reason and error, in characters. With [`MAX_BYTES`], the record stays within the limit of records.
const MAX_TEXT: usize = 400;

/// The length of the waiting events in JSON above which further ones are dropped.
const MAX_BYTES: usize = 48 << 10;

/// The record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Waiting {
    events: Vec<PoolEvent>,
    /// The first error of `on_event` that no command has reported.
    error: Option<String>,
}

/// The events that wait.
#[derive(Clone, Debug)]
pub struct Outbox(StateDirectory);

/// The right to call `on_event`, which one process has at a time.
#[derive(Debug)]
pub struct CallsLock(#[expect(dead_code, reason = "holds the lock")] File);

impl Outbox {
    /// Returns the events of a head.
    pub fn of(state: &StateDirectory) -> Outbox {
        Outbox(StateDirectory { listener: None, ..state.clone() })
    }

    fn record(&self) -> Result<JsonRecord<Waiting>, StateError> {
        JsonRecord::shared(&self.0, "events")
    }

    /// Changes the record, and returns what `change` returns.
    fn change<T>(&self, change: impl FnOnce(&mut Waiting) -> T) -> Result<Option<T>, StateError> {
        let mut result = None;
        self.record()?.change(|waiting| {
            let mut waiting = waiting.unwrap_or_default();
            result = Some(change(&mut waiting));
            waiting
        })?;
        Ok(result)
    }

    /// Appends an event, unless too many wait.
    pub fn push(&self, event: &PoolEvent) -> Result<(), StateError> {
        let reason = event.reason.as_deref().map(shortened);
        self.change(|waiting| {
            let length = serde_json::to_vec(&waiting.events).map_or(0, |text| text.len());
            if waiting.events.len() < MAX_EVENTS && length < MAX_BYTES {
                waiting.events.push(PoolEvent { reason, ..event.clone() });
            }
        })
        .map(|_| ())
    }

    /// Returns whether no event waits.
    pub fn is_empty(&self) -> bool {
        self.record().ok().and_then(|record| record.read()).is_none_or(|waiting| waiting.events.is_empty())
    }

    /// Takes the oldest event.
    pub fn take(&self) -> Result<Option<PoolEvent>, StateError> {
        if self.is_empty() {
            return Ok(None);
        }
        let taken = self.change(|waiting| (!waiting.events.is_empty()).then(|| waiting.events.remove(0)))?;
        Ok(taken.flatten())
    }

    /// Records that a call has failed.
    pub fn failed(&self, error: &str) -> Result<(), StateError> {
        self.change(|waiting| {
            waiting.error.get_or_insert_with(|| shortened(error));
        })
        .map(|_| ())
    }

    /// Takes the error that no command has reported yet.
    pub fn take_error(&self) -> Option<String> {
        if !files::exists(&self.0.path().join("events.json")) {
            return None;
        }
        self.record().ok()?.read()?.error?;
        self.change(|waiting| waiting.error.take()).ok()??
    }

    /// Takes the lock for the calls; `None`: another process has it.
    pub fn try_lock(&self) -> Result<Option<CallsLock>, StateError> {
        Ok(try_lock(&self.0.shared()?.join("events-calls.lock"))?.map(CallsLock))
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::pool::PoolEventKind;

    #[test]
    fn events_are_taken_once_and_in_order_and_a_full_record_takes_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = Outbox::of(&StateDirectory::new(directory.path().join("offload")));
        assert_eq!(outbox.take_error(), None);
        assert!(!directory.path().join("offload").exists());
        let times =
            |outbox: &Outbox| std::iter::from_fn(|| outbox.take().unwrap()).map(|event| event.time).collect::<Vec<_>>();
        (0..3).for_each(|time| outbox.push(&PoolEvent::new(PoolEventKind::BuildFailed, time)).unwrap());
        assert_eq!((times(&outbox), times(&outbox)), (vec![0, 1, 2], vec![]));
        (0..=MAX_EVENTS as u64).for_each(|time| outbox.push(&PoolEvent::new(PoolEventKind::MachineUp, time)).unwrap());
        assert_eq!(times(&outbox).last(), Some(&(MAX_EVENTS as u64 - 1)));
        // The first error stays until it is reported.
        ["one", "two"].iter().for_each(|error| outbox.failed(error).unwrap());
        assert_eq!((outbox.take_error().as_deref(), outbox.take_error()), (Some("one"), None));
        // Long texts: the record stays readable.
        let long = PoolEvent { reason: Some("x".repeat(10_000)), ..PoolEvent::new(PoolEventKind::BuildFailed, 7) };
        (0..=MAX_EVENTS).for_each(|_| outbox.push(&long).unwrap());
        outbox.failed(&"y".repeat(100_000)).unwrap();
        let kept = times(&outbox);
        assert!(kept.len() > 50 && kept.iter().all(|time| *time == 7), "{kept:?}");
        assert_eq!(outbox.take_error().map(|error| error.len()), Some(MAX_TEXT));
        let lock = outbox.try_lock().unwrap();
        assert!(lock.is_some() && outbox.try_lock().unwrap().is_none());
    }
}
