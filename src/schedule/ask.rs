//! Asking machines how they are, by one process at a time.
//!
//! Whoever has the right to ask a host looks at its record once more: another process may just have learned how it is.
//! So a host costs one contact for each time its record is out of date, and one for each back-off, however many hooks
//! there are.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::surroundings::Surroundings;
use crate::crash::{Point, point};
use crate::machine::Machine;
use crate::state::Health;
use crate::state::health::Standing;
use crate::status::Status;

/// How often a process looks whether another one has its answer.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What came of asking a machine.
#[derive(Debug)]
pub enum Answer<L> {
    /// It answered, over this connection.
    Reached(L, Status),
    /// It answered another process, a moment ago.
    Known(Status),
    /// It did not answer, for this reason.
    Failed(String),
}

/// Asks one machine. Another process that asks it is waited for until it has done so for `limit`, or nobody wants the
/// answer any more; the asking itself is always brought to its end.
fn ask<W: Surroundings>(machine: &Machine, limit: Duration, is_wanted: &AtomicBool, world: &W) -> Answer<W::Link> {
    let until = world.elapsed() + limit;
    let _asking = loop {
        match world.try_ask(machine) {
            Ok(Some(asking)) => break asking,
            Ok(None) => {}
            Err(error) => return Answer::Failed(error),
        }
        let asked = match world.health(machine).standing(world.now()) {
            Standing::Asked { since } => Duration::from_millis(world.now().saturating_sub(since)),
            _ => Duration::ZERO,
        };
        if asked >= limit || world.elapsed() >= until || !is_wanted.load(Ordering::Relaxed) {
            return Answer::Failed(no_answer(asked));
        }
        world.pause(LOOK_AGAIN);
    };
    let (health, now) = (world.health(machine), world.now());
    match health.standing(now) {
        Standing::Fresh => return Answer::Known(health.status.unwrap_or_default()),
        Standing::Down { error, .. } => return Answer::Failed(error),
        Standing::Asked { since } => {
            return Answer::Failed(no_answer(Duration::from_millis(now.saturating_sub(since))));
        }
        Standing::Unknown { .. } => {}
    }
    world.change_health(machine, &mut |health| health.asking(now));
    point(Point::Asking);
    let reached = world.connect(machine).and_then(|link| {
        let status = world.status(&link)?;
        Ok((link, status))
    });
    match reached {
        Ok((link, status)) => {
            let now = world.now();
            world.change_health(machine, &mut |_| Health::reached(status.clone(), now));
            point(Point::Answered);
            Answer::Reached(link, status)
        }
        Err(error) => {
            failed(machine, &error, world);
            Answer::Failed(error)
        }
    }
}

/// Connects to a machine that was chosen on its record alone. If it has got into trouble since, that is the answer.
pub fn connect<W: Surroundings>(machine: &Machine, world: &W) -> Result<W::Link, String> {
    if let Standing::Down { error, .. } = world.health(machine).standing(world.now()) {
        return Err(error);
    }
    world.connect(machine).inspect_err(|error| failed(machine, error, world))
}

fn failed<W: Surroundings>(machine: &Machine, error: &str, world: &W) {
    let now = world.now();
    world.change_health(machine, &mut |health| health.after_failure(error, now));
}

fn no_answer(asked: Duration) -> String {
    format!("it has not answered yet; it was asked {:.1} s ago", asked.as_secs_f64())
}

type Answers<L> = Arc<Mutex<Vec<(usize, Answer<L>)>>>;

/// Several machines that are asked at the same time. When this is dropped, what is still asked goes on to its end, so
/// that it is remembered and no connection is broken off while it logs in.
pub(super) struct Inquiry<'a, W: Surroundings> {
    world: &'a W,
    limit: Duration,
    is_wanted: Arc<AtomicBool>,
    answers: Answers<W::Link>,
}

impl<'a, W: Surroundings> Inquiry<'a, W> {
    pub(super) fn new(world: &'a W, limit: Duration) -> Self {
        Inquiry { world, limit, is_wanted: Arc::new(AtomicBool::new(true)), answers: Answers::default() }
    }

    /// Starts to ask the machine at this place in the list.
    pub(super) fn ask(&self, place: usize, machine: &Machine) {
        let (world, machine, limit) = (self.world.clone(), machine.clone(), self.limit);
        let (is_wanted, answers) = (Arc::clone(&self.is_wanted), Arc::clone(&self.answers));
        self.world.spawn(Box::new(move || {
            let answer = ask(&machine, limit, &is_wanted, &world);
            answers.lock().unwrap_or_else(PoisonError::into_inner).push((place, answer));
        }));
    }

    /// The answers that have come since the last time.
    pub(super) fn answers(&self) -> Vec<(usize, Answer<W::Link>)> {
        std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<W: Surroundings> Drop for Inquiry<'_, W> {
    fn drop(&mut self) {
        self.is_wanted.store(false, Ordering::Relaxed);
    }
}
