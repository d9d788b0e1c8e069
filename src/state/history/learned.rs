//! What the history says about a build before it runs: its time on each machine, and the size of its outputs.
//!
//! The time on a machine is the median of the last ten builds of that name there. If there were none, the first of these
//! that is known:
//!
//! 1. the same for other versions of the name ([`without_version`](super::without_version)) on this machine;
//! 2. the median time of the name on other machines, converted;
//! 3. the same for other versions.
//!
//! A time on one machine is converted to another one by their *slowness*: how many times as long builds take there as on
//! others, learned from names that were built on both. A machine that built nothing comparable has the speed of the
//! machine file, in proportion to the machines whose slowness is known.
//!
//! This file is free of effects.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// The number of builds of which a median is taken.
pub const LAST_BUILDS: usize = 10;

/// Comparisons of a machine with others that are needed for its slowness.
pub const MIN_COMPARISONS: u32 = 2;

/// Medians of a name on a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct NameRecord {
    pub machine: String,
    /// The number of builds, up to [`LAST_BUILDS`].
    pub builds: u32,
    /// Seconds.
    pub building: f64,
    pub output_bytes: f64,
    /// Grows with each build.
    pub last: i64,
}

/// What is known of a machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MachineRecord {
    /// The number of its successful builds.
    pub builds: u64,
    /// How many times as long builds take there as on others, and the number of comparisons, up to a limit.
    pub slowness: Option<f64>,
    pub comparisons: u32,
    /// Bytes per second.
    pub sending: Option<f64>,
    pub receiving: Option<f64>,
    /// The seconds that a build takes there besides the builder, if nothing large is moved.
    pub overhead: Option<f64>,
}

/// The records of a name in the history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    /// Of the name itself.
    pub exact: Vec<NameRecord>,
    /// Of all its versions.
    pub versions: Vec<NameRecord>,
    pub machines: HashMap<String, MachineRecord>,
    /// The median time of the last builds of any name, in seconds.
    pub typical: Option<f64>,
}

/// The labels of the machines of a pool, and their speeds in the machine file.
pub type Speeds = HashMap<String, f64>;

/// The expectation for one name on the machines of a pool.
#[derive(Debug, Default)]
pub struct Learned {
    pool: Arc<Speeds>,
    exact: HashMap<String, Medians>,
    versions: HashMap<String, Medians>,
    pub machines: HashMap<String, MachineRecord>,
    /// The median time of the last builds of any name, in seconds.
    pub typical: Option<f64>,
    elsewhere: OnceLock<Option<f64>>,
    at_speed_one: OnceLock<f64>,
    middle: OnceLock<f64>,
    seconds: OnceLock<Option<f64>>,
    usual: OnceLock<MachineRecord>,
}

impl Learned {
    /// Derives the expectation for a pool. Most of it is computed when it is first needed.
    pub fn new(records: Records, pool: &Arc<Speeds>) -> Learned {
        let Records { exact, versions, machines, typical } = records;
        let [exact, versions] = [exact, versions].map(by_machine);
        Learned { pool: Arc::clone(pool), exact, versions, machines, typical, ..Learned::default() }
    }

    /// Returns the seconds that the build is expected to take on a machine of the pool.
    pub fn seconds_on(&self, machine: &str) -> Option<f64> {
        match self.exact.get(machine).or_else(|| self.versions.get(machine)) {
            Some(here) => Some(here.building),
            None => Some(self.elsewhere()? * self.slowness(machine)),
        }
    }

    /// Returns the seconds that it is expected to take on a machine with this speed, which has no history.
    pub fn seconds_at(&self, speed: f64) -> Option<f64> {
        Some(self.elsewhere()? * self.slowness_at(speed))
    }

    /// Returns the seconds that it is expected to take on the machine of the pool in the middle.
    pub fn seconds(&self) -> Option<f64> {
        // Without any build of the name, no machine has a time.
        let seconds = || self.elsewhere().and_then(|_| self.median_of(|machine| self.seconds_on(machine)));
        *self.seconds.get_or_init(seconds)
    }

    /// Returns the expected bytes of the outputs.
    pub fn output_bytes(&self) -> Option<f64> {
        let of = |records: &HashMap<String, Medians>| median(records.values().map(|one| one.output_bytes).collect());
        of(&self.exact).or_else(|| of(&self.versions))
    }

    /// Returns how many times as long builds take on a machine of the pool as on the one in the middle.
    pub fn relative_on(&self, machine: &str) -> f64 {
        self.slowness(machine) / self.middle()
    }

    /// Returns the same of a machine with this speed, which has no history.
    pub fn relative_at(&self, speed: f64) -> f64 {
        self.slowness_at(speed) / self.middle()
    }

    /// Returns the medians of the machines of the pool.
    pub fn usual(&self) -> &MachineRecord {
        self.usual.get_or_init(|| {
            let of =
                |value: fn(&MachineRecord) -> Option<f64>| self.median_of(|machine| value(self.machines.get(machine)?));
            MachineRecord {
                sending: of(|machine| machine.sending),
                receiving: of(|machine| machine.receiving),
                overhead: of(|machine| machine.overhead),
                ..MachineRecord::default()
            }
        })
    }

    /// Returns the seconds on a machine of the slowness 1, by the builds on all machines.
    fn elsewhere(&self) -> Option<f64> {
        let reference = |records: &HashMap<String, Medians>| {
            let times = records.iter().map(|(machine, medians)| medians.building / self.slowness(machine));
            median(times.collect())
        };
        *self.elsewhere.get_or_init(|| reference(&self.exact).or_else(|| reference(&self.versions)))
    }

    /// Returns how many times as long builds take on a machine.
    fn slowness(&self, machine: &str) -> f64 {
        let by_speed = || self.pool.get(machine).map_or(1.0, |speed| self.slowness_at(*speed));
        self.learned_slowness(machine).unwrap_or_else(by_speed)
    }

    fn slowness_at(&self, speed: f64) -> f64 {
        // The speed 1 of the file, in terms of learned slowness.
        let scale = |machine: &str| Some(self.learned_slowness(machine)? * self.pool.get(machine)?);
        let at_speed_one = *self.at_speed_one.get_or_init(|| self.median_of(scale).unwrap_or(1.0));
        at_speed_one / speed.max(f64::MIN_POSITIVE)
    }

    fn learned_slowness(&self, machine: &str) -> Option<f64> {
        let record = self.machines.get(machine).filter(|record| record.comparisons >= MIN_COMPARISONS)?;
        record.slowness.filter(|slowness| slowness.is_finite() && *slowness > 0.0)
    }

    fn middle(&self) -> f64 {
        *self.middle.get_or_init(|| self.median_of(|machine| Some(self.slowness(machine))).unwrap_or(1.0))
    }

    fn median_of(&self, value: impl Fn(&str) -> Option<f64>) -> Option<f64> {
        median(self.pool.keys().filter_map(|machine| value(machine)).collect())
    }
}

#[derive(Debug)]
struct Medians {
    building: f64,
    output_bytes: f64,
}

/// Returns the medians of the last builds on each machine. A record counts as many times as it has builds.
fn by_machine(records: Vec<NameRecord>) -> HashMap<String, Medians> {
    let mut grouped: HashMap<String, Vec<NameRecord>> = HashMap::new();
    for record in records.into_iter().filter(|record| record.builds > 0) {
        grouped.entry(record.machine.clone()).or_default().push(record);
    }
    let medians = grouped.into_iter().filter_map(|(machine, mut records)| {
        if let [NameRecord { building, output_bytes, .. }] = records[..] {
            return Some((machine, Medians { building, output_bytes }));
        }
        records.sort_by_key(|record| std::cmp::Reverse(record.last));
        let each = records.iter().flat_map(|record| std::iter::repeat_n(record, record.builds as usize));
        let last: Vec<&NameRecord> = each.take(LAST_BUILDS).collect();
        let building = median(last.iter().map(|record| record.building).collect())?;
        let output_bytes = median(last.iter().map(|record| record.output_bytes).collect())?;
        Some((machine, Medians { building, output_bytes }))
    });
    medians.collect()
}

/// Returns the median; of an even number, the mean of the two in the middle. `None` of nothing.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle)?;
    Some(if values.len() % 2 == 1 { *upper } else { (values[middle - 1] + upper) / 2.0 })
}

/// Returns how many times as long a build took as on a machine of the slowness 1, by the times of others on such a machine.
pub fn comparison(building: f64, others: Vec<f64>) -> Option<f64> {
    Some(building / median(others)?).filter(|ratio| ratio.is_finite() && *ratio > 0.0)
}

#[cfg(test)]
mod tests;
