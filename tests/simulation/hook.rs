//! A simulated hook process, and what became of its request.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use offload::internals::build::{AttemptError, AttemptSteps, BuildReport, FailOver, attempt};
use offload::internals::error::Failure;
use offload::internals::events::{Event, Observer};
use offload::internals::hook::{HookArguments, Request};
use offload::internals::machine::Machine;
use offload::internals::scheduler::decision::FULL_QUEUE_HOLD;
use offload::internals::scheduler::{self, Choice, Decision, DefaultRules, Environment, Query};
use offload::internals::state::health::{Availability, Health};
use offload::internals::status::MachineStatus;
use offload::internals::store::path::StorePath;

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
    /// Never accepted, at any request.
    Postponed,
}

/// The record of a request.
#[derive(Clone, Debug)]
pub struct Note {
    pub user: u64,
    pub end: End,
    /// The longest time that the daemon was kept waiting for a reply.
    pub longest_reply: Duration,
    /// From the first question to the end.
    pub time: Duration,
    /// When it joined the queue, and when it got its slot.
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
    /// The daemon's limit for the build.
    pub build_timeout: Option<Duration>,
    pub notes: Arc<Mutex<Vec<Note>>>,
}

impl Hook {
    /// The life of the process, as the daemon has it.
    pub fn run(self) {
        let machines: Vec<&Machine> = self.machines.iter().collect();
        let rules = DefaultRules(&machines);
        let question = Query { request: &self.request, machines: &machines, rules: &rules, excluded: &[], head: None };
        let start = self.world.elapsed();
        let (longest_reply, time) = (Duration::ZERO, Duration::ZERO);
        let mut note = Note { user: self.world.user, end: End::Postponed, longest_reply, time, waited: None, tried: 0 };
        for _ in 0..200 {
            let asked = self.world.elapsed();
            let decision = scheduler::decide(&question, self.may_build_locally, FULL_QUEUE_HOLD, &self.world);
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
        question: &Query<'_>,
        first: Option<Choice<World>>,
        place: Option<<World as Environment>::QueueTicket>,
        note: &mut Note,
    ) -> End {
        let arguments =
            HookArguments { build_timeout: self.build_timeout, ..HookArguments::without_limits(&self.request.system) };
        let failover = FailOver {
            request: question.request,
            arguments: &arguments,
            machines: question.machines,
            rules: question.rules,
            max_attempts: 3,
            wait_for_slot: Some(WAIT_FOR_SLOT),
            wait_for_machine: WAIT_FOR_SLOT,
        };
        let mut came = place.is_some().then(|| self.world.elapsed());
        let waited = &mut note.waited;
        let mut attempt = |choice: Choice<World>, _: &mut dyn Observer| {
            if let Some(came) = came {
                *waited = Some((came, self.world.elapsed()));
            }
            let result = self.attempt(question.machines[choice.machine], choice);
            came = Some(self.world.elapsed());
            result
        };
        let tried = &mut note.tried;
        let mut observer = |event: &Event<'_>| *tried += usize::from(matches!(event, Event::Abandoned { .. }));
        match failover.run(first, place, &self.world, &mut attempt, &mut observer) {
            Ok(()) => End::Built,
            Err(_) => End::Failed,
        }
    }

    fn attempt(&self, machine: &Machine, choice: Choice<World>) -> Result<(), Failure> {
        attempt(&mut Attempt { hook: self, machine }, choice.slot, choice.link)
    }
}

/// An attempt on a simulated machine: only connecting and building have effects.
struct Attempt<'a> {
    hook: &'a Hook,
    machine: &'a Machine,
}

impl AttemptSteps for Attempt<'_> {
    type Link = u16;
    type Connection = ();
    type Outputs = ();

    fn derivation(&self) -> &StorePath {
        &self.hook.request.derivation
    }

    fn machine(&self) -> &Machine {
        self.machine
    }

    fn back_off(&mut self) -> Option<String> {
        match self.hook.world.health(self.machine).availability(self.hook.world.now()) {
            Availability::BackingOff { error, .. } => Some(error),
            _ => None,
        }
    }

    fn open(&mut self) -> Result<u16, String> {
        self.connect()
    }

    fn has_options(&self, _: &u16) -> bool {
        false
    }

    fn connect(&mut self) -> Result<u16, String> {
        self.hook.world.connect(self.machine)
    }

    fn send_options(&mut self, _: &mut u16) -> Result<(), AttemptError> {
        Ok(())
    }

    fn keep(&mut self, _: &u16) {}

    /// All machines sign with authorized keys.
    fn check_signing_key(&mut self, _: &mut u16) -> Result<(), AttemptError> {
        Ok(())
    }

    fn upload(&mut self, _: &mut u16) -> Result<(), AttemptError> {
        Ok(())
    }

    fn build(&mut self, _: &mut u16) -> Result<Option<BuildReport>, AttemptError> {
        let world = &self.hook.world;
        world.pause(self.hook.build_time);
        let conduct = lock(&world.hosts.hosts[usize::from(self.machine.port)]).conduct(world.elapsed());
        match conduct {
            Conduct::Answers(_) => Ok(None),
            _ => Err(AttemptError::Machine("lost".to_owned())),
        }
    }

    fn count_missing_inputs(&mut self, _: &mut u16) -> Result<usize, AttemptError> {
        Ok(0)
    }

    fn probe(&mut self, _: &u16) -> Option<MachineStatus> {
        None
    }

    fn download(&mut self, _: &mut u16) -> Result<(), AttemptError> {
        Ok(())
    }

    fn is_reused(&self, _: &u16) -> bool {
        false
    }

    fn retire(&mut self, _: &u16) {}

    fn release(&mut self, _: u16) {}

    fn record_success(&mut self, _: MachineStatus) {}

    fn record_failure(&mut self, cause: &str) {
        let world = &self.hook.world;
        let now = world.now();
        world.change_health(self.machine, &mut |health: Health| health.after_failure(cause, now));
    }

    fn record_outputs(&mut self) {}

    fn refresh_status(&mut self, _: &()) {}

    fn place(&mut self, _: ()) -> Result<(), String> {
        Ok(())
    }
}
