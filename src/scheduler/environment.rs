//! What choosing and waiting need of the world: clocks, records, slots, machines.

use std::time::Duration;

use crate::machine::Machine;
use crate::state::Drained;
use crate::state::Health;
use crate::state::health::Time;
use crate::status::MachineStatus;

/// The world of one hook process. A clone is the same world, for another thread.
///
/// Errors are messages for people: what they are about can be passed over.
pub trait Environment: Clone + Send + 'static {
    /// A slot that is held.
    type Slot;
    /// A connection to a machine that answered.
    type Link: Send + 'static;
    /// The right to ask a host how it is, which one process has at a time.
    type ProbeLock;
    /// A place among those that wait for a slot.
    type QueueTicket;

    /// The time, in the terms of [`Health`]. It may jump.
    fn now(&self) -> Time;

    /// Time since some moment. It does not jump.
    fn elapsed(&self) -> Duration;

    /// Does nothing for a while.
    fn pause(&self, time: Duration);

    /// Runs a task beside what goes on.
    fn spawn(&self, task: Box<dyn FnOnce() + Send>);

    /// What is remembered of the machine's host.
    fn health(&self, machine: &Machine) -> Health;

    /// Changes what is remembered, no matter what others do at the same time.
    fn change_health(&self, machine: &Machine, change: &mut dyn FnMut(Health) -> Health);

    /// Whether its host is taken out, and until when.
    fn drained(&self, machine: &Machine) -> Option<Drained>;

    /// Takes the right to ask its host; `None` while another process has it.
    fn try_probe_lock(&self, machine: &Machine) -> Result<Option<Self::ProbeLock>, String>;

    /// Connects to its daemon.
    fn connect(&self, machine: &Machine) -> Result<Self::Link, String>;

    /// Asks for its status.
    fn status(&self, link: &Self::Link) -> Result<MachineStatus, String>;

    /// Since when its taken slots are held.
    fn running(&self, machine: &Machine) -> Vec<Time>;

    /// How many of its slots are free, counted up to `enough`. Asked often.
    fn free_slots(&self, machine: &Machine, enough: usize) -> Result<usize, String>;

    /// How many of the inputs of the build it is not known to have.
    fn missing_inputs(&self, _machine: &Machine) -> usize {
        0
    }

    /// Takes a free slot, without waiting.
    fn try_take_slot(&self, machine: &Machine) -> Result<Option<Self::Slot>, String>;

    /// Takes a place to wait for one of `machines`, unless `limit` wait for any of them already.
    fn try_join_queue(&self, machines: &[&Machine], limit: usize) -> Result<Option<Self::QueueTicket>, String>;

    /// Says that this process still waits, and for which machines.
    fn renew_ticket(&self, ticket: &Self::QueueTicket, machines: &[&Machine]);

    /// How many processes wait for any of `machines`.
    fn waiting(&self, machines: &[&Machine]) -> usize;

    /// For each machine, how many processes wait for it and came before this one.
    fn ahead(&self, machines: &[&Machine], ticket: Option<&Self::QueueTicket>) -> Vec<usize>;

    /// How the head itself is doing.
    fn own_status(&self) -> MachineStatus;
}
