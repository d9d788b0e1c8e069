//! A simulated hook process, and what became of its request.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use offload::hook::Request;
use offload::machine::Machine;
use offload::schedule::waiting::Limits;
use offload::schedule::{self, BuiltIn, Choice, Decision, Question, Surroundings, Waited};
use offload::state::health::Health;

use crate::stage::lock;
use crate::world::{Conduct, World};

/// How long an accepted build waits for a slot.
const WAIT_FOR_SLOT: Duration = Duration::from_secs(600);

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Built,
    BuiltByHead,
    /// Accepted, and not built.
    Failed,
    /// Never accepted, as often as it was asked about.
    Postponed,
}

/// What is noted about each request.
#[derive(Clone, Debug)]
pub struct Note {
    pub end: End,
    /// The longest time that the daemon was kept waiting for a reply.
    pub longest_reply: Duration,
    /// From the first question to the end.
    pub time: Duration,
    /// When it got its place in line, and its slot.
    pub waited: Option<(Duration, Duration)>,
    /// How many machines let it down.
    pub tried: usize,
}

pub struct Hook {
    pub world: World,
    pub machines: Arc<Vec<Machine>>,
    pub request: Request,
    pub may_build_locally: bool,
    pub build_time: Duration,
    pub notes: Arc<Mutex<Vec<Note>>>,
}

impl Hook {
    /// The life of the process, as the daemon and `job` have it.
    pub fn run(self) {
        let machines: Vec<&Machine> = self.machines.iter().collect();
        let rules = BuiltIn(&machines);
        let question =
            Question { request: &self.request, machines: &machines, rules: &rules, excluded: &[], head: None };
        let start = self.world.elapsed();
        let (longest_reply, time) = (Duration::ZERO, Duration::ZERO);
        let mut note = Note { end: End::Postponed, longest_reply, time, waited: None, tried: 0 };
        for _ in 0..200 {
            let asked = self.world.elapsed();
            let decision = schedule::decide(&question, self.may_build_locally, &self.world);
            note.longest_reply = note.longest_reply.max(self.world.elapsed() - asked);
            note.end = match decision {
                Decision::Accept(choice) => self.build(&question, Some(choice), None, &mut note),
                Decision::AcceptAndWait(place) => self.build(&question, None, Some(place), &mut note),
                Decision::Decline(_) => End::BuiltByHead,
                Decision::Postpone(_) => {
                    // The daemon's poll interval.
                    self.world.pause(Duration::from_secs(5));
                    continue;
                }
            };
            break;
        }
        note.time = self.world.elapsed() - start;
        lock(&self.notes).push(note);
    }

    fn build(
        &self,
        question: &Question<'_>,
        mut next: Option<Choice<World>>,
        mut place: Option<<World as Surroundings>::Place>,
        note: &mut Note,
    ) -> End {
        let mut tried = Vec::new();
        while tried.len() < 3 {
            let choice = match next.take() {
                Some(choice) => choice,
                None => {
                    let start = self.world.elapsed();
                    let question = Question { excluded: &tried, ..*question };
                    let limits = Limits { until: start + WAIT_FOR_SLOT, say_every: Duration::from_secs(30) };
                    match schedule::wait(&question, &mut place, limits, &self.world, &mut |_| {}) {
                        Ok(choice) => {
                            note.waited = Some((start, self.world.elapsed()));
                            choice
                        }
                        Err(Waited::NoMatch | Waited::TooLong(_)) => return End::Failed,
                    }
                }
            };
            place = None;
            if self.attempt(question.machines[choice.machine], choice.link) {
                return End::Built;
            }
            tried.push(choice.machine);
            note.tried = tried.len();
        }
        End::Failed
    }

    fn attempt(&self, machine: &Machine, link: Option<u16>) -> bool {
        let Some(_link) = link.or_else(|| schedule::connect(machine, &self.world).ok()) else { return false };
        self.world.pause(self.build_time);
        let now = self.world.elapsed();
        let conduct = lock(&self.world.hosts.hosts[usize::from(machine.port)]).conduct(now);
        if matches!(conduct, Conduct::Answers(_)) {
            return true;
        }
        let now = self.world.now();
        self.world.change_health(machine, &mut |health: Health| health.after_failure("lost", now));
        false
    }
}
