//! The environment of a selection and a wait: clocks, records, slots, machines.

use std::sync::Arc;
use std::time::Duration;

use super::power_state::PowerState;
use crate::machine::Machine;
use crate::state::health::Time;
use crate::state::history::Learned;
use crate::state::{Drained, Health, RunningBuild};
use crate::status::MachineStatus;

/// The environment of one hook process. A clone is the same environment, for another thread.
///
/// Errors are messages for people. The caller may skip the machine or the step that they concern.
pub trait Environment: Clone + Send + Sync + 'static {
    /// A slot that is held.
    type Slot;
    /// A connection to a machine that answered.
    type Link: Send + 'static;
    /// The lock for probing a host, which one process holds at a time.
    type ProbeLock;
    /// A place in the queue for a slot.
    type QueueTicket;

    /// Returns the time in the unit of [`Health`]. It may jump.
    fn now(&self) -> Time;

    /// Returns the time since some fixed moment. It does not jump.
    fn elapsed(&self) -> Duration;

    /// Sleeps for `time`.
    fn pause(&self, time: Duration);

    /// Returns whether the build was cancelled. Then pauses and connections end early.
    fn is_cancelled(&self) -> bool {
        false
    }

    /// Runs a task concurrently.
    fn spawn(&self, task: Box<dyn FnOnce() + Send>);

    /// Returns the health record of the machine's host.
    fn health(&self, machine: &Machine) -> Health;

    /// Changes the health record atomically.
    fn change_health(&self, machine: &Machine, change: &mut dyn FnMut(Health) -> Health);

    /// Returns whether its host is drained, and until when.
    fn drained(&self, machine: &Machine) -> Option<Drained>;

    /// Returns whether it runs. A machine that is not on demand always does.
    fn power(&self, _machine: &Machine) -> PowerState {
        PowerState::Running
    }

    /// Returns how long a machine on demand is expected to boot.
    fn boot_time(&self, _machine: &Machine) -> Duration {
        Duration::ZERO
    }

    /// Requests the start of a machine on demand. Another process may have begun it.
    fn start_machine(&self, _machine: &Machine) {}

    /// Takes the lock for probing its host; `None` while another process holds it.
    fn try_probe_lock(&self, machine: &Machine) -> Result<Option<Self::ProbeLock>, String>;

    /// Connects to the machine's daemon.
    fn connect(&self, machine: &Machine) -> Result<Self::Link, String>;

    /// Returns the machine's status, and its age.
    fn status(&self, link: &Self::Link) -> Result<(MachineStatus, Duration), String>;

    /// Returns the builds that hold its slots.
    fn running(&self, machine: &Machine) -> Vec<RunningBuild>;

    /// Counts its free slots, up to `enough`. This is called often.
    fn free_slots(&self, machine: &Machine, enough: usize) -> Result<usize, String>;

    /// Counts the inputs of the build that it is not known to have.
    fn missing_inputs(&self, _machine: &Machine) -> usize {
        0
    }

    /// Returns the bytes of these inputs.
    fn missing_bytes(&self, _machine: &Machine) -> Option<u64> {
        None
    }

    /// Returns what the history says about the build.
    fn learned(&self) -> Arc<Learned> {
        Arc::default()
    }

    /// Takes a free slot, without waiting. `expected`: how long the build is expected to hold it.
    fn try_take_slot(&self, machine: &Machine, expected: Option<Duration>) -> Result<Option<Self::Slot>, String>;

    /// Joins the queue for `machines`, unless `limit` builds of the same user wait for any of them already.
    fn try_join_queue(&self, machines: &[&Machine], limit: usize) -> Result<Option<Self::QueueTicket>, String>;

    /// Records that this process still waits, and for which machines.
    fn renew_ticket(&self, ticket: &Self::QueueTicket, machines: &[&Machine]);

    /// Announces to other heads that the build waits for slots of `machines`, as the first of its head, and for nothing else
    /// of them. Without machines, it waits for none.
    fn announce_wait(&self, _machines: &[&Machine]) {}

    /// Leaves the queue with a slot of `machine`.
    fn take_turn(&self, ticket: Self::QueueTicket, machine: &Machine);

    /// How many builds of the same user wait for any of `machines`.
    fn waiting(&self, machines: &[&Machine]) -> usize;

    /// Counts, for each machine, the builds that wait for it and get a slot before this one.
    fn ahead(&self, machines: &[&Machine], ticket: Option<&Self::QueueTicket>) -> Vec<usize>;

    /// Returns the status of the head itself.
    fn own_status(&self) -> MachineStatus;
}
