//! An attempt on one machine: the order of its steps, and what follows when one of them fails.
//!
//! All effects go through [`AttemptSteps`], so that tests run this very code.

use log::warn;

use super::attempt_error::AttemptError;
use super::classify_failure::{BuildReport, classify_failure};
use crate::error::Failure;
use crate::machine::Machine;
use crate::status::MachineStatus;
use crate::store::path::StorePath;

/// The steps of an attempt on one machine. A step decides nothing.
pub trait AttemptSteps {
    /// A connection whose daemon has been greeted, with the stream to that daemon.
    type Link;
    /// A connection without a stream.
    type Connection;
    /// Complete outputs beside their final places.
    type Outputs;

    fn derivation(&self) -> &StorePath;

    fn machine(&self) -> &Machine;

    /// Returns whether the build was cancelled. Then a failing step says nothing about the machine.
    fn is_cancelled(&self) -> bool {
        false
    }

    /// Returns the recorded error of a machine in a back-off.
    fn back_off(&mut self) -> Option<String>;

    /// Connects over a session that an earlier build left open, else over a new one. The error is a message.
    fn open(&mut self) -> Result<Self::Link, String>;

    /// Returns whether the daemon has the options of the build.
    fn has_options(&self, link: &Self::Link) -> bool;

    /// Connects over a new session. The error is a message.
    fn connect(&mut self) -> Result<Self::Link, String>;

    /// Sends the options to the daemon.
    fn send_options(&mut self, link: &mut Self::Link) -> Result<(), AttemptError>;

    /// Makes a new session available to other builds.
    fn keep(&mut self, link: &Self::Link);

    /// Checks whether the machine signs with an authorized key, unless that is known.
    fn check_signing_key(&mut self, link: &mut Self::Link) -> Result<(), AttemptError>;

    fn upload(&mut self, link: &mut Self::Link) -> Result<(), AttemptError>;

    /// Builds. Returns the daemon's report if the build failed.
    fn build(&mut self, link: &mut Self::Link) -> Result<Option<BuildReport>, AttemptError>;

    /// Counts the inputs that the machine lacks.
    fn count_missing_inputs(&mut self, link: &mut Self::Link) -> Result<usize, AttemptError>;

    /// Probes the machine's status; `None` if that fails.
    fn probe(&mut self, link: &Self::Link) -> Option<MachineStatus>;

    fn download(&mut self, link: &mut Self::Link) -> Result<Self::Outputs, AttemptError>;

    /// Returns whether the session was open before this attempt.
    fn is_reused(&self, link: &Self::Link) -> bool;

    /// Makes the session unavailable to other builds.
    fn retire(&mut self, link: &Self::Link);

    /// Leaves the stream to other builds.
    fn release(&mut self, link: Self::Link) -> Self::Connection;

    /// Records that the machine responds.
    fn record_success(&mut self, status: MachineStatus);

    fn record_failure(&mut self, cause: &str);

    /// Records that the machine has the outputs.
    fn record_outputs(&mut self);

    /// Records the status of the machine, unless that is recent.
    fn refresh_status(&mut self, connection: &Self::Connection);

    /// Moves the outputs to their final places. The error is a message.
    fn place(&mut self, outputs: Self::Outputs) -> Result<(), String>;
}

/// Builds on a machine, over `link` if the machine was probed. The slot is released before the outputs are placed.
pub fn attempt<S: AttemptSteps>(steps: &mut S, slot: impl Sized, link: Option<S::Link>) -> Result<(), Failure> {
    let result = build_with_retry(steps, link);
    if steps.is_cancelled() {
        return Err(Failure::Cancelled);
    }
    if let Err(error) = &result
        && let Some(cause) = error.machine_fault()
    {
        // Other builds skip the machine, so they need not find out for themselves.
        steps.record_failure(cause);
    }
    drop(slot);
    let (outputs, reused) = result.map_err(|error| error.into_failure(&steps.machine().name))?;
    steps
        .place(outputs)
        .map_err(|error| if steps.is_cancelled() { Failure::Cancelled } else { Failure::Head(error) })?;
    if let Some(connection) = reused {
        // No build waits for this probe.
        steps.refresh_status(&connection);
    }
    Ok(())
}

/// The outputs, and the connection if it was open before.
type Built<S> = (<S as AttemptSteps>::Outputs, Option<<S as AttemptSteps>::Connection>);

/// Builds over the connection of the probe, else over a persistent one, else over a new one. If a new connection may
/// help, the build is retried once.
fn build_with_retry<S: AttemptSteps>(steps: &mut S, link: Option<S::Link>) -> Result<Built<S>, AttemptError> {
    let mut link = match link {
        Some(link) => link,
        None => connect(steps, S::open)?,
    };
    let mut result = build_over(steps, &mut link);
    if let Err(error) = &result
        && !steps.is_cancelled()
        && let Some(why) = error.retry_reason(steps.is_reused(&link))
    {
        // An owner that is only stopped may continue: no other build is to use it.
        steps.retire(&link);
        warn!("{why}; retrying over a new connection");
        link = connect(steps, S::connect)?;
        result = build_over(steps, &mut link);
    }
    let outputs = result?;
    let is_reused = steps.is_reused(&link);
    let connection = steps.release(link);
    if is_reused {
        return Ok((outputs, Some(connection)));
    }
    steps.refresh_status(&connection);
    Ok((outputs, None))
}

/// Connects in this way, unless another build has found the machine to fail.
fn connect<S: AttemptSteps>(
    steps: &mut S,
    how: fn(&mut S) -> Result<S::Link, String>,
) -> Result<S::Link, AttemptError> {
    match steps.back_off() {
        Some(cause) => Err(AttemptError::BackingOff(cause)),
        None => how(steps).map_err(AttemptError::Machine),
    }
}

fn build_over<S: AttemptSteps>(steps: &mut S, link: &mut S::Link) -> Result<S::Outputs, AttemptError> {
    if !steps.has_options(link) {
        steps.send_options(link)?;
    }
    steps.keep(link);
    steps.check_signing_key(link)?;
    steps.upload(link)?;
    if let Some(report) = steps.build(link)? {
        return Err(AttemptError::Reported(inspect_failure(steps, link, &report)?));
    }
    steps.record_outputs();
    steps.download(link)
}

/// Returns the failure that the daemon's report of a failed build means.
fn inspect_failure<S: AttemptSteps>(
    steps: &mut S,
    link: &mut S::Link,
    report: &BuildReport,
) -> Result<Failure, AttemptError> {
    let missing = steps.count_missing_inputs(link)?;
    // Without a status the report stands.
    let status = steps.probe(link);
    if let Some(status) = &status {
        steps.record_success(status.clone());
    }
    Ok(classify_failure(report, steps.derivation(), steps.machine(), status.as_ref(), missing))
}

#[cfg(test)]
mod tests;
