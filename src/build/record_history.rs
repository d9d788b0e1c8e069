//! The rows of a build for the history, from an observer that passes its events on.
//!
//! When the machine's daemon starts the build, a thread moves the rows of earlier builds into the database: this process
//! only waits then.

use std::thread;
use std::time::Instant;

use log::debug;

use crate::error::{Failure, split_hint};
use crate::events::attempts::{AttemptSums, Attempts, Phase};
use crate::events::{Event, Observer};
use crate::machine;
use crate::state::health::{self, Time};
use crate::state::history::{History, Outcome, Row};

/// Records a build.
pub struct HistoryRecorder<'a> {
    observer: &'a mut dyn Observer,
    history: &'a History,
    attempts: Attempts,
    started: Time,
    collects: bool,
}

impl<'a> HistoryRecorder<'a> {
    /// Begins to record, and passes the events on to `observer`.
    pub fn new(observer: &'a mut dyn Observer, history: &'a History) -> HistoryRecorder<'a> {
        let (attempts, started) = (Attempts::new(Instant::now()), health::now());
        HistoryRecorder { observer, history, attempts, started, collects: false }
    }

    /// Returns a row for each attempt, and one for a last wait for a machine. `common` has what all of them share.
    pub fn rows(self, common: &Row, result: &Result<(), Failure>) -> Vec<Row> {
        rows(self.attempts.end(Instant::now()), self.started, common, result)
    }
}

impl Observer for HistoryRecorder<'_> {
    fn observe(&mut self, event: &Event<'_>) {
        self.attempts.record(event, Instant::now());
        if matches!(event, Event::Building { .. }) && !std::mem::replace(&mut self.collects, true) {
            collect_in_background(self.history);
        }
        self.observer.observe(event);
    }
}

/// Moves rows into the database, in a thread that nothing waits for.
pub fn collect_in_background(history: &History) {
    if !history.has_new_rows() {
        return;
    }
    let history = history.clone();
    let started = thread::Builder::new().name("history".to_owned()).spawn(move || history.collect());
    if let Err(error) = started {
        debug!("no thread for the history: {error}");
    }
}

fn rows(attempts: Vec<AttemptSums>, started: Time, common: &Row, result: &Result<(), Failure>) -> Vec<Row> {
    let last = attempts.len().saturating_sub(1);
    let mut start = started;
    let mut rows = Vec::with_capacity(attempts.len());
    for (number, attempt) in attempts.into_iter().enumerate() {
        let (outcome, reason) = match (&attempt.failure, number == last) {
            (Some(cause), _) => (Outcome::MachineFailed, Some(cause.as_str())),
            (None, true) => outcome(result),
            (None, false) => continue,
        };
        let millis = |phase| attempt.time(phase).as_millis() as u64;
        let whole: u64 = attempt.times.iter().sum::<std::time::Duration>().as_millis() as u64;
        let ended = start.saturating_add(whole);
        rows.push(Row {
            machine: attempt.machine.as_ref().map(|(name, port)| machine::label(name, *port)),
            slot: attempt.slot,
            attempt: if attempt.machine.is_some() { number as u32 + 1 } else { 0 },
            outcome,
            reason: reason.map(|reason| split_hint(reason).0),
            started: start,
            ended,
            waiting: millis(Phase::Waiting),
            sending: millis(Phase::Sending),
            building: millis(Phase::Building),
            retrieving: millis(Phase::Retrieving),
            placing: millis(Phase::Placing),
            reused_connection: attempt.is_reused,
            sent_items: attempt.sent.items,
            sent_bytes: attempt.sent.bytes,
            substituted_items: attempt.substituted.items,
            substituted_bytes: attempt.substituted.bytes,
            retrieved_items: attempt.retrieved.items,
            retrieved_bytes: attempt.retrieved.bytes,
            ..common.clone()
        });
        start = ended;
    }
    rows
}

/// Returns the outcome of the last attempt.
fn outcome(result: &Result<(), Failure>) -> (Outcome, Option<&str>) {
    match result {
        Ok(()) => (Outcome::Built, None),
        Err(Failure::Build { message, .. }) => (Outcome::BuildFailed, Some(message)),
        Err(Failure::TimedOut { message, .. }) => (Outcome::TimedOut, Some(message)),
        Err(Failure::Machine { cause, .. } | Failure::Refused { cause, .. }) => (Outcome::MachineFailed, Some(cause)),
        Err(Failure::Cancelled) => (Outcome::Cancelled, None),
        Err(Failure::Head(cause)) => (Outcome::HeadFailed, Some(cause)),
        Err(Failure::NoMachineLeft { last, .. }) => (Outcome::NoMachine, Some(last)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::events::attempts::Moved;

    fn attempt(machine: Option<(&str, u16)>, failure: Option<&str>, times: [u64; 5]) -> AttemptSums {
        AttemptSums {
            machine: machine.map(|(name, port)| (name.to_owned(), port)),
            slot: machine.map(|(_, port)| u32::from(port) + 1),
            failure: failure.map(str::to_owned),
            is_reused: machine.map(|(_, port)| port == 22),
            sent: Moved { items: 1, bytes: 2 },
            substituted: Moved { items: 3, bytes: 4 },
            retrieved: Moved { items: 5, bytes: 6 },
            times: times.map(Duration::from_millis),
        }
    }

    fn common() -> Row {
        let row = Row::new("/gnu/store/x-a.drv", "x86_64-linux", Outcome::Built, 1);
        Row { user: Some("alice".to_owned()), head: "head".to_owned(), ..row }
    }

    #[test]
    fn each_attempt_has_a_row_with_its_times_and_sums() {
        let attempts = vec![
            attempt(Some(("b1", 22)), Some("lost\n  hint: plug it in"), [10, 20, 0, 0, 0]),
            attempt(Some(("b2", 2222)), None, [1, 2, 3, 4, 5]),
        ];
        let rows = rows(attempts, 1000, &common(), &Ok(()));
        let sums = Row {
            sent_items: 1,
            sent_bytes: 2,
            substituted_items: 3,
            substituted_bytes: 4,
            retrieved_items: 5,
            retrieved_bytes: 6,
            ..common()
        };
        let first = Row {
            machine: Some("b1".to_owned()),
            slot: Some(23),
            attempt: 1,
            outcome: Outcome::MachineFailed,
            reason: Some("lost".to_owned()),
            started: 1000,
            ended: 1030,
            waiting: 10,
            sending: 20,
            reused_connection: Some(true),
            ..sums.clone()
        };
        let second = Row {
            machine: Some("b2:2222".to_owned()),
            slot: Some(2223),
            attempt: 2,
            started: 1030,
            ended: 1045,
            waiting: 1,
            sending: 2,
            building: 3,
            retrieving: 4,
            placing: 5,
            reused_connection: Some(false),
            ..sums
        };
        assert_eq!(rows, [first, second]);
    }

    #[test]
    fn the_last_row_has_the_outcome_of_the_build() {
        let text = || "why".to_owned();
        let (derivation, machine) = (text(), text());
        for (result, outcome, reason) in [
            (Ok(()), Outcome::Built, None),
            (
                Err(Failure::Build { derivation: text(), machine: text(), message: text(), kept: None }),
                Outcome::BuildFailed,
                Some("why"),
            ),
            (
                Err(Failure::TimedOut { derivation, machine, message: text(), kept: None }),
                Outcome::TimedOut,
                Some("why"),
            ),
            (Err(Failure::Cancelled), Outcome::Cancelled, None),
            (Err(Failure::Head(text())), Outcome::HeadFailed, Some("why")),
        ] {
            let attempts =
                vec![attempt(Some(("b1", 22)), Some("lost"), [0; 5]), attempt(Some(("b2", 22)), None, [0; 5])];
            let rows = rows(attempts, 0, &common(), &result);
            assert_eq!((rows[0].outcome, rows[1].outcome), (Outcome::MachineFailed, outcome));
            assert_eq!((rows.len(), rows[1].reason.as_deref()), (2, reason));
        }
        let last = "no machine became free".to_owned();
        let result =
            Err(Failure::NoMachineLeft { derivation: text(), tried: Vec::new(), last: last.clone(), hint: None });
        let rows = rows(vec![attempt(None, None, [7, 0, 0, 0, 0])], 0, &common(), &result);
        let row = &rows[0];
        assert_eq!((row.outcome, row.machine.as_ref(), row.attempt, row.waiting), (Outcome::NoMachine, None, 0, 7));
        assert_eq!((row.reason.as_ref(), row.user.as_deref()), (Some(&last), Some("alice")));
    }
}
