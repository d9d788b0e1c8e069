//! Gathers what an [`Estimate`] depends on, from records: nothing is contacted.

use std::sync::Arc;
use std::time::Duration;

use super::environment::Environment;
use super::power_state::PowerState;
use super::rules::RuleInput;
use super::soonest::{Estimate, Occupied, Situation, machine_estimate};
use crate::machine::{Machine, label};
use crate::machine_file::{FoundFacts, MachineFacts};

/// Estimates the build on a machine of which this is known.
pub(super) fn estimate<E: Environment>(machine: &Machine, known: &RuleInput<'_>, env: &E) -> Estimate {
    estimate_of(machine, &occupied(known), known.load(), env)
}

/// Estimates the build on a machine by its records.
pub(super) fn estimate_now<E: Environment>(machine: &Machine, env: &E) -> Estimate {
    let (health, running) = (env.health(machine), env.running(machine));
    let known =
        RuleInput { health: &health, running: &running, now: env.now(), power: None, estimate: None, facts: None };
    estimate(machine, &known, env)
}

/// Returns facts that are found out if a function of the machine file reads them.
pub(super) fn facts<E: Environment>(machine: &Machine, known: &RuleInput<'_>, env: &E) -> MachineFacts {
    let (machine, env, occupied, load) = (machine.clone(), env.clone(), occupied(known), known.load());
    MachineFacts(Arc::new(move || FoundFacts {
        soonest: -estimate_of(&machine, &occupied, load, &env).total(),
        missing_inputs: Some(env.missing_inputs(&machine) as u64),
        missing_bytes: env.missing_bytes(&machine),
    }))
}

fn occupied(known: &RuleInput<'_>) -> Vec<Occupied> {
    let age = |since| Duration::from_millis(known.now.saturating_sub(since));
    known.running.iter().map(|build| Occupied { age: age(build.since), expected: build.expected }).collect()
}

fn estimate_of<E: Environment>(machine: &Machine, running: &[Occupied], load: Option<f64>, env: &E) -> Estimate {
    let boot = match env.power(machine) {
        PowerState::Running => None,
        PowerState::Starting { since } => Some(env.boot_time(machine).saturating_sub(since)),
        // It can be started, now or later.
        _ => Some(env.boot_time(machine)),
    };
    let situation = Situation {
        boot,
        machine: &label(&machine.name, machine.port),
        slots: machine.parallel_builds as usize,
        running,
        load,
        missing_bytes: env.missing_bytes(machine),
    };
    machine_estimate(&env.learned(), &situation)
}
