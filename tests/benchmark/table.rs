//! Medians, spreads and the tables.

use std::time::Duration;

use crate::site::Sample;
use crate::works::Work;

/// The measurements of one work, a row of each for a round.
#[derive(Default)]
pub struct Samples {
    pub upstream: Vec<Sample>,
    pub offload: Vec<Sample>,
    pub local: Vec<Duration>,
}

impl Samples {
    /// What the sides took in each round, less a local build where that is asked for. A side with fewer rounds repeats its last.
    fn seconds(&self, side: &[Sample]) -> Vec<f64> {
        let local = |round: usize| self.local.get(round).map_or(0.0, Duration::as_secs_f64);
        side.iter().enumerate().map(|(round, sample)| sample.elapsed.as_secs_f64() - local(round)).collect()
    }

    fn ratios(&self) -> Vec<f64> {
        let (upstream, offload) = (self.seconds(&self.upstream), self.seconds(&self.offload));
        let of_round = |round: usize| upstream.get(round).or(upstream.last()).copied().unwrap_or(f64::NAN);
        offload.iter().enumerate().map(|(round, seconds)| of_round(round) / seconds).collect()
    }
}

pub const HEADING: &str = "\
| work | `guix offload` | `offload` | ratio (least to most) | processor time of the hook | peak memory of the hook | processor time of all hosts |
|---|---|---|---|---|---|---|";

/// The table's line for a work.
pub fn line(work: &Work, samples: &Samples) -> String {
    let time = |side: &[Sample]| seconds(median(samples.seconds(side)));
    let used = |pick: fn(&Sample) -> f64| {
        let of = |side: &[Sample]| median(side.iter().map(pick).collect());
        (of(&samples.upstream), of(&samples.offload))
    };
    let ratios = samples.ratios();
    let (least, most) =
        (ratios.iter().copied().fold(f64::INFINITY, f64::min), ratios.iter().copied().fold(0.0, f64::max));
    let (hook, everywhere) =
        (used(|sample| sample.usage.time.as_secs_f64()), used(|sample| sample.everywhere.as_secs_f64()));
    let memory = used(|sample| sample.usage.memory as f64 / f64::from(1 << 20));
    format!(
        "| {} | {} | {} | {} ({} to {}) | {} → {} | {:.0} → {:.0} MiB | {} → {} |",
        work.what,
        time(&samples.upstream),
        time(&samples.offload),
        ratio(median(ratios)),
        ratio(least),
        ratio(most),
        seconds(hook.0),
        seconds(hook.1),
        memory.0,
        memory.1,
        seconds(everywhere.0),
        seconds(everywhere.1),
    )
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let (low, high) = (numbers.len().saturating_sub(1) / 2, numbers.len() / 2);
    match (numbers.get(low), numbers.get(high)) {
        (Some(low), Some(high)) => (low + high) / 2.0,
        _ => f64::NAN,
    }
}

pub fn seconds(seconds: f64) -> String {
    match seconds.abs() {
        ..0.0995 => format!("{:.0} ms", seconds * 1000.0),
        ..9.95 => format!("{seconds:.2} s"),
        _ => format!("{seconds:.1} s"),
    }
}

fn ratio(ratio: f64) -> String {
    if ratio < 9.95 { format!("{ratio:.1}") } else { format!("{ratio:.0}") }
}
