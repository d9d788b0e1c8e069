//! Fail-over: an accepted build tries machine after machine until one of them has built it.
//!
//! Between attempts it waits for a machine that it has not tried, or, if there is none for a while, for one that it has
//! tried. All effects go through [`Environment`] and the attempt function, so that simulations run this very code.

use std::time::Duration;

use crate::error::Failure;
use crate::events::{Event, Observer};
use crate::hook::{HookArguments, Request};
use crate::machine::Machine;
use crate::remote::timeouts::report_interval;
use crate::scheduler::{
    Choice, Environment, Query, Rejection, Rules, WaitError, WaitReason, by_reason, wait, wait_for_slot,
};

/// How long a build waits for another machine after one has failed, before it tries the failed one again.
const OTHER_MACHINE_WAIT: Duration = Duration::from_secs(30);

/// A build stops waiting this long before the daemon's time limit.
const MARGIN_BEFORE_BUILD_TIMEOUT: Duration = Duration::from_secs(1);

/// The machines and limits of a build.
pub struct FailOver<'a> {
    pub request: &'a Request,
    /// The daemon's limits for the build.
    pub arguments: &'a HookArguments,
    pub machines: &'a [&'a Machine],
    pub rules: &'a dyn Rules,
    /// The limit of attempts, on one machine or several.
    pub max_attempts: usize,
    /// How long the build may wait for a slot, each time it needs one. `None`: as long as the daemon's limits allow.
    pub wait_for_slot: Option<Duration>,
    /// How long the build may wait while no machine that matches can be reached.
    pub wait_for_machine: Duration,
}

/// Builds on the chosen machine. After [`Failure::Machine`] and [`Failure::Refused`] the build retries on another one.
pub type AttemptFn<'a, E> = dyn FnMut(Choice<E>, &mut dyn Observer) -> Result<(), Failure> + 'a;

/// A failed attempt on a machine.
struct FailedAttempt {
    /// The index of the machine in the list.
    machine: usize,
    cause: String,
    /// Whether the machine would fail this build again.
    is_final: bool,
}

impl FailOver<'_> {
    /// Makes one attempt after the other. `first` is the machine chosen before the request was accepted; without one
    /// the build waits in the queue with `ticket`.
    pub fn run<E: Environment>(
        &self,
        first: Option<Choice<E>>,
        mut ticket: Option<E::QueueTicket>,
        env: &E,
        attempt: &mut AttemptFn<'_, E>,
        observer: &mut dyn Observer,
    ) -> Result<(), Failure> {
        let daemons =
            self.arguments.build_timeout.map(|limit| env.elapsed() + limit.saturating_sub(MARGIN_BEFORE_BUILD_TIMEOUT));
        let mut tried: Vec<FailedAttempt> = Vec::new();
        let mut next = first;
        while tried.len() < self.max_attempts {
            let choice = match next.take() {
                Some(choice) => choice,
                None => self.wait(&tried, &mut ticket, daemons, env, observer)?,
            };
            let machine = choice.machine;
            if let Some(ticket) = ticket.take() {
                env.take_turn(ticket, self.machines[machine]);
            }
            let (cause, is_final) = match attempt(choice, observer) {
                Err(Failure::Machine { cause, .. }) => (cause, false),
                Err(Failure::Refused { cause, .. }) => (cause, true),
                result => return result,
            };
            let (derivation, name) = (&self.request.derivation, &self.machines[machine].name);
            observer.observe(&Event::Abandoned { derivation, machine: name, cause: &cause });
            self.rules.record_attempt(machine);
            tried.push(FailedAttempt { machine, cause, is_final });
        }
        Err(self.no_machine_left(&tried, "all attempts that 'max_attempts' allows have failed".to_owned(), None))
    }

    /// Waits until a machine takes the build. Machines that failed are skipped for their back-off first, and may have
    /// recovered by then. `daemons` is the time at which the daemon's time limit for the build is about to end.
    fn wait<E: Environment>(
        &self,
        tried: &[FailedAttempt],
        ticket: &mut Option<E::QueueTicket>,
        daemons: Option<Duration>,
        env: &E,
        observer: &mut dyn Observer,
    ) -> Result<Choice<E>, Failure> {
        let excluded = |is_final: bool| -> Vec<usize> {
            tried.iter().filter(|tried| tried.is_final || !is_final).map(|tried| tried.machine).collect()
        };
        let until = |limit: Option<Duration>| {
            let own = limit.map(|limit| env.elapsed() + limit);
            [own, daemons].into_iter().flatten().min()
        };
        let other_machine_wait = self.wait_for_slot.map_or(OTHER_MACHINE_WAIT, |limit| limit.min(OTHER_MACHINE_WAIT));
        let limit = if tried.is_empty() { self.wait_for_slot } else { Some(other_machine_wait) };
        let mut result = self.wait_without(&excluded(false), until(limit), ticket, env, observer);
        if result.is_err() && !tried.is_empty() {
            result = self.wait_without(&excluded(true), until(self.wait_for_slot), ticket, env, observer);
        }
        result.map_err(|result| match result {
            WaitError::NoMatch => self.no_machine_left(tried, "no other machine matches".to_owned(), None),
            WaitError::TooLong(reasons) => self.nothing_free(tried, &reasons),
            WaitError::Cancelled => Failure::Cancelled,
            WaitError::Unreachable(reasons) => self.nothing_reachable(tried, &reasons),
        })
    }

    fn wait_without<E: Environment>(
        &self,
        excluded: &[usize],
        until: Option<Duration>,
        ticket: &mut Option<E::QueueTicket>,
        env: &E,
        observer: &mut dyn Observer,
    ) -> Result<Choice<E>, WaitError> {
        let FailOver { request, machines, rules, .. } = *self;
        let query = Query { request, machines, rules, excluded, head: None };
        let report_interval = report_interval(self.arguments.max_silent_time);
        let derivation = &request.derivation;
        let mut report = |time: Duration, reason: WaitReason| {
            let seconds = time.as_secs();
            observer.observe(&match reason {
                WaitReason::Start(machine) => {
                    Event::WaitingForStart { derivation, machine: &machines[machine].name, seconds }
                }
                WaitReason::Busy => Event::Waiting { derivation, seconds, is_reachable: true },
                WaitReason::Unreachable => Event::Waiting { derivation, seconds, is_reachable: false },
            });
        };
        wait(
            &query,
            ticket,
            wait_for_slot::Limits { until, wait_for_machine: self.wait_for_machine, report_interval },
            env,
            &mut report,
        )
    }

    fn nothing_free(&self, tried: &[FailedAttempt], reasons: &[Rejection]) -> Failure {
        let is_busy = reasons.iter().any(|over| over.reason.is_busy());
        let reasons = self.reasons(reasons);
        let Some(limit) =
            self.wait_for_slot.filter(|limit| self.arguments.build_timeout.is_none_or(|own| own >= *limit))
        else {
            let last = format!("no machine became free before the daemon's time limit for the build ({reasons})");
            return self.no_machine_left(tried, last, None);
        };
        let seconds = limit.as_secs();
        let hint = format!(
            "raise `wait_for_slot` in the machine file (now {seconds} s), or remove it to wait as long as guix-daemon allows"
        );
        let last = format!("no machine became free within {seconds} s ({reasons})");
        self.no_machine_left(tried, last, is_busy.then_some(hint))
    }

    fn nothing_reachable(&self, tried: &[FailedAttempt], reasons: &[Rejection]) -> Failure {
        let seconds = self.wait_for_machine.as_secs();
        let last = format!("no machine could be reached for {seconds} s ({})", self.reasons(reasons));
        let hint =
            "`offload test` checks the machines; `wait_for_machine` in the machine file sets how long builds wait";
        self.no_machine_left(tried, last, Some(hint.to_owned()))
    }

    fn reasons(&self, reasons: &[Rejection]) -> String {
        by_reason(self.machines, reasons).join("; ")
    }

    fn no_machine_left(&self, tried: &[FailedAttempt], last: String, hint: Option<String>) -> Failure {
        let tried =
            tried.iter().map(|tried| (self.machines[tried.machine].name.clone(), tried.cause.clone())).collect();
        Failure::NoMachineLeft { derivation: self.request.derivation.to_string(), tried, last, hint }
    }
}
