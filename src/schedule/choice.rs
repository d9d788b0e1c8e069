//! Choosing: matching machines are tried in the order of their ranks, one slot at a time.
//!
//! A machine is chosen when one of its slots is free, it answers, its load is below its threshold and its store has room.
//! Where a fresh record says so, the machine is not asked; where a record says that it is down, neither. The slot of a
//! machine that is passed over is given back before the next one is tried. The connection over which a machine answered
//! is the one that builds.

use std::fmt;

use super::matching::{Mismatch, mismatch};
use super::ranking::Rank;
use super::rules::{Known, Rules};
use crate::hook::Request;
use crate::machine::Machine;
use crate::state::Health;
use crate::state::health::Time;
use crate::status::Status;

/// What choosing needs of the world.
pub trait Surroundings {
    /// A slot that is held.
    type Slot;
    /// A connection to a machine that answered.
    type Link;

    /// Takes a free slot of the machine, without waiting; the error says why that cannot be tried.
    fn try_take_slot(&self, machine: &Machine) -> Result<Option<Self::Slot>, String>;

    /// How many of its slots are taken.
    fn taken_slots(&self, machine: &Machine) -> usize;

    /// What is remembered of it.
    fn health(&self, machine: &Machine) -> Health;

    /// The time, in the terms of [`Health`].
    fn now(&self) -> Time;

    /// Connects and asks for its status; the error says why it cannot be reached.
    fn probe(&self, machine: &Machine) -> Result<(Self::Link, Status), String>;
}

/// A machine that takes the build.
#[derive(Debug)]
pub struct Choice<S, L> {
    /// Its place in the list of machines.
    pub machine: usize,
    pub slot: S,
    /// The connection, if the machine had to be asked.
    pub link: Option<L>,
}

/// How the choosing ended.
#[derive(Debug)]
pub enum Outcome<S, L> {
    Chosen(Choice<S, L>),
    /// Machines match, but none can take the build now: at least one is busy, overloaded or short of room.
    Busy(Vec<PassedOver>),
    /// Machines match, but none of them can be reached.
    Unreachable(Vec<PassedOver>),
    /// No machine matches.
    NoMatch(Vec<PassedOver>),
}

/// A machine that was not chosen, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct PassedOver {
    /// Its place in the list of machines.
    pub machine: usize,
    pub reason: Reason,
}

/// Why a machine was not chosen.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    Mismatch(Mismatch),
    /// A rule of the machine file said no.
    Refused(String),
    /// All its slots are taken.
    NoSlot,
    /// Its slots cannot be looked at.
    SlotsUnknown(String),
    Unreachable(String),
    Overloaded {
        load: f64,
        threshold: f64,
    },
    LowDisk {
        free: u64,
        minimum: u64,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Mismatch(mismatch) => mismatch.fmt(f),
            Reason::Refused(why) => f.write_str(why),
            Reason::NoSlot => f.write_str("all its slots are taken"),
            Reason::SlotsUnknown(why) => write!(f, "its slots cannot be looked at: {why}"),
            Reason::Unreachable(why) => f.write_str(why),
            Reason::Overloaded { load, threshold } => {
                write!(f, "overloaded: its load per core is {load:.2}, the threshold {threshold:.2}")
            }
            Reason::LowDisk { free, minimum } => {
                write!(f, "its store is nearly full: {} MiB free, {} MiB wanted", free >> 20, minimum >> 20)
            }
        }
    }
}

/// Chooses one of `machines` for `request`. `excluded` are the places of those not to be tried again.
pub fn choose<W: Surroundings>(
    machines: &[&Machine],
    request: &Request,
    rules: &dyn Rules,
    excluded: &[usize],
    world: &W,
) -> Outcome<W::Slot, W::Link> {
    let mut passed_over = Vec::new();
    let mut candidates = Vec::new();
    for (place, machine) in machines.iter().enumerate().filter(|(place, _)| !excluded.contains(place)) {
        match rank(place, machine, request, rules, world) {
            Ok(rank) => candidates.push(rank),
            Err(reason) => passed_over.push(PassedOver { machine: place, reason }),
        }
    }
    if candidates.is_empty() {
        return Outcome::NoMatch(passed_over);
    }
    candidates.sort_by(Rank::order);

    let mut any_busy = false;
    for Rank { place, .. } in candidates {
        match try_machine(machines[place], world) {
            Ok((slot, link)) => return Outcome::Chosen(Choice { machine: place, slot, link }),
            Err(reason) => {
                any_busy |= !matches!(reason, Reason::Unreachable(_) | Reason::SlotsUnknown(_));
                passed_over.push(PassedOver { machine: place, reason });
            }
        }
    }
    if any_busy { Outcome::Busy(passed_over) } else { Outcome::Unreachable(passed_over) }
}

fn rank<W: Surroundings>(
    place: usize,
    machine: &Machine,
    request: &Request,
    rules: &dyn Rules,
    world: &W,
) -> Result<Rank, Reason> {
    if let Some(mismatch) = mismatch(machine, request) {
        return Err(Reason::Mismatch(mismatch));
    }
    rules.accepts(place).map_err(Reason::Refused)?;
    let running = world.taken_slots(machine);
    let known = Known { health: &world.health(machine), running, now: world.now() };
    let score = rules.score(place, &known).map_err(Reason::Refused)?;
    let occupied = running as f64 / f64::from(machine.parallel_builds.max(1));
    Ok(Rank { score, occupied, place })
}

/// A slot, and a connection where a fresh record did not spare it.
fn try_machine<W: Surroundings>(machine: &Machine, world: &W) -> Result<(W::Slot, Option<W::Link>), Reason> {
    let health = world.health(machine);
    if let Some(trouble) = health.trouble.as_ref().filter(|trouble| !trouble.is_over(world.now())) {
        return Err(Reason::Unreachable(trouble.error.clone()));
    }
    let is_fresh = health.is_fresh(world.now());
    if let Some(status) = health.status.as_ref().filter(|_| is_fresh) {
        check(machine, status)?;
    }
    let slot = world.try_take_slot(machine).map_err(Reason::SlotsUnknown)?.ok_or(Reason::NoSlot)?;
    if is_fresh {
        return Ok((slot, None));
    }
    let (link, status) = world.probe(machine).map_err(Reason::Unreachable)?;
    check(machine, &status)?;
    Ok((slot, Some(link)))
}

/// What is unknown is no reason to pass a machine over.
fn check(machine: &Machine, status: &Status) -> Result<(), Reason> {
    if let (Some(load), Some(threshold)) = (status.load(), machine.overload_threshold)
        && load > threshold
    {
        return Err(Reason::Overloaded { load, threshold });
    }
    match status.store_free {
        Some(free) if free < machine.minimum_disk_space => {
            Err(Reason::LowDisk { free, minimum: machine.minimum_disk_space })
        }
        _ => Ok(()),
    }
}
