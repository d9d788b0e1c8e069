//! Medians, spreads and the tables.

use std::time::Duration;

use crate::site::Sample;
use crate::works::{Asked, Work};

/// The measurements of one work, a row of each for a round.
#[derive(Default)]
pub struct Samples {
    pub upstream: Vec<Sample>,
    pub offload: Vec<Sample>,
    pub local: Vec<Duration>,
}

impl Samples {
    /// Returns the time of each round, without that of a local build if this is an overhead. A side with fewer rounds
    /// repeats its last.
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
| work | `guix offload` | `offload` | times as fast (least to most) | target | processor time of the hook | peak memory of the hook | processor time of all hosts |
|---|---|---|---|---|---|---|---|";

/// The table's line for a work.
pub fn line(work: &Work, samples: &Samples) -> String {
    let (upstream, offload) = (samples.seconds(&samples.upstream), samples.seconds(&samples.offload));
    let used = |pick: fn(&Sample) -> f64| {
        let of = |side: &[Sample]| median(side.iter().map(pick).collect());
        (of(&samples.upstream), of(&samples.offload))
    };
    let (hook, everywhere) =
        (used(|sample| sample.usage.time.as_secs_f64()), used(|sample| sample.everywhere.as_secs_f64()));
    let memory = used(|sample| sample.usage.memory as f64 / f64::from(1 << 20));
    let ratios = samples.ratios();
    let took = median(offload);
    let asked = match work.asked {
        Asked::Nothing => String::new(),
        Asked::Times(times) => format!("{times}: {}", verdict(median(ratios.clone()) >= times)),
        Asked::Seconds(limit) => format!("{}: {}", seconds(limit), verdict(took <= limit)),
        Asked::Memory(limit) => format!("{limit} MiB: {}", verdict(memory.1 <= limit)),
    };
    format!(
        "| {} | {} | {} | {} | {asked} | {} → {} | {:.0} → {:.0} MiB | {} → {} |",
        work.what,
        seconds(median(upstream)),
        seconds(took),
        spread(ratios),
        seconds(hook.0),
        seconds(hook.1),
        memory.0,
        memory.1,
        seconds(everywhere.0),
        seconds(everywhere.1),
    )
}

fn verdict(is_met: bool) -> &'static str {
    if is_met { "yes" } else { "no" }
}

pub const BARE_HEADING: &str = "\
| work | `offload` without registration | registration | the bare work | times as long (least to most) | target |
|---|---|---|---|---|---|";

/// How many times as long as the bare work it may take.
const OVER_BARE: f64 = 1.3;

/// The second table's line for a work that has a bare one.
pub fn bare_line(work: &Work, samples: &Samples) -> Option<String> {
    let bare: Vec<f64> =
        samples.offload.iter().map(|sample| Some(sample.bare?.as_secs_f64())).collect::<Option<_>>()?;
    let registrations: Vec<f64> = samples.offload.iter().map(|sample| sample.registration.as_secs_f64()).collect();
    let all = samples.seconds(&samples.offload);
    let but: Vec<f64> = all.iter().zip(&registrations).map(|(all, registration)| all - registration).collect();
    let ratios: Vec<f64> = but.iter().zip(&bare).map(|(but, bare)| but / bare).collect();
    Some(format!(
        "| {} | {} | {} | {} | {} | {OVER_BARE}: {} |",
        work.what,
        seconds(median(but)),
        seconds(median(registrations)),
        seconds(median(bare)),
        spread(ratios.clone()),
        verdict(median(ratios) <= OVER_BARE),
    ))
}

/// The median, and the least and the most.
pub fn spread(ratios: Vec<f64>) -> String {
    let (least, most) =
        (ratios.iter().copied().fold(f64::INFINITY, f64::min), ratios.iter().copied().fold(0.0, f64::max));
    format!("{} ({} to {})", ratio(median(ratios)), ratio(least), ratio(most))
}

pub fn median(mut numbers: Vec<f64>) -> f64 {
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
    match ratio {
        ..1.995 => format!("{ratio:.2}"),
        ..9.95 => format!("{ratio:.1}"),
        _ => format!("{ratio:.0}"),
    }
}
