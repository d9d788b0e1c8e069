//! The rules that a machine file may replace: which machine may take a build, and its score.
//! `file_rules.rs` has those of a machine file.

use std::sync::Arc;
use std::time::Duration;

use super::ranking::SIMILAR_SCORE_RATIO;
use super::soonest::Estimate;
use crate::machine::Machine;
use crate::machine_file::{Fallback, MachineFacts, default_score};
use crate::state::health::Time;
use crate::state::history::Learned;
use crate::state::{Health, RunningBuild};
use crate::status::MachineStatus;

/// The facts about a machine that the rules receive.
pub struct RuleInput<'a> {
    pub health: &'a Health,
    /// Since when each of its taken slots has been held.
    pub running: &'a [RunningBuild],
    pub now: Time,
    /// For a machine on demand, whether it runs.
    pub power: Option<&'static str>,
    /// When the build would be done there, and further facts, if the rules [want](Rules::wants) them.
    pub estimate: Option<Estimate>,
    pub facts: Option<MachineFacts>,
}

/// Returns what the history says about the build.
pub type LearnedSource = Arc<dyn Fn() -> Arc<Learned> + Send + Sync>;

/// What the score of a machine depends on, besides its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    Nothing,
    /// The score is the estimate.
    Estimate,
    /// A function may read facts.
    Facts,
}

/// The time over which the kernel averages the load, in milliseconds.
const LOAD_AVERAGE_MILLISECONDS: f64 = 60_000.0;

impl RuleInput<'_> {
    /// Returns the expected load per core. The one-minute average contains a build that was started `d` before the
    /// measurement only by the share `1 - exp(-d / 1 min)`. The rest is added, so that builds that start at the same
    /// time do not all go to one machine.
    pub fn load(&self) -> Option<f64> {
        let status = self.health.status.as_ref()?;
        let (load, measured) = (status.load()?, self.health.measured?);
        let missing = self
            .running
            .iter()
            .map(|build| (-(measured.saturating_sub(build.since) as f64) / LOAD_AVERAGE_MILLISECONDS).exp());
        Some(load + missing.sum::<f64>() / f64::from(status.cores?))
    }
}

/// The interface for functions of the administrator.
pub trait Rules {
    /// Returns whether the machine may take the build; the error gives the reason why not.
    fn accepts(&self, machine: usize) -> Result<(), String>;

    /// Returns the score of the machine, the higher the better; the error gives the reason why it cannot take the
    /// build.
    fn score(&self, machine: usize, known: &RuleInput<'_>) -> Result<f64, String>;

    /// Returns the part of the best score that counts as nearly as good, if a machine has more of the inputs.
    fn nearly_as_good(&self) -> f64 {
        SIMILAR_SCORE_RATIO
    }

    /// Returns what the score of a machine depends on.
    fn wants(&self, _machine: usize) -> Wants {
        Wants::Nothing
    }

    /// Returns the score of the head itself, given its status and what is learned. `None`: it takes no part, or cannot
    /// take the build.
    fn head(&self, _status: &MachineStatus, _learned: &LearnedSource) -> Option<f64> {
        None
    }

    /// Returns the action when the machines are busy.
    fn when_busy(&self) -> Fallback {
        Fallback::Wait
    }

    /// Returns the longest expected wait for a slot with which a build is accepted. `None`: any.
    fn max_expected_wait(&self) -> Option<Duration> {
        None
    }

    /// Returns the action when no machine can be reached.
    fn when_unreachable(&self) -> Fallback {
        Fallback::Local
    }

    /// Begins a new decision about the same request.
    fn begin(&self) {}

    /// Records that an attempt on this machine has failed.
    fn record_attempt(&self, _machine: usize) {}
}

/// The rules of a machine file without functions: every matching machine may take every build.
pub struct DefaultRules<'a>(pub &'a [&'a Machine]);

impl Rules for DefaultRules<'_> {
    fn accepts(&self, _: usize) -> Result<(), String> {
        Ok(())
    }

    fn score(&self, machine: usize, known: &RuleInput<'_>) -> Result<f64, String> {
        Ok(default_score(self.0[machine].speed, known.load()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(since: &[Time]) -> Vec<RunningBuild> {
        since.iter().map(|&since| RunningBuild { since, expected: None }).collect()
    }

    #[test]
    fn builds_just_started_count_as_load() {
        let status = MachineStatus { load1: Some(1.0), cores: Some(4), ..MachineStatus::default() };
        let health = Health::reached(status, 100_000);
        let load_of = |health: &Health, since: &[Time]| {
            RuleInput { health, running: &running(since), now: 110_000, power: None, estimate: None, facts: None }
                .load()
        };
        let load = |since: &[Time]| load_of(&health, since).unwrap();
        assert_eq!(load(&[]), 0.25);
        assert_eq!(load(&[100_000, 105_000]), 0.75);
        // Most of it is in the average already.
        assert!((0.25..0.30).contains(&load(&[0])), "{}", load(&[0]));
        assert!((0.34..0.35).contains(&load(&[40_000])), "{}", load(&[40_000]));
        assert_eq!(load_of(&Health::default(), &[5]), None);
    }
}
