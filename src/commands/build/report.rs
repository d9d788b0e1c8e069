//! The results of builds by hand, for people and as JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};

use log::{error, info, warn};
use serde::Serialize;

use super::error::{self, message, status};
use crate::commands::failure::CommandError;
use crate::commands::terminal::{HumanDuration, write_json};
use crate::embed::{Attempt, BuildError, Built, BuiltOn, Plan};
use crate::events::iec;
use crate::exit::ExitStatus;
use crate::store::path::StorePath;

/// The version of the JSON form. It changes when a field is removed or changes its meaning; new fields may appear.
pub const JSON_VERSION: u32 = 1;

/// What has become of a derivation.
pub enum BuildResult {
    Built(Success),
    Failed(BuildError),
    /// This other derivation, which it needs, was not built.
    Skipped(StorePath),
}

/// What is reported of a build that succeeded. It holds no connection to guix-daemon, as [`Built`] does.
pub struct Success {
    machine: BuiltOn,
    attempts: Vec<Attempt>,
    times: Times,
    bytes: Bytes,
}

impl From<Built> for Success {
    fn from(built: Built) -> Success {
        let times = Times {
            waiting: built.waiting.as_secs_f64(),
            sending: built.sending.as_secs_f64(),
            building: built.building.as_secs_f64(),
            fetching: built.fetching.as_secs_f64(),
            registering: built.registering.as_secs_f64(),
        };
        let bytes = Bytes { sent: built.sent, substituted: built.substituted, fetched: built.fetched };
        Success { machine: built.machine, attempts: built.attempts, times, bytes }
    }
}

/// The results in the form of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    builds: Vec<BuildReport<'a>>,
}

#[derive(Default, Serialize)]
struct BuildReport<'a> {
    derivation: &'a str,
    outputs: BTreeMap<&'a str, &'a str>,
    result: &'static str,
    machine: Option<&'a str>,
    error: Option<String>,
    hint: Option<&'a str>,
    kept: Option<&'a str>,
    attempts: Vec<AttemptReport<'a>>,
    times: Option<Times>,
    bytes: Option<Bytes>,
}

#[derive(Serialize)]
struct AttemptReport<'a> {
    machine: &'a str,
    failure: Option<&'a str>,
}

/// Seconds.
#[derive(Clone, Copy, Serialize)]
struct Times {
    waiting: f64,
    sending: f64,
    building: f64,
    fetching: f64,
    registering: f64,
}

#[derive(Clone, Copy, Serialize)]
struct Bytes {
    sent: u64,
    substituted: u64,
    fetched: u64,
}

/// Reports the end of one build, to standard error.
pub fn report(derivation: &StorePath, result: &BuildResult) {
    match result {
        BuildResult::Built(Success { machine: BuiltOn::AlreadyValid, .. }) => {
            info!("the outputs of '{derivation}' are valid: nothing to build");
        }
        BuildResult::Built(Success { machine, times, bytes, .. }) => {
            let time = HumanDuration(times.sum() as u64);
            let (sent, fetched) = (iec(bytes.sent), iec(bytes.fetched));
            info!("'{derivation}' was built on '{machine}' in {time} ({sent} sent, {fetched} fetched)");
        }
        BuildResult::Failed(BuildError::Cancelled) => warn!("the build of '{derivation}' was cancelled"),
        BuildResult::Failed(error) => error::print(error),
        BuildResult::Skipped(input) => warn!("'{derivation}' is not built, because it needs '{input}'"),
    }
}

impl Times {
    fn sum(&self) -> f64 {
        self.waiting + self.sending + self.building + self.fetching + self.registering
    }
}

/// Prints the outputs, or all results as JSON.
pub fn print(plans: &[Plan], results: &[BuildResult], is_json: bool) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    let printed = if is_json {
        let builds = plans.iter().zip(results).map(|(plan, result)| build_report(plan, result)).collect();
        write_json(&Report { version: JSON_VERSION, builds }, true, &mut out)
    } else {
        let built = plans.iter().zip(results).filter(|(_, result)| matches!(result, BuildResult::Built(_)));
        built.flat_map(|(plan, _)| plan.outputs.values()).try_for_each(|output| writeln!(out, "{output}"))
    };
    printed.map_err(|error| CommandError::output("the outputs", &error))?;
    let failed = results.iter().filter_map(of_result).count();
    if results.len() > 1 && failed > 0 {
        error!("{failed} of {} derivations were not built", results.len());
    }
    Ok(())
}

/// Returns the exit status of the command.
pub fn status_of_all(results: &[BuildResult]) -> ExitStatus {
    ExitStatus::of_parts(&results.iter().filter_map(of_result).collect::<Vec<_>>())
}

/// Returns the status of a build that did not succeed.
fn of_result(result: &BuildResult) -> Option<ExitStatus> {
    match result {
        BuildResult::Built(_) => None,
        BuildResult::Failed(error) => Some(status(error)),
        BuildResult::Skipped(_) => Some(ExitStatus::Failure),
    }
}

fn build_report<'a>(plan: &'a Plan, result: &'a BuildResult) -> BuildReport<'a> {
    let outputs = outputs(plan);
    let report = BuildReport { derivation: plan.derivation.as_str(), outputs, ..BuildReport::default() };
    match result {
        BuildResult::Built(built) => {
            let (result, machine) = match &built.machine {
                BuiltOn::Machine(name) => ("built", Some(name.as_str())),
                BuiltOn::AlreadyValid => ("valid", None),
            };
            let attempts = attempts(&built.attempts);
            BuildReport { result, machine, attempts, times: Some(built.times), bytes: Some(built.bytes), ..report }
        }
        BuildResult::Failed(error) => {
            let report = BuildReport { error: Some(message(error)), hint: error.hint(), ..report };
            match error {
                BuildError::Cancelled => BuildReport { result: "cancelled", ..report },
                BuildError::Failed { machine, kept, .. } => {
                    BuildReport { result: "failed", machine: Some(machine), kept: kept.as_deref(), ..report }
                }
                BuildError::TimedOut { machine, kept, .. } => {
                    BuildReport { result: "timed out", machine: Some(machine), kept: kept.as_deref(), ..report }
                }
                BuildError::NoMachine { attempts: failed, .. } => {
                    BuildReport { result: "no machine", attempts: attempts(failed), ..report }
                }
                BuildError::Inputs { .. } => BuildReport { result: "inputs failed", ..report },
                BuildError::Derivation { .. } | BuildError::ThisMachine { .. } => {
                    BuildReport { result: "this machine failed", ..report }
                }
            }
        }
        BuildResult::Skipped(input) => {
            BuildReport { result: "skipped", error: Some(format!("it needs '{input}'")), ..report }
        }
    }
}

fn attempts(attempts: &[Attempt]) -> Vec<AttemptReport<'_>> {
    attempts.iter().map(|Attempt { machine, failure }| AttemptReport { machine, failure: failure.as_deref() }).collect()
}

/// Returns the outputs of a derivation by their ids.
pub fn outputs(plan: &Plan) -> BTreeMap<&str, &str> {
    plan.outputs.iter().map(|(id, path)| (id.as_str(), path.as_str())).collect()
}
