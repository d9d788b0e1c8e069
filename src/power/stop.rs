//! Stopping a machine.

use std::thread;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::{Head, PowerError, action};
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
            record.change(|power| power.off(health::now()))?;
            Ok(())
        }
        Err(error) => {
            // It may run. So it stays in this phase: it gets no builds, and the next reaper or start tries again.
            record.change(|power| power.error = Some(format!("not stopped: {error}")))?;
            Err(PowerError::Stop(error))
        }
    }
}

/// Waits until the machine's SSH server does not respond.
fn wait_until_off(head: Head<'_>, machine: &Machine, began: Instant, timeout: Duration) -> Result<(), String> {
    let machine = as_started(head.state, machine);
    let mut silent = 0;
    loop {
        let is_silent = Connection::open(&machine).is_err_and(|error| !is_response(&error, &machine));
        silent = if is_silent { silent + 1 } else { 0 };
        if silent == SILENT_CONTACTS {
            return Ok(());
        }
        if began.elapsed() + CONTACT_INTERVAL >= timeout {
            return Err(format!("it still responds {} s after `stop` (stop_timeout)", timeout.as_secs_f64()));
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
