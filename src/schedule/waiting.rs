//! Waiting for a slot, in the order in which builds came.
//!
//! A free slot of a machine belongs to those who have waited for that machine longest, as their places tell. A process
//! looks at the slots often if it is among the first, less often the more are ahead of it: then its turn has not come
//! anyway. Every second or so it looks at everything anew: loads, back-offs and what the rules say may have changed.

use std::time::Duration;

use super::choice::{Choice, Outcome, PassedOver, Reason};
use super::decision::{ANSWER_WITHIN, eligible};
use super::question::Question;
use super::search::choose;
use super::surroundings::Surroundings;
use crate::machine::Machine;

/// How often the first in line looks for a free slot. Three system calls for each slot.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const LOOK_AGAIN_AT_MOST: Duration = Duration::from_millis(200);

/// How often everything is looked at anew. Tickets are renewed then.
const LOOK_ANEW: Duration = Duration::from_secs(1);
const LOOK_ANEW_AT_MOST: Duration = Duration::from_secs(3);

/// Why waiting came to nothing.
#[derive(Debug)]
pub enum Waited {
    /// No machine is left that matches.
    NoMatch,
    /// The time is over.
    TooLong(Vec<PassedOver>),
}

/// Limits of waiting.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// When to give up, in terms of [`Surroundings::elapsed`].
    pub until: Duration,
    /// How often to say that it still waits.
    pub say_every: Duration,
}

/// Waits until a machine takes the build. `place` is taken if there is none yet, and kept. `say` is told at once, and
/// then regularly, how long this has taken.
pub fn wait<W: Surroundings>(
    question: &Question<'_>,
    place: &mut Option<W::Place>,
    limits: Limits,
    world: &W,
    say: &mut dyn FnMut(Duration),
) -> Result<Choice<W>, Waited> {
    let start = world.elapsed();
    let mut say_at = start;
    loop {
        question.rules.begin();
        let reasons = match choose(question, place.as_ref(), ANSWER_WITHIN.min(limits.say_every), world) {
            Outcome::Chosen(choice) => return Ok(choice),
            Outcome::NoMatch(_) => return Err(Waited::NoMatch),
            Outcome::Head(reasons) | Outcome::Busy(reasons) | Outcome::Unreachable(reasons) => reasons,
        };
        let machines = eligible(question.machines, &reasons);
        match place {
            Some(place) => world.renew_place(place, &machines),
            None => {
                *place = world.try_take_place(&machines, usize::MAX).unwrap_or_else(|error| {
                    log::warn!("waits without a place in line: {error}");
                    None
                });
            }
        }
        let (queue, mut line): (Vec<&Machine>, Vec<usize>) = (reasons.iter())
            .filter_map(|over| match over.reason {
                Reason::NoSlot { ahead } => Some((question.machines[over.machine], ahead)),
                _ => None,
            })
            .unzip();
        let ahead = line.iter().min().copied().unwrap_or(0);
        let anew = world.elapsed() + times(LOOK_ANEW, ahead / 4 + 1).min(LOOK_ANEW_AT_MOST);
        loop {
            let now = world.elapsed();
            if now >= say_at {
                say(now - start);
                say_at = now + limits.say_every;
            }
            if now >= limits.until {
                return Err(Waited::TooLong(reasons));
            }
            if now >= anew {
                break;
            }
            let ahead = line.iter().min().copied().unwrap_or(usize::MAX);
            let pause = times(LOOK_AGAIN, ahead.saturating_add(1)).min(LOOK_AGAIN_AT_MOST);
            world.pause(pause.min(limits.until - now).min(say_at - now));
            let free: Vec<usize> = queue.iter().map(|machine| world.free_slots(machine).unwrap_or(0)).collect();
            if free.iter().any(|&free| free > 0) {
                line = world.ahead(&queue, place.as_ref());
                if line.iter().zip(&free).any(|(ahead, free)| free > ahead) {
                    break;
                }
            }
        }
    }
}

fn times(time: Duration, count: usize) -> Duration {
    time.saturating_mul(count.min(1000) as u32)
}
