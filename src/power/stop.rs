//! Stopping a machine.

use std::thread;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::report::report;
use super::{Head, PowerError, action};
use crate::events::pool::PoolEventKind;
use crate::machine::Machine;
use crate::machine_file::ActionFunction;
use crate::remote::{Connection, Error, owner};
use crate::ssh::{Cause, Phase};
#[cfg(feature = "cli")]
use crate::state::Power;
use crate::state::power::Phase as PowerPhase;
use crate::state::{PowerRecord, Slots, as_started, health};

/// How often a machine that shuts down is contacted.
const CONTACT_INTERVAL: Duration = Duration::from_millis(500);

/// How many contacts in a row must fail before the machine counts as off.
const SILENT_CONTACTS: u32 = 2;

/// The error in the record begins so after a `stop` that has failed.
const NOT_STOPPED: &str = "not stopped: ";

/// Stops the machine with this index, and waits until it does not respond any more. Returns false if it was off. It
/// fails at once if builds run on the machine, or another process starts or stops it.
#[cfg(feature = "cli")]
pub fn stop(head: Head<'_>, index: usize) -> Result<bool, PowerError> {
    stop_if(head, index, |power| power.phase != PowerPhase::Off)
}

/// Stops the machine if its record fulfils a condition. No other process starts or stops it in between.
#[cfg(feature = "cli")]
pub(super) fn stop_if(
    head: Head<'_>,
    index: usize,
    condition: impl FnOnce(&Power) -> bool,
) -> Result<bool, PowerError> {
    let (machine, _) = head.machine(index)?;
    let record = PowerRecord::of(head.state, machine)?;
    let _lock = record.try_lock()?.ok_or(PowerError::Changing)?;
    if !condition(&record.read()) {
        return Ok(false);
    }
    clear(head, index, &record)?;
    Ok(true)
}

/// Runs `stop`, whatever the phase. The caller holds the lock of the record.
pub(super) fn clear(head: Head<'_>, index: usize, record: &PowerRecord) -> Result<(), PowerError> {
    let (machine, on_demand) = head.machine(index)?;
    // With all slots, no build is on the machine, and none begins there.
    let slots = Slots::of(head.state, machine)?;
    let _slots = slots.try_take_all()?.map_err(PowerError::InUse)?;
    record.change(|power| power.enter(PowerPhase::Stopping, health::now()))?;
    info!("{}: stopping", machine.address());
    match owner::sessions(&head.state.persist_directory(), Some(machine)) {
        Ok(sessions) => sessions.iter().for_each(|session| {
            session.retire();
        }),
        Err(error) => warn!("{}: its open connections are not ended: {error}", machine.address()),
    }
    let began = Instant::now();
    let stopped = action::run(head, machine, &on_demand.stop, ActionFunction::Stop, on_demand.stop_timeout)
        .and_then(|_| wait_until_off(head, machine, began, on_demand.stop_timeout));
    match stopped {
        Ok(()) => {
            let (started, now) = (record.read().started, health::now());
            record.change(|power| power.off(now))?;
            // Without a record it is unknown when the machine was started.
            let on = (started > 0).then(|| now.saturating_sub(started) as f64 / 1000.0);
            report(head, machine, PoolEventKind::MachineStopped, None, on);
            Ok(())
        }
        Err(error) => {
            // It may run. So it stays in this phase: it gets no builds, and the next reaper or start tries again. Each
            // minute, perhaps: one event is enough.
            let is_known = record.read().error.is_some_and(|error| error.starts_with(NOT_STOPPED));
            record.change(|power| power.error = Some(format!("{NOT_STOPPED}{error}")))?;
            if !is_known {
                report(head, machine, PoolEventKind::StopFailed, Some(&error), None);
            }
            Err(PowerError::Stop(error))
        }
    }
}

/// Waits until the machine's SSH server does not respond.
fn wait_until_off(head: Head<'_>, machine: &Machine, began: Instant, timeout: Duration) -> Result<(), String> {
    let machine = as_started(head.state, machine);
    let responds = || Connection::open(&machine).map_or_else(|error| is_response(&error, &machine), |_| true);
    match is_silent_in_time(responds, began, timeout) {
        true => Ok(()),
        false => Err(format!("it still responds {} s after `stop` (stop_timeout)", timeout.as_secs_f64())),
    }
}

/// Contacts a machine until it has been silent [`SILENT_CONTACTS`] times in a row. Returns false if it responds when
/// `timeout` has passed. A contact with a silent machine takes time, which does not count against the machine.
fn is_silent_in_time(mut responds: impl FnMut() -> bool, began: Instant, timeout: Duration) -> bool {
    let mut silent = 0;
    loop {
        silent = if responds() { 0 } else { silent + 1 };
        if silent == SILENT_CONTACTS {
            return true;
        }
        if silent == 0 && began.elapsed() + CONTACT_INTERVAL >= timeout {
            return false;
        }
        thread::sleep(CONTACT_INTERVAL);
    }
}

/// Returns whether a failed login shows that something listens on the machine. With a `proxy_command`, a handshake that
/// fails may be the end of the proxy.
fn is_response(error: &Error, machine: &Machine) -> bool {
    match error {
        Error::Ssh(error) => match error.phase {
            Phase::PrivateKey | Phase::Resolve | Phase::Connect => false,
            Phase::Handshake => machine.proxy_command.is_none(),
            // Another machine has got the address.
            Phase::HostKey if matches!(error.cause, Cause::HostKeyDiffers { .. }) => false,
            Phase::HostKey | Phase::Authenticate | Phase::OpenChannel | Phase::Transfer => true,
        },
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays responses, the last of them again and again.
    fn play(responses: &[bool], timeout: Duration) -> (bool, usize) {
        let mut count = 0;
        let responds = || {
            count += 1;
            responses[(count - 1).min(responses.len() - 1)]
        };
        let is_silent = is_silent_in_time(responds, Instant::now(), timeout);
        (is_silent, count)
    }

    #[test]
    fn a_machine_is_off_when_it_is_silent_twice_in_a_row() {
        let long = Duration::from_secs(60);
        assert_eq!(play(&[true, false, true, false], long), (true, 5));
        // The time has passed: one that responds is not off, and one that is silent gets its second contact.
        assert_eq!(play(&[true], Duration::ZERO), (false, 1));
        assert_eq!(play(&[false], Duration::ZERO), (true, 2));
        assert_eq!(play(&[false, true], Duration::ZERO), (false, 2));
    }
}
