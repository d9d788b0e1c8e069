//! The plans of builds by hand: each derivation is checked before anything is built, and `--dry-run` prints the plans.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::error::failure;
use super::options::BuildOptions;
use super::report::{JSON_VERSION, outputs};
use crate::commands::failure::{CommandError, CommandResult};
use crate::commands::terminal::{plain, write_json};
use crate::embed::{Explanation, Plan, Pool, Readiness, Verdict};
use crate::exit::ExitStatus;
use crate::store::path::StorePath;

/// Returns the plan of each build. A derivation that no machine matches is an error.
pub fn plan(pool: &Pool, derivations: &[StorePath], options: &BuildOptions) -> Result<Vec<Plan>, CommandError> {
    let machines: Vec<&str> = pool.machines().collect();
    for name in &options.on {
        if pool.slots(&[name]) == 0 && !machines.contains(&name.as_str()) {
            let message = format!("no machine matches '{name}'; the machine file has {}", machines.join(", "));
            return Err(CommandError::new(ExitStatus::NoMatch, message));
        }
    }
    derivations.iter().map(|derivation| plan_one(pool, derivation, options)).collect()
}

fn plan_one(pool: &Pool, derivation: &StorePath, options: &BuildOptions) -> Result<Plan, CommandError> {
    let plan = options.build(pool, derivation).plan().map_err(|error| failure(&error))?;
    if !plan.missing_outputs.is_empty() && plan.explanation.verdict == Verdict::NoMatch {
        let message = format!("no machine can build '{derivation}': {}", obstacles(&plan.explanation));
        return Err(CommandError::new(ExitStatus::NoMatch, message));
    }
    Ok(plan)
}

/// Returns why each machine cannot take the build.
pub fn obstacles(explanation: &Explanation) -> String {
    let each = explanation.machines.iter().filter_map(|machine| match &machine.readiness {
        Readiness::Not(obstacle) => Some(format!("{}: {}", machine.name, plain(&obstacle.to_string()))),
        _ => None,
    });
    let each: Vec<String> = each.collect();
    if each.is_empty() { "the machine file has no machine".to_owned() } else { each.join("; ") }
}

/// The plans in the form of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    builds: Vec<PlanReport<'a>>,
}

#[derive(Serialize)]
struct PlanReport<'a> {
    derivation: &'a str,
    outputs: BTreeMap<&'a str, &'a str>,
    result: &'static str,
    machine: Option<&'a str>,
    missing_outputs: Vec<&'a str>,
    missing_inputs: Vec<&'a str>,
    machines: Vec<MachineReport<'a>>,
}

#[derive(Serialize)]
struct MachineReport<'a> {
    name: &'a str,
    port: u16,
    score: Option<f64>,
    /// Why it cannot take the build now.
    reason: Option<String>,
}

/// Prints the plans.
pub fn print(plans: &[Plan], is_json: bool) -> CommandResult {
    let mut out = io::stdout().lock();
    let printed = if is_json {
        let builds = plans.iter().map(plan_report).collect();
        write_json(&Report { version: JSON_VERSION, builds }, true, &mut out)
    } else {
        plans.iter().try_for_each(|plan| print_plan(plan, &mut out))
    };
    printed.map_err(|error| CommandError::output("the plans", &error))?;
    Ok(ExitStatus::Success)
}

fn print_plan(plan: &Plan, out: &mut impl Write) -> io::Result<()> {
    let derivation = &plan.derivation;
    if plan.missing_outputs.is_empty() {
        return writeln!(out, "{derivation}: nothing to build, the outputs are valid");
    }
    match &plan.explanation.verdict {
        Verdict::Machine(name) => writeln!(out, "{derivation}: would be built on {name}")?,
        _ => writeln!(out, "{derivation}: would wait for a machine ({})", obstacles(&plan.explanation))?,
    }
    if !plan.missing_inputs.is_empty() {
        writeln!(out, "  guix-daemon of this machine would provide first:")?;
    }
    plan.missing_inputs.iter().try_for_each(|input| writeln!(out, "    {input}"))
}

fn plan_report(plan: &Plan) -> PlanReport<'_> {
    let is_valid = plan.missing_outputs.is_empty();
    let (result, machine) = match &plan.explanation.verdict {
        _ if is_valid => ("valid", None),
        Verdict::Machine(name) => ("would build", Some(name.as_str())),
        Verdict::Waits => ("would wait", None),
        Verdict::NoMatch => ("no machine", None),
    };
    let machines = plan.explanation.machines.iter().map(|machine| {
        let reason = match &machine.readiness {
            Readiness::Not(obstacle) => Some(obstacle.to_string()),
            _ => None,
        };
        MachineReport { name: &machine.name, port: machine.port, score: machine.score, reason }
    });
    PlanReport {
        derivation: plan.derivation.as_str(),
        outputs: outputs(plan),
        result,
        machine,
        missing_outputs: plan.missing_outputs.iter().map(StorePath::as_str).collect(),
        missing_inputs: plan.missing_inputs.iter().map(StorePath::as_str).collect(),
        machines: machines.collect(),
    }
}
