//! Contact with a machine that was chosen on its record alone: the sign of life before a request is accepted.
//!
//! A machine may have died since its record was made. So the hook takes a slot of the chosen machine and connects to
//! its daemon, over an open session if there is one. The build then uses this connection. If the machine has not
//! responded after [`SLOW_CONTACT_AFTER`], the next machine is contacted beside it, and the first one that responds
//! takes the build. Without another machine the selection gives up after [`CONTACT_WAIT`].
//!
//! The record of a slow machine says that a contact is pending ([`Health::contact_pending`]). Until it responds, other
//! processes neither choose it nor count it as busy.
//!
//! [`Health::contact_pending`]: crate::state::Health::contact_pending

use std::collections::BTreeMap;
use std::time::Duration;

use super::environment::Environment;
use crate::machine::Machine;

/// Time after which another machine is contacted beside one that has not responded.
pub const SLOW_CONTACT_AFTER: Duration = Duration::from_millis(500);

/// Time allowed for the contacts of one selection. A daemon waits for the reply to its request meanwhile.
pub const CONTACT_WAIT: Duration = Duration::from_secs(2);

/// The contacts of one selection, with the slots that they hold.
pub(super) struct Contacts<S> {
    pending: BTreeMap<usize, Pending<S>>,
    /// When the first one began.
    since: Option<Duration>,
}

struct Pending<S> {
    slot: S,
    since: Duration,
    is_recorded: bool,
}

impl<S> Contacts<S> {
    pub(super) fn new() -> Contacts<S> {
        Contacts { pending: BTreeMap::new(), since: None }
    }

    /// Adds the contact of the machine with this index, which begins now.
    pub(super) fn add(&mut self, index: usize, slot: S, now: Duration) {
        self.since.get_or_insert(now);
        self.pending.insert(index, Pending { slot, since: now, is_recorded: false });
    }

    /// Ends a contact, and returns its slot.
    pub(super) fn end(&mut self, index: usize) -> Option<S> {
        self.pending.remove(&index).map(|pending| pending.slot)
    }

    /// Returns whether the selection waits for the machine with this index. It waits longer if it has no other choice.
    pub(super) fn is_awaited(&self, index: usize, has_choice: bool, now: Duration) -> bool {
        let Some(pending) = self.pending.get(&index) else { return false };
        match has_choice {
            true => now < pending.since + SLOW_CONTACT_AFTER,
            false => now < self.since.unwrap_or(now) + CONTACT_WAIT,
        }
    }

    /// Records the contacts that have become slow.
    pub(super) fn record_slow<E: Environment>(&mut self, machines: &[&Machine], env: &E) {
        let now = env.elapsed();
        for (index, pending) in &mut self.pending {
            let time = now.saturating_sub(pending.since);
            if !pending.is_recorded && time >= SLOW_CONTACT_AFTER {
                pending.is_recorded = true;
                let since = env.now().saturating_sub(time.as_millis() as u64);
                env.change_health(machines[*index], &mut |health| health.contact_pending(since));
            }
        }
    }
}
