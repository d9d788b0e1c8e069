//! A slot for a build: one of this head, and, if heads share the pool, one of the pool.
//!
//! The slot of the head comes first: it costs no connection, and it limits this head when the database is down. If the
//! pool has no slot, it is given back.

use crate::machine::Machine;
use crate::shared::{SharedSlot, SharedSlots, Taken};
use crate::state::{Slot, SlotHolder, Slots, StateError};

/// A slot that is held; dropping it frees it.
pub struct HeldSlot {
    /// Freed first: a build of this head that waits for the other one finds it free.
    _shared: Option<SharedSlot>,
    local: Slot,
}

impl HeldSlot {
    /// Returns the number of the slot of this head, from 0.
    pub fn number(&self) -> u32 {
        self.local.number()
    }
}

/// Takes a slot of `machine` for `holder`, a build of `user`; `None` if there is none. It waits for no slot. With
/// `ignores_drains`, it takes one of a drained machine, too.
pub(super) fn try_take(
    slots: &Slots,
    shared: Option<&SharedSlots>,
    machine: &Machine,
    holder: &SlotHolder,
    user: Option<&str>,
    ignores_drains: bool,
) -> Result<Option<HeldSlot>, StateError> {
    let limit = shared.and_then(|shared| shared.limit(machine));
    if limit.is_some_and(|limit| slots.taken().is_ok_and(|taken| taken.len() >= limit as usize)) {
        return Ok(None);
    }
    let Some(local) = slots.try_take(holder)? else { return Ok(None) };
    let Some(shared) = shared else { return Ok(Some(HeldSlot { _shared: None, local })) };
    Ok(match shared.try_take(machine, &holder.derivation, user, ignores_drains) {
        Taken::Slot(slot) => Some(HeldSlot { _shared: Some(slot), local }),
        Taken::No => None,
        // This one is among the taken ones.
        Taken::Alone(limit, slot) => {
            (slots.taken()?.len() <= limit as usize).then_some(HeldSlot { _shared: slot, local })
        }
    })
}

/// Counts the slots that may be free, up to `enough`, without a connection.
pub(super) fn free(
    slots: &Slots,
    shared: Option<&SharedSlots>,
    machine: &Machine,
    enough: usize,
) -> Result<usize, StateError> {
    let Some(shared) = shared else { return slots.free(enough) };
    match shared.limit(machine) {
        Some(limit) => Ok((limit as usize).saturating_sub(slots.taken()?.len()).min(enough)),
        // Only the first build in the queue of this head tries: others would overtake it, each with a connection.
        None if shared.may_be_free(machine) => Ok(slots.free(enough)?.min(1)),
        None => Ok(0),
    }
}
