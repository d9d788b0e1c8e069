//! Probes of machines, by one process at a time.
//!
//! A process that gets the probe lock of a host reads the host's record again: another process may just have updated
//! it. So however many hooks there are, a host is contacted once each time its record expires, and once for each
//! back-off.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::environment::Environment;
use crate::failpoints::{Failpoint, failpoint};
use crate::machine::Machine;
use crate::state::Health;
use crate::state::health::Availability;
use crate::status::MachineStatus;

/// How often a process checks whether another one has finished the same probe.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The result of a probe.
#[derive(Debug)]
pub enum ProbeResult<L> {
    /// It responded, over this connection.
    Reached(L, MachineStatus),
    /// It responded to another process a moment ago.
    FromRecord(MachineStatus),
    /// It responded over this connection; its record was fresh.
    Responded(L),
    /// It did not respond, for this reason.
    Failed(String),
}

/// Probes one machine. If another process probes it, this waits until that probe has taken `limit`, or the result is
/// not wanted any more. A probe that has started always runs to its end.
fn probe<E: Environment>(machine: &Machine, limit: Duration, is_wanted: &AtomicBool, env: &E) -> ProbeResult<E::Link> {
    let until = env.elapsed() + limit;
    let _lock = loop {
        match env.try_probe_lock(machine) {
            Ok(Some(probe_lock)) => break probe_lock,
            Ok(None) => {}
            Err(error) => return ProbeResult::Failed(error),
        }
        let running = match env.health(machine).availability(env.now()) {
            Availability::Probing { since } => Duration::from_millis(env.now().saturating_sub(since)),
            _ => Duration::ZERO,
        };
        if running >= limit || env.elapsed() >= until || !is_wanted.load(Ordering::Relaxed) || env.is_cancelled() {
            return ProbeResult::Failed(probe_timeout(running));
        }
        env.pause(POLL_INTERVAL);
    };
    let (health, now) = (env.health(machine), env.now());
    match health.availability(now) {
        Availability::Fresh => return ProbeResult::FromRecord(health.status.unwrap_or_default()),
        Availability::BackingOff { error, .. } => return ProbeResult::Failed(error),
        Availability::Probing { since } => {
            return ProbeResult::Failed(probe_timeout(Duration::from_millis(now.saturating_sub(since))));
        }
        Availability::Unknown { .. } => {}
    }
    env.change_health(machine, &mut |health| health.probe_started(now));
    failpoint(Failpoint::Asking);
    let reached = env.connect(machine).and_then(|link| {
        let status = env.status(&link)?;
        Ok((link, status.0, status.1))
    });
    match reached {
        Ok((link, status, age)) => {
            let measured = env.now().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
            env.change_health(machine, &mut |_| Health::reached(status.clone(), measured));
            failpoint(Failpoint::Answered);
            ProbeResult::Reached(link, status)
        }
        // The machine has not failed. The record is restored.
        Err(error) if env.is_cancelled() => {
            env.change_health(machine, &mut |_| health.clone());
            ProbeResult::Failed(error)
        }
        Err(error) => {
            failed(machine, &error, env);
            ProbeResult::Failed(error)
        }
    }
}

/// Contacts a machine whose record is fresh ([`contact`](super::contact)), and records a failure; a cancelled contact is
/// none.
fn contact<E: Environment>(machine: &Machine, env: &E) -> ProbeResult<E::Link> {
    // Once the contact is slow, other processes wait for its result as for that of a probe.
    let _lock = env.try_probe_lock(machine).ok().flatten();
    match env.connect(machine) {
        Ok(link) => {
            if env.health(machine).probing_since.is_some() {
                env.change_health(machine, &mut |health| health.contact_ended());
            }
            ProbeResult::Responded(link)
        }
        // The machine has not failed, and no contact is pending any more.
        Err(error) if env.is_cancelled() => {
            env.change_health(machine, &mut |health| health.contact_ended());
            ProbeResult::Failed(error)
        }
        Err(error) => {
            failed(machine, &error, env);
            ProbeResult::Failed(error)
        }
    }
}

fn failed<E: Environment>(machine: &Machine, error: &str, env: &E) {
    let now = env.now();
    env.change_health(machine, &mut |health| health.after_failure(error, now));
}

fn probe_timeout(running: Duration) -> String {
    format!("it has not responded; the probe started {:.1} s ago", running.as_secs_f64())
}

type ProbeResults<L> = Arc<Mutex<Vec<(usize, ProbeResult<L>)>>>;

/// Several probes that run concurrently. Dropping this does not stop them: their results are recorded, and no
/// connection is broken during login.
pub(super) struct Probes<'a, E: Environment> {
    env: &'a E,
    limit: Duration,
    is_wanted: Arc<AtomicBool>,
    results: ProbeResults<E::Link>,
}

impl<'a, E: Environment> Probes<'a, E> {
    pub(super) fn new(env: &'a E, limit: Duration) -> Self {
        Probes { env, limit, is_wanted: Arc::new(AtomicBool::new(true)), results: ProbeResults::default() }
    }

    /// Starts a probe of the machine with this index.
    pub(super) fn start(&self, index: usize, machine: &Machine) {
        let (limit, is_wanted) = (self.limit, Arc::clone(&self.is_wanted));
        self.spawn(index, machine, move |machine, env| probe(machine, limit, &is_wanted, env));
    }

    /// Starts to contact the machine with this index, whose record is fresh.
    pub(super) fn contact(&self, index: usize, machine: &Machine) {
        self.spawn(index, machine, contact);
    }

    fn spawn(
        &self,
        index: usize,
        machine: &Machine,
        task: impl FnOnce(&Machine, &E) -> ProbeResult<E::Link> + Send + 'static,
    ) {
        let (env, machine, results) = (self.env.clone(), machine.clone(), Arc::clone(&self.results));
        self.env.spawn(Box::new(move || {
            let result = task(&machine, &env);
            results.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
        }));
    }

    /// Returns the results since the last call.
    pub(super) fn results(&self) -> Vec<(usize, ProbeResult<E::Link>)> {
        std::mem::take(&mut *self.results.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<E: Environment> Drop for Probes<'_, E> {
    fn drop(&mut self) {
        self.is_wanted.store(false, Ordering::Relaxed);
    }
}
