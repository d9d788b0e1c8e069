//! The failure that a failed build means, from the report of the machine's daemon and the state of the machine.

use super::classify::{FailureClass, classify, nearly_full};
use super::inspect_hint::inspect_hint;
use super::watch::BuildWatch;
use crate::error::Failure;
use crate::machine::Machine;
use crate::status::MachineStatus;
use crate::store::path::StorePath;

/// The report of a machine's daemon about a failed build.
pub struct BuildReport {
    /// The status and the message of the operation.
    pub(super) status: u32,
    pub(super) message: String,
    /// What the daemon sent during the build.
    pub(super) watch: BuildWatch,
}

/// Returns the failure that `report` means. `status` and `inputs_lost` were measured on the machine afterwards.
pub(super) fn classify_failure(
    report: &BuildReport,
    derivation: &StorePath,
    machine: &Machine,
    status: Option<&MachineStatus>,
    inputs_lost: usize,
) -> Failure {
    let BuildReport { status: code, message, watch } = report;
    let free_disk = status.and_then(|status| status.free_disk);
    let class = watch.with_answer(*code, message, |answer| classify(answer, free_disk, inputs_lost));
    let has_commands = status.is_some_and(|status| *status != MachineStatus::default());
    let kept = watch.kept();
    let with_hint = |message: String| message + &inspect_hint(machine, derivation, has_commands, kept.as_deref());
    let (derivation, machine) = (derivation.to_string(), machine.name.clone());
    let message = watch.explain(message);
    match class {
        FailureClass::Failed => Failure::Build { derivation, machine, message: with_hint(message), kept },
        FailureClass::TimedOut => Failure::TimedOut { derivation, machine, message: with_hint(message), kept },
        // The machine may be able to do this build later.
        FailureClass::Machine(Some(why)) => Failure::Machine { machine, cause: format!("{message}; {why}") },
        FailureClass::Machine(None) => {
            let full = nearly_full(free_disk).map_or(String::new(), |full| format!("; {full}"));
            Failure::Refused { machine, cause: message + &full }
        }
    }
}
