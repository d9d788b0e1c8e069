//! The limits of a pool on its machines on demand, and which machines run.

use super::{Phase, Power};
use crate::machine::PoolLimits;
use crate::permissions::files;
use crate::state::StateDirectory;
use crate::state::health::Time;
use crate::state::lock::contents;

/// Returns an error if the limits forbid a start at `now`, given the records of all machines on demand. The error says
/// which limit, and what is left of it.
pub fn check_limits(limits: &PoolLimits, records: &[Power], now: Time) -> Result<(), String> {
    let count = |phases: &[Phase]| records.iter().filter(|power| phases.contains(&power.phase)).count();
    let starting = count(&[Phase::Starting]);
    let running = starting + count(&[Phase::Running, Phase::Stopping]);
    let time = records.iter().map(|power| power.ran_within_span(now)).fold(0, Time::saturating_add);
    let hours = time as f64 / 3_600_000.0;
    if let Some(most) = limits.max_running.filter(|most| running >= *most as usize) {
        return Err(match running {
            1 => format!("1 machine on demand runs; max_running is {most}"),
            _ => format!("{running} machines on demand run; max_running is {most}"),
        });
    }
    if let Some(most) = limits.max_starting.filter(|most| starting >= *most as usize) {
        return Err(match starting {
            1 => format!("1 machine on demand starts; max_starting is {most}"),
            _ => format!("{starting} machines on demand start; max_starting is {most}"),
        });
    }
    match limits.max_hours.filter(|most| hours >= *most) {
        Some(most) => Err(format!("the machines on demand ran {hours:.1} h within 24 h; max_hours is {most}")),
        None => Ok(()),
    }
}

/// Returns the addresses of all machines whose record says that they are not off.
pub fn machines_that_run(state: &StateDirectory) -> Vec<String> {
    let directories = files::list(state.path()).unwrap_or_default();
    let mut running = Vec::new();
    for directory in directories {
        let Some(address) = directory.file_name().and_then(|name| name.to_str()).filter(|name| name.contains(':'))
        else {
            continue;
        };
        let power =
            contents(&directory.join("power.json")).and_then(|text| serde_json::from_slice::<Power>(&text).ok());
        if power.is_some_and(|power| power.phase != Phase::Off) {
            running.push(address.to_owned());
        }
    }
    running.sort();
    running
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_forbids_a_start_that_would_exceed_it() {
        let power = |phase| Power { phase, started: 0, ..Power::default() };
        let records = [power(Phase::Off), power(Phase::Starting), power(Phase::Running), power(Phase::Stopping)];
        let hour = 3_600_000;
        let check = |limits| check_limits(&limits, &records, hour);
        assert_eq!(check(PoolLimits::default()), Ok(()));
        assert_eq!(check(PoolLimits { max_running: Some(4), max_starting: Some(2), max_hours: Some(3.1) }), Ok(()));
        for (limits, word) in [
            (
                PoolLimits { max_running: Some(3), ..PoolLimits::default() },
                "3 machines on demand run; max_running is 3",
            ),
            (
                PoolLimits { max_starting: Some(1), ..PoolLimits::default() },
                "1 machine on demand starts; max_starting is 1",
            ),
            (PoolLimits { max_hours: Some(3.0), ..PoolLimits::default() }, "ran 3.0 h within 24 h; max_hours is 3"),
        ] {
            assert!(check(limits).is_err_and(|error| error.ends_with(word)), "{word}");
        }
    }
}
