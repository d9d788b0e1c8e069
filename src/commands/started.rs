//! How a command of root's contacts a machine that was started on demand.
//!
//! The record of the start belongs to the owner of the state, who may be the daemon's user. It has the name, the port
//! and the host key that `start` has returned. That user could write others there, and lead root to another machine. So
//! root takes the name and the port, but the host key only from the machine's entry.

use std::borrow::Cow;

use super::as_user;
use super::failure::CommandError;
use crate::engine::Engine;
use crate::machine::Machine;
use crate::state::as_started;

/// Returns the machine as it is contacted now, with a host key that this process can trust.
pub fn trusted<'a>(engine: &Engine, machine: &'a Machine) -> Result<Cow<'a, Machine>, CommandError> {
    let started = as_started(&engine.state, machine);
    if machine.on_demand.is_none() {
        return Ok(started);
    }
    let Some(owner) = as_user::for_state(engine.state.path())? else { return Ok(started) };
    with_own_keys(machine, started).ok_or_else(|| {
        let message = format!(
            "{}: its entry has no `host_key`, and root does not take one from the state of the user {}",
            machine.address(),
            owner.name
        );
        let hint =
            format!("run the command as that user (`runuser -u {} -- …`), or add `host_key` to the entry", owner.name);
        CommandError::failure(message).with_hint(Some(hint))
    })
}

/// Returns the machine with the host keys of its entry, if it has any.
fn with_own_keys<'a>(machine: &'a Machine, started: Cow<'a, Machine>) -> Option<Cow<'a, Machine>> {
    if machine.host_keys.is_empty() {
        return None;
    }
    Some(match started.host_keys == machine.host_keys {
        true => started,
        false => Cow::Owned(Machine { host_keys: machine.host_keys.clone(), ..started.into_owned() }),
    })
}
