//! `offload metrics` prints metrics of the pool for Prometheus: the records of this head about each machine, and the totals
//! of the history. It contacts no machine.
//!
//! The counters are those of `history.db`: they grow from one run to the next, and start again from zero only if that
//! file was lost. No name of a derivation and no name of a user is a label, since there is no limit to their number.

mod exposition;
mod power;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use self::exposition::{Exposition, Metric, Samples, Writer, counter, gauge};
use super::as_user;
use super::atomic_file;
use super::failure::{CommandError, CommandResult};
use super::machine_records::{MachineRecord, machines};
use super::machines::{MachineFileArgs, load};
use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::permissions::User;
use crate::state::health;
use crate::state::history::{Outcome, PowerSummary, Total};
use crate::state::{Queue, StateDirectory};

/// The name of the file for node exporter, which reads those that end in .prom.
const TEXTFILE: &str = "offload.prom";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write the metrics to the file offload.prom in DIR, for the textfile collector of node exporter.
    #[arg(long, value_name = "DIR")]
    textfile: Option<PathBuf>,
    /// The format; with --textfile always prometheus.
    #[arg(long, value_enum, default_value_t = Exposition::Openmetrics)]
    format: Exposition,
    #[command(flatten)]
    file: MachineFileArgs,
}

impl Args {
    /// Returns the machine file, if one is named.
    pub fn machine_file(&self) -> Option<&Path> {
        self.file.named()
    }

    /// Returns whether only this process may be able to write the output.
    pub fn writes_file(&self) -> bool {
        self.textfile.is_some()
    }
}

/// Prints or writes the metrics.
pub fn run(args: &Args, engine: &Engine) -> CommandResult {
    let (_, pool) = load(args.machine_file(), engine)?;
    let totals = engine.history().totals().map_err(CommandError::failure)?;
    let power = engine.history().power_totals().map_err(CommandError::failure)?;
    let format = if args.writes_file() { Exposition::Prometheus } else { args.format };
    let text = text(&machines(&pool, &engine.state, health::now()), queued(&engine.state), (&totals, &power), format);
    finish(args, &text)
}

/// Works like [`run`], but has a process of `user` collect the metrics, and only writes the file itself.
pub fn run_as(user: &User, args: &Args) -> CommandResult {
    let mut command = as_user::command(user);
    command.args(["metrics", "--format=prometheus"]);
    if let Some(file) = args.machine_file() {
        command.arg("--machine-file").arg(file);
    }
    let ended = as_user::output(&mut command);
    let (status, printed) =
        ended.map_err(|cause| CommandError::failure(format!("cannot run this as {}: {cause}", user.name)))?;
    match (status.code(), String::from_utf8(printed)) {
        (Some(0), Ok(text)) => finish(args, &text),
        // It has printed why.
        (code, _) => Ok(ExitStatus::from_code(code)),
    }
}

fn finish(args: &Args, text: &str) -> CommandResult {
    match &args.textfile {
        Some(directory) => atomic_file::write_for_all(&directory.join(TEXTFILE), text).map_err(|cause| {
            CommandError::failure(format!("cannot write a file in '{}': {cause}", directory.display()))
        })?,
        None => io::stdout()
            .lock()
            .write_all(text.as_bytes())
            .map_err(|error| CommandError::output("the metrics", &error))?,
    }
    Ok(ExitStatus::Success)
}

/// Returns the number of builds that wait for a slot.
fn queued(state: &StateDirectory) -> usize {
    Queue::of(state).and_then(|queue| queue.records(health::now())).map_or(0, |records| records.len())
}

/// Returns the text of all metrics.
fn text(
    machines: &[MachineRecord],
    queued: usize,
    (totals, power): (&[Total], &[PowerSummary]),
    format: Exposition,
) -> String {
    let mut writer = Writer::new(format);
    write_machines(machines, &mut writer);
    writer.add(
        &gauge("offload_queued_builds", "", "Accepted builds that wait for a slot."),
        [(Vec::new(), queued as f64)],
    );
    write_totals(totals, &mut writer);
    power::write(machines, power, &mut writer);
    writer.finish()
}

fn write_machines(machines: &[MachineRecord], writer: &mut Writer) {
    let mut of_each = |metric: Metric, value: &dyn Fn(&MachineRecord) -> Option<f64>| {
        let sample = |machine| Some((vec![("machine", (machine as &MachineRecord).name.as_str())], value(machine)?));
        writer.add(&metric, machines.iter().filter_map(sample));
    };
    let truth = |is: bool| Some(f64::from(u8::from(is)));
    let seconds = |millis: u64| millis as f64 / 1000.0;
    of_each(gauge("offload_machine_up", "", "Whether the last contact with the machine succeeded."), &|machine| {
        // Without a contact, its state is unknown.
        (machine.failures > 0 || machine.last_contact.is_some()).then(|| f64::from(u8::from(machine.failures == 0)))
    });
    of_each(gauge("offload_machine_enabled", "", "Whether the machine file enables the machine."), &|machine| {
        truth(machine.is_enabled)
    });
    of_each(gauge("offload_machine_drained", "", "Whether the machine is drained."), &|machine| {
        truth(machine.is_drained)
    });
    of_each(gauge("offload_machine_slots", "", "Build slots of the machine."), &|machine| Some(machine.slots.into()));
    of_each(gauge("offload_machine_slots_taken", "", "Build slots that hooks of this head hold."), &|machine| {
        machine.taken.map(|taken| taken as f64)
    });
    of_each(gauge("offload_machine_failures", "", "Consecutive failures to use the machine."), &|machine| {
        Some(machine.failures.into())
    });
    of_each(
        gauge("offload_machine_back_off_seconds", "seconds", "Time for which hooks skip the machine from now on."),
        &|machine| Some(seconds(machine.back_off)),
    );
    let last = "Time of the last successful probe of the machine, in seconds since 1970.";
    of_each(gauge("offload_machine_last_contact_timestamp_seconds", "seconds", last), &|machine| {
        machine.last_contact.map(seconds)
    });
}

/// The outcomes that each machine with attempts has, if only with the number 0.
const ALWAYS_COUNTED: [Outcome; 4] = [Outcome::Built, Outcome::BuildFailed, Outcome::TimedOut, Outcome::MachineFailed];

fn write_totals(totals: &[Total], writer: &mut Writer) {
    let [mut attempts, mut requests, mut phases, mut bytes, mut fetched, mut last] =
        std::array::from_fn::<Samples<'_>, 6, _>(|_| Samples::new());
    for total in totals {
        let outcome = ("outcome", total.outcome.word());
        let Some(name) = &total.machine else {
            *requests.entry(vec![outcome]).or_default() += total.requests as f64;
            continue;
        };
        let machine = ("machine", name.as_str());
        // A counter that begins at 1 does not show its first increase.
        for outcome in ALWAYS_COUNTED {
            attempts.entry(vec![machine, ("outcome", outcome.word())]).or_default();
        }
        *attempts.entry(vec![machine, outcome]).or_default() += total.rows as f64;
        for (phase, millis) in [
            ("waiting", total.waiting),
            ("sending", total.sending),
            ("building", total.building),
            ("retrieving", total.retrieving),
            ("placing", total.placing),
        ] {
            *phases.entry(vec![machine, ("phase", phase)]).or_default() += millis as f64 / 1000.0;
        }
        for (direction, count) in
            [("sent", total.sent_bytes), ("fetched", total.substituted_bytes), ("retrieved", total.retrieved_bytes)]
        {
            *bytes.entry(vec![machine, ("direction", direction)]).or_default() += count as f64;
        }
        *fetched.entry(vec![machine]).or_default() += total.substituted_items as f64;
        let end = last.entry(vec![machine]).or_default();
        *end = end.max(total.last as f64 / 1000.0);
    }
    writer.add(&counter("offload_attempts", "", "Attempts to build on the machine, by outcome."), attempts);
    writer.add(&counter("offload_requests", "", "Requests that no machine took, by outcome."), requests);
    let help = "Time of the phases of attempts on the machine.";
    writer.add(&counter("offload_phase_seconds", "seconds", help), phases);
    let help = "Bytes of inputs sent to the machine, fetched by it from substitute servers, and of outputs retrieved.";
    writer.add(&counter("offload_transferred_bytes", "bytes", help), bytes);
    writer.add(
        &counter("offload_fetched_items", "", "Inputs that the machine fetched from substitute servers."),
        fetched,
    );
    let help = "Time of the last attempt on the machine, in seconds since 1970.";
    writer.add(&gauge("offload_last_attempt_timestamp_seconds", "seconds", help), last);
}

#[cfg(test)]
mod tests;
