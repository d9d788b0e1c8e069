//! The explanation of a build: the result of the scheduler, and the records of each machine.

use serde::Serialize;

use crate::machine::Machine;
use crate::scheduler::{Estimate, Explanation, Readiness};
use crate::state::health::{self, Failures};
use crate::state::{
    Drain, Drained, HealthRecord, SlotHolder, Slots, StateDirectory, SubstituteRecord, SubstituteServers,
};
use crate::transfer::Forecast;

/// One machine, with its records.
#[derive(Serialize)]
pub struct Explained<'a> {
    pub name: &'a str,
    pub port: u16,
    pub score: Option<f64>,
    pub verdict: &'static str,
    pub reason: Option<String>,
    pub holders: Vec<Option<SlotHolder>>,
    pub failures: Option<Failures>,
    pub drained: Option<Drained>,
    pub substitutes: SubstituteServers,
    pub transfer: Option<Forecast>,
    /// Marks the chosen machine and those that never take the build, for people.
    #[serde(skip)]
    pub mark: char,
    pub estimate: Option<EstimateSummary>,
    /// The estimate in words, if it is the score.
    #[serde(skip)]
    pub estimated: Option<String>,
}

/// Returns the explanation of one machine, with its records.
pub fn explained<'a>(machine: &'a Machine, explanation: &Explanation, state: &StateDirectory) -> Explained<'a> {
    let now = health::now();
    let (verdict, reason) = match &explanation.verdict {
        Readiness::Ready => ("ready", None),
        Readiness::Unknown => ("unknown", None),
        Readiness::Not(reason) => ("rejected", Some(reason.to_string())),
    };
    let taken = Slots::of(state, machine).and_then(|slots| slots.taken()).unwrap_or_default();
    Explained {
        name: &machine.name,
        port: machine.port,
        score: explanation.score,
        verdict,
        reason,
        holders: taken.into_iter().map(|(_, holder)| holder).collect(),
        failures: HealthRecord::of(state, machine).ok().and_then(|record| record.read().failures),
        drained: Drain::of(state, machine).ok().and_then(|drain| drain.read(now)),
        substitutes: SubstituteRecord::of(state, machine).map(|record| record.read()).unwrap_or_default(),
        transfer: None,
        mark: ' ',
        estimate: explanation.estimate.map(EstimateSummary::from),
        estimated: explanation.estimate.filter(|_| explanation.scores_estimate).map(|estimate| estimate.to_string()),
    }
}

/// An estimate, in seconds.
#[derive(Serialize)]
pub struct EstimateSummary {
    seconds: f64,
    starting: f64,
    waiting: f64,
    sending: f64,
    building: f64,
    retrieving: f64,
    learned: bool,
}

impl From<Estimate> for EstimateSummary {
    fn from(estimate: Estimate) -> EstimateSummary {
        let Estimate { starting, waiting, sending, building, retrieving, is_learned } = estimate;
        EstimateSummary {
            seconds: estimate.total(),
            starting,
            waiting,
            sending,
            building,
            retrieving,
            learned: is_learned,
        }
    }
}

/// The explanation of one build.
#[derive(Serialize)]
pub struct BuildReport<'a> {
    pub request: RequestSummary<'a>,
    pub machines: Vec<Explained<'a>>,
    pub head: Option<f64>,
    pub head_estimate: Option<EstimateSummary>,
    pub reply: &'static str,
    pub machine: Option<&'a str>,
    /// How many builds are ahead in the queue, if it would wait for a slot.
    pub ahead: Option<usize>,
    /// What becomes of the build, for people.
    pub outcome: String,
    /// Whether some machine may take it, now or later.
    #[serde(skip)]
    pub has_match: bool,
    /// The estimate of the head in words.
    #[serde(skip)]
    pub head_estimated: Option<String>,
}

#[derive(Serialize)]
pub struct RequestSummary<'a> {
    pub system: &'a str,
    pub features: &'a [String],
    pub derivation: Option<&'a str>,
    pub input_bytes: Option<u64>,
    pub expected_seconds: Option<f64>,
    pub expected_output_bytes: Option<u64>,
}
