//! The events of the pool that come from a build: attempts that failed, and a build that failed.

use crate::events::pool::{PoolEvent, PoolEventKind};
use crate::events::{Event, Observer};
use crate::machine::label;
use crate::state::history::Row;
use crate::state::{StateDirectory, health};

/// Passes the events of a build on, and announces those of the pool.
pub(super) struct Announcer<'a> {
    pub observer: &'a mut dyn Observer,
    pub state: &'a StateDirectory,
    /// A row with the values that all rows of the build have in common.
    pub row: &'a Row,
    /// The machine of the attempt.
    machine: Option<String>,
    /// The number of the attempts that have failed.
    attempt: u32,
}

impl<'a> Announcer<'a> {
    /// Begins, before the first attempt.
    pub fn new(observer: &'a mut dyn Observer, state: &'a StateDirectory, row: &'a Row) -> Announcer<'a> {
        Announcer { observer, state, row, machine: None, attempt: 0 }
    }

    fn event(&self, kind: PoolEventKind, machine: Option<String>, reason: Option<&str>) -> PoolEvent {
        let row = self.row.clone();
        let event = PoolEvent::new(kind, health::now());
        let event = PoolEvent {
            machine,
            derivation: Some(row.derivation),
            name: Some(row.name),
            system: Some(row.system),
            user: row.user,
            ..event
        };
        match reason {
            Some(reason) => event.because(reason),
            None => event,
        }
    }

    /// Announces the end of the build, if it has failed. `last` is its last row.
    pub fn ended(&self, last: Option<&Row>) {
        let Some(last) = last.filter(|last| last.outcome.is_failure()) else { return };
        let event = self.event(PoolEventKind::BuildFailed, last.machine.clone(), last.reason.as_deref());
        self.state.announce(&PoolEvent { attempt: Some(last.attempt).filter(|attempt| *attempt > 0), ..event });
    }
}

impl Observer for Announcer<'_> {
    fn observe(&mut self, event: &Event<'_>) {
        match event {
            Event::Offloading { machine, port, .. } => self.machine = Some(label(machine, *port)),
            Event::Abandoned { machine, cause, .. } => {
                self.attempt = self.attempt.saturating_add(1);
                // An attempt that failed before its machine responded has no event with the port.
                let machine = self.machine.take().unwrap_or_else(|| (*machine).to_owned());
                let event = self.event(PoolEventKind::AttemptFailed, Some(machine), Some(cause));
                self.state.announce(&PoolEvent { attempt: Some(self.attempt), ..event });
            }
            _ => {}
        }
        self.observer.observe(event);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::events::pool::PoolListener;
    use crate::state::history::Outcome;
    use crate::store::path::{StoreDir, StorePath};

    #[test]
    fn each_failed_attempt_and_a_failed_end_are_events() {
        let directory = tempfile::tempdir().unwrap();
        let events = Arc::new(Mutex::new(Vec::new()));
        let known = Arc::clone(&events);
        let listener = PoolListener::new(move |event: &PoolEvent| known.lock().unwrap().push(event.clone()));
        let state = StateDirectory::new(directory.path()).with_listener(listener);
        let drv = "/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-x-1.drv";
        let derivation = &StorePath::parse(&StoreDir::default(), drv.as_bytes()).unwrap();
        let row = Row { user: Some("alice".to_owned()), ..Row::new(drv, "x86_64-linux", Outcome::Built, 1) };
        let mut seen = 0;
        let mut count = |_: &Event<'_>| seen += 1;
        let mut announcer = Announcer::new(&mut count, &state, &row);
        for machine in ["b1", "b2"] {
            let port = if machine == "b1" { 2022 } else { 22 };
            announcer.observe(&Event::Offloading { derivation, machine, port, slot: 0 });
            announcer.observe(&Event::Abandoned { derivation, machine, cause: "lost" });
        }
        announcer.ended(Some(&row));
        let last = Row { outcome: Outcome::NoMachine, reason: Some("all failed".to_owned()), ..row.clone() };
        announcer.ended(Some(&last));
        assert_eq!(seen, 4);
        let events = events.lock().unwrap();
        let parts: Vec<_> = events
            .iter()
            .map(|event| (event.kind.word(), event.machine.as_deref(), event.attempt, event.reason.as_deref()))
            .collect();
        assert_eq!(
            parts,
            [
                ("attempt_failed", Some("b1:2022"), Some(1), Some("lost")),
                ("attempt_failed", Some("b2"), Some(2), Some("lost")),
                ("build_failed", None, None, Some("all failed")),
            ]
        );
        let last = &events[2];
        let texts = [&last.derivation, &last.name, &last.system, &last.user].map(|text| text.as_deref().unwrap());
        assert_eq!(texts, [drv, "x-1", "x86_64-linux", "alice"]);
    }
}
