//! Starting a machine.

use std::thread;
use std::time::{Duration, Instant};

use log::{debug, info};

use super::report::report;
use super::{Head, PowerError, action, stop};
use crate::build::{check_store, record_success};
use crate::cancel;
use crate::events::pool::PoolEventKind;
use crate::machine::{Machine, OnDemand};
use crate::machine_file::ActionFunction;
use crate::remote::Connection;
use crate::ssh::{Cause, Phase as SshPhase};
use crate::state::{Phase, PowerRecord, as_started, health};
use crate::status::MachineStatus;

/// How often a machine that boots is contacted.
const CONTACT_INTERVAL: Duration = Duration::from_millis(500);

/// How long a machine that should run may be silent before it is stopped and started again.
const DEAD_AFTER: Duration = Duration::from_secs(30);

/// Starts the machine with this index, and waits until its daemon has responded. Returns how long that took; `None` if
/// the machine was running. It fails at once if another process starts or stops the machine.
pub fn start(head: Head<'_>, index: usize) -> Result<Option<Duration>, PowerError> {
    let (machine, on_demand) = head.machine(index)?;
    let record = PowerRecord::of(head.state, machine)?;
    let _lock = record.try_lock()?.ok_or(PowerError::Changing)?;
    match record.read().phase {
        Phase::Off => {}
        Phase::Running => match contact_repeatedly(head, machine) {
            Ok(status) => {
                record_success(head.state, machine, status);
                return Ok(None);
            }
            Err(ContactError::OfHead(error)) => return Err(PowerError::Start(error)),
            Err(ContactError::NotReady(_) | ContactError::Final(_)) => stop_first(head, index, &record)?,
        },
        // The process that started or stopped it was killed, or `stop` has failed.
        Phase::Starting | Phase::Stopping => stop_first(head, index, &record)?,
    }
    let began = Instant::now();
    record.reserve(head.state, |now| head.check_limits(now))??;
    info!("{}: starting", machine.address());
    match boot(head, machine, on_demand, &record, began) {
        Ok(status) => {
            record.change(|power| power.running(health::now()))?;
            record_success(head.state, machine, status);
            let took = began.elapsed();
            report(head, machine, PoolEventKind::MachineStarted, None, Some(took.as_secs_f64()));
            Ok(Some(took))
        }
        Err(error) => {
            report(head, machine, PoolEventKind::StartFailed, Some(&error), None);
            let stopped = stop::clear(head, index, &record);
            record.change(|power| power.failed(health::now(), error.clone()))?;
            Err(PowerError::Start(match stopped {
                Ok(()) => error,
                Err(stop) => format!("{error}; and it could not be stopped: {stop}"),
            }))
        }
    }
}

/// Stops a machine before it is started. If that fails, the next start comes after a back-off.
fn stop_first(head: Head<'_>, index: usize, record: &PowerRecord) -> Result<(), PowerError> {
    let stopped = stop::clear(head, index, record);
    if let Err(PowerError::Stop(error)) = &stopped {
        record.change(|power| power.failed(health::now(), format!("not stopped: {error}")))?;
    }
    stopped
}

/// Contacts a machine that should run, until it responds or [`DEAD_AFTER`] has passed: a short failure of the network is
/// no reason to stop it.
fn contact_repeatedly(head: Head<'_>, machine: &Machine) -> Result<MachineStatus, ContactError> {
    let began = Instant::now();
    loop {
        match contact(head, machine) {
            Err(ContactError::NotReady(_)) if began.elapsed() < DEAD_AFTER && !cancel::is_cancelled() => {
                thread::sleep(CONTACT_INTERVAL);
            }
            result => return result,
        }
    }
}

/// Runs `start`, and waits until the machine's daemon responds.
fn boot(
    head: Head<'_>,
    machine: &Machine,
    on_demand: &OnDemand,
    record: &PowerRecord,
    began: Instant,
) -> Result<MachineStatus, String> {
    let started_as = action::run(head, machine, &on_demand.start, ActionFunction::Start, on_demand.boot_timeout)?;
    record.change(|power| power.started_as = started_as).map_err(|error| error.to_string())?;
    loop {
        let error = match contact(head, machine) {
            Ok(status) => return Ok(status),
            Err(ContactError::Final(error)) => return Err(error),
            Err(ContactError::NotReady(error) | ContactError::OfHead(error)) => error,
        };
        debug!("{}: not ready: {error}", machine.address());
        if cancel::is_cancelled() {
            return Err("the start was cancelled".to_owned());
        }
        if began.elapsed() + CONTACT_INTERVAL >= on_demand.boot_timeout {
            let seconds = on_demand.boot_timeout.as_secs_f64();
            return Err(format!("it did not respond within {seconds} s (boot_timeout): {error}"));
        }
        thread::sleep(CONTACT_INTERVAL);
    }
}

/// Why a machine that boots cannot be used.
enum ContactError {
    /// It may become ready.
    NotReady(String),
    /// It is another machine than the one that was meant.
    Final(String),
    /// This head cannot log in anywhere: the private key cannot be used.
    OfHead(String),
}

/// Contacts the machine's daemon, and returns the status of the machine. Failures are not recorded.
fn contact(head: Head<'_>, machine: &Machine) -> Result<MachineStatus, ContactError> {
    let not_ready = |error: crate::remote::Error| {
        let is_other_key = matches!(&error, crate::remote::Error::Ssh(error)
            if matches!(error.cause, Cause::HostKeyDiffers { .. } | Cause::NoCommonHostKeyType { .. }));
        let is_own = matches!(&error, crate::remote::Error::Ssh(error) if error.phase == SshPhase::PrivateKey);
        match (is_other_key, is_own) {
            (true, _) => ContactError::Final(error.to_string()),
            (false, true) => ContactError::OfHead(error.to_string()),
            (false, false) => ContactError::NotReady(error.to_string()),
        }
    };
    let machine = &*as_started(head.state, machine);
    if machine.host_keys.is_empty() {
        let error = "its host key is unknown: give `host_key` in its entry, or return it from `start`";
        return Err(ContactError::Final(error.to_owned()));
    }
    let connection = Connection::open(machine).map_err(not_ready)?;
    let stream = connection.daemon().map_err(not_ready)?;
    let greeted = stream.greet(head.store.clone());
    let mut client = greeted.map_err(|error| ContactError::NotReady(format!("greeting its daemon: {error}")))?;
    check_store(head.state, machine, head.store, &mut client).map_err(ContactError::Final)?;
    connection.probe(head.store.as_str()).map_err(not_ready)
}
