//! When the outputs of a build would be here: the score of a machine file with `score = offload.soonest`.
//!
//! The estimate adds up the start of a machine on demand that is off, the wait for a build slot, the upload of missing inputs, the build, and the download of the outputs.
//! The score is minus that time, in seconds. The head itself has the build only, so that a tiny build stays here.
//!
//! The time of the builder is the learned one, times one plus the load per core, as in the default score. If the name was never
//! built, the typical time of the last builds replaces it, in proportion to the speeds of the machines: so speed /
//! (1 + load) decides, and the inputs that are missing.
//!
//! A machine that has built nothing may be faster than its entry says. While it builds nothing, its time for a build that is
//! not long is a bit less than that of the machine in the middle, so that it is tried.
//!
//! This file is free of effects.

use std::fmt;
use std::time::Duration;

use crate::machine_file::ASSUMED_BUILD;
use crate::state::history::{Learned, MachineRecord};

/// The assumed rate of a link that was never measured, in bytes per second.
const ASSUMED_RATE: f64 = 25e6;

/// The assumed time that a build takes besides the builder and large transfers, in seconds.
const ASSUMED_OVERHEAD: f64 = 0.25;

/// The part of the expected time of the machine in the middle that is assumed of a machine that is tried.
const TRIAL_BONUS: f64 = 0.8;

/// The shortest time for which a running build of unknown length is expected to run on, in seconds.
const MIN_REMAINING: f64 = 5.0;

/// The shortest time that a machine which does not run takes to start, in seconds.
const MIN_BOOT: f64 = 1.0;

/// The times of a build on a machine, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Until the machine has started, if it does not run.
    pub starting: f64,
    /// Until a build slot is free.
    pub waiting: f64,
    /// Connecting, and sending missing inputs.
    pub sending: f64,
    pub building: f64,
    /// Fetching the outputs.
    pub retrieving: f64,
    /// Whether the build time comes from the history.
    pub is_learned: bool,
}

impl Estimate {
    /// Returns the seconds until the outputs are here.
    pub fn total(&self) -> f64 {
        self.starting + self.waiting + self.sending + self.building + self.retrieving
    }
}

/// A build that holds a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Occupied {
    pub age: Duration,
    /// How long it was expected to hold the slot.
    pub expected: Option<Duration>,
}

/// What an estimate depends on, besides the history.
#[derive(Clone, Copy, Debug, Default)]
pub struct Situation<'a> {
    /// The label of the machine.
    pub machine: &'a str,
    pub slots: usize,
    pub running: &'a [Occupied],
    /// The expected load per core.
    pub load: Option<f64>,
    /// The bytes of the inputs that it lacks, as far as known.
    pub missing_bytes: Option<u64>,
    /// The time until it has started. `None`: it runs.
    pub boot: Option<Duration>,
}

/// Estimates a build on a machine of the pool.
pub fn machine_estimate(learned: &Learned, situation: &Situation<'_>) -> Estimate {
    let unknown = MachineRecord::default();
    let Situation { machine, slots, running, load, missing_bytes, boot } = *situation;
    let record = learned.machines.get(machine).unwrap_or(&unknown);
    let usual = learned.usual();
    let [sending, receiving] = [record.sending.or(usual.sending), record.receiving.or(usual.receiving)]
        .map(|rate| rate.unwrap_or(ASSUMED_RATE));
    let overhead = record.overhead.or(usual.overhead).unwrap_or(ASSUMED_OVERHEAD);
    let time = |bytes: f64, rate: f64| bytes / rate.max(1.0);
    Estimate {
        starting: boot.map_or(0.0, |boot| boot.as_secs_f64().max(MIN_BOOT)),
        waiting: wait_for_slot(slots, running),
        sending: overhead + time(missing_bytes.unwrap_or(0) as f64, sending),
        building: build_seconds(learned, machine, record.builds == 0 && running.is_empty()) * busy(load),
        retrieving: time(learned.output_bytes().unwrap_or(0.0), receiving),
        is_learned: learned.seconds_on(machine).is_some(),
    }
}

/// Estimates a build on the head itself, which has this speed in the machine file.
pub fn head_estimate(learned: &Learned, speed: f64, load: Option<f64>) -> Estimate {
    let known = learned.seconds_at(speed);
    let building = known.unwrap_or_else(|| typical(learned) * learned.relative_at(speed));
    Estimate { building: building * busy(load), is_learned: known.is_some(), ..Estimate::default() }
}

fn typical(learned: &Learned) -> f64 {
    learned.typical.unwrap_or(ASSUMED_BUILD)
}

fn busy(load: Option<f64>) -> f64 {
    1.0 + load.unwrap_or(0.0).max(0.0)
}

fn build_seconds(learned: &Learned, machine: &str, is_untried: bool) -> f64 {
    let Some(seconds) = learned.seconds_on(machine) else { return typical(learned) * learned.relative_on(machine) };
    let middle = learned.seconds().filter(|middle| is_untried && *middle <= typical(learned));
    match middle {
        Some(middle) => seconds.min(middle * TRIAL_BONUS),
        None => seconds,
    }
}

/// Returns the seconds until a slot is free.
fn wait_for_slot(slots: usize, running: &[Occupied]) -> f64 {
    let Some(before) = running.len().checked_sub(slots) else { return 0.0 };
    let mut remaining: Vec<f64> = running.iter().map(remaining).collect();
    remaining.sort_by(f64::total_cmp);
    remaining.get(before).copied().unwrap_or(0.0)
}

/// Returns how many more seconds a build is expected to run. One that is late is expected to take as long again as it is late.
/// One of unknown length is expected to run for as long again as it has.
fn remaining(build: &Occupied) -> f64 {
    let age = build.age.as_secs_f64();
    match build.expected.map(|expected| expected.as_secs_f64() - age) {
        Some(left) if left > 0.0 => left,
        Some(left) => (-left).max(1.0),
        None => age.max(MIN_REMAINING),
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "about {}", Seconds(self.total()))?;
        let parts = [
            (self.starting, "to start"),
            (self.waiting, "until a slot is free"),
            (self.sending, "to send"),
            (self.building, "to build"),
            (self.retrieving, "to fetch"),
        ];
        let shown = parts.iter().filter(|(seconds, what)| *seconds >= 0.05 || *what == "to build");
        let shown: Vec<String> = shown.map(|(seconds, what)| format!("{} {what}", Seconds(*seconds))).collect();
        write!(f, ": {}", shown.join(", "))?;
        if !self.is_learned {
            f.write_str(" (an assumption: it was never built)")?;
        }
        Ok(())
    }
}

/// Seconds for people.
struct Seconds(f64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            seconds if seconds < 9.95 => write!(f, "{seconds:.1} s"),
            seconds if seconds < 120.0 => write!(f, "{seconds:.0} s"),
            seconds if seconds < 7200.0 => write!(f, "{:.0} min", seconds / 60.0),
            seconds => write!(f, "{:.1} h", seconds / 3600.0),
        }
    }
}

#[cfg(test)]
mod tests;
