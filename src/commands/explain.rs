//! `offload explain (DRV… | --system SYSTEM [--features F,…])`: predicts the machines of builds, with reasons.
//!
//! It lists every machine with its score or the exact reason why it is rejected, in the order in which they would be
//! tried, and then the reply to the daemon. The facts come from the records that all hooks share; only `--probe`
//! contacts the machines themselves. It assumes that the daemon offers to build locally what its system can.
//!
//! With `--json` everything is one object: `version` (1), `file`, `request` (`system`, `features`, `derivation` or
//! null; `input_bytes`, `expected_seconds` and `expected_output_bytes`, null if unknown), `machines` (`name`, `port`, `score`
//! or null, `verdict`: `ready`, `unknown` or `rejected`, `reason` or null, `estimate` of the time until the outputs would be
//! here, in `seconds`, with its parts `starting`, `waiting`, `sending`, `building` and `retrieving`, and whether it is `learned` from
//! the history; `holders` of its slots, `failures` and `drained` as recorded or null, `substitutes`: the recorded `rate` of its
//! substitute servers and their `failures`, `transfer`: what would be `fetched` by the machine and `sent` to it, with
//! `--probe` and a derivation whose inputs are in the store), `head` (the score of the head itself, or
//! null), `head_estimate` (if the score of the head is `offload.soonest`), `reply` (`accept`, `decline` or `postpone`),
//! `machine` (the name of the one that would be chosen, or null), `ahead` (how many builds are ahead in the queue, or
//! null) and `outcome` (in words). For several builds, `builds` has such objects without `version` and `file`. Each build
//! is explained as if it came now, alone.

mod builds;
mod forecast;
mod plan;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use clap::builder::{OsStringValueParser, TypedValueParser};
use log::debug;
use serde::Serialize;

use forecast::{forecast, inputs, transfer_note};
use report::{BuildReport, EstimateSummary, Explained, RequestSummary, Word};

use super::contact;
use super::failure::{CommandError, CommandResult};
use super::machines::{MachineFileArgs, failure_count, machine_file, substitute_note};
use super::selection::{is_machine_file, named_once};
use super::terminal::{HumanDuration, Terminal, write_json};
use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::hook::Request;
use crate::local::Directories;
use crate::machine::Machine;
use crate::machine_file::{FoundRequestFacts, Pool};
use crate::scheduler::matching::mismatch;
use crate::scheduler::{Explanation, Readiness, Reason};
use crate::state::health::{self, Time};
use crate::state::{Drain, HealthRecord, Slots, StateDirectory, SubstituteRecord};
use crate::store::path::StorePath;
use crate::text::printable;
use crate::transfer::Forecast;

/// The version of the JSON form. It changes when a field is removed or changes its meaning; new fields may appear.
const JSON_VERSION: u32 = 1;

/// The longest reason for a rejection, in bytes.
const MAX_REASON_BYTES: usize = 8 << 10;

/// A placeholder for a missing derivation.
const NO_DERIVATION: &str = "00000000000000000000000000000000-none.drv";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The builds to explain: derivations, which end in .drv, or outputs in the store; with -, standard input has a list, as
    /// `guix build -d` prints it. Any other word with a `/`, or that ends in .lua, is the machine file.
    #[arg(value_name = "DRV", value_parser = OsStringValueParser::new().map(word), required_unless_present = "system")]
    words: Vec<Word>,
    #[command(flatten)]
    file: MachineFileArgs,
    /// Explain for any derivation of this system type.
    #[arg(long)]
    system: Option<String>,
    /// The required features, separated by commas.
    #[arg(long, value_delimiter = ',', requires = "system")]
    features: Vec<String>,
    /// The user whose command requests the build, for functions of the machine file.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Probe the machines instead of using their recorded status.
    #[arg(long)]
    probe: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Returns the machine file, if one is named.
    pub fn machine_file(&self) -> Option<&Path> {
        self.files().next().or(self.file.named())
    }

    /// Returns whether machines are contacted.
    pub fn probes(&self) -> bool {
        self.probe
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        self.words.iter().filter_map(|word| match word {
            Word::File(file) => Some(file.as_path()),
            Word::Build(_) => None,
        })
    }
}

fn word(word: OsString) -> Word {
    match word.to_str() {
        Some(text) if text.ends_with(".drv") || is_store_item(text) || !is_machine_file(&word) => {
            Word::Build(text.to_owned())
        }
        _ => Word::File(word.into()),
    }
}

/// Returns whether a word names an item of some store, such as `/gnu/store/…-hello-2.12`.
fn is_store_item(word: &str) -> bool {
    let hash = word.rsplit('/').next().and_then(|base| base.split_once('-')).map(|(hash, _)| hash);
    let is_hash = |hash: &str| hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_alphanumeric());
    word.starts_with('/') && !word.ends_with(".lua") && hash.is_some_and(is_hash)
}

/// The explanation of one build, in the form of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    file: String,
    #[serde(flatten)]
    build: &'a BuildReport<'a>,
}

/// The explanations of several builds, in the form of `--json`.
#[derive(Serialize)]
struct PlanReport<'a> {
    version: u32,
    file: String,
    builds: &'a [BuildReport<'a>],
}

/// Runs `offload explain`.
pub fn run(args: &Args, engine: &Engine) -> CommandResult {
    let file = named_once(args.files(), args.file.named())?;
    let requests = requests(args, &engine.directories)?;
    let path = machine_file(file, &engine.directories);
    if file.is_some() && matches!(path.try_exists(), Ok(false)) {
        return Err(CommandError::new(
            ExitStatus::MachineFile,
            format!("there is no machine file '{}'", path.display()),
        ));
    }
    let pool = engine.load_pool(&path, None).map_err(|report| CommandError::report(ExitStatus::MachineFile, report))?;
    let mut probed = BTreeSet::new();
    let builds: Vec<BuildReport> =
        requests.iter().map(|request| explain(args, engine, &pool, request, &mut probed)).collect();
    let file = path.display().to_string();
    let printed = match (&builds[..], args.json) {
        ([build], true) => print_json(&Report { version: JSON_VERSION, file, build }),
        (builds, true) => print_json(&PlanReport { version: JSON_VERSION, file, builds }),
        ([build], false) => print(build, &mut io::stdout().lock()),
        (builds, false) => plan::print(builds, &mut io::stdout().lock()),
    };
    printed.map_err(|error| CommandError::output("the explanation", &error))?;
    Ok(match builds.iter().all(|build| build.has_match) {
        // The log has the errors.
        _ if pool.has_failed_functions() => ExitStatus::MachineFile,
        true => ExitStatus::Success,
        false => ExitStatus::NoMatch,
    })
}

/// Explains one build. `probed` has the addresses of the machines that were probed for another one.
fn explain<'a>(
    args: &Args,
    engine: &'a Engine,
    pool: &'a Pool,
    request: &'a Request,
    probed: &mut BTreeSet<String>,
) -> BuildReport<'a> {
    let consideration = engine.consider(pool, request);
    if let Some(user) = &args.user {
        consideration.rules.change_request(|request| request.user = Some(user.clone()));
    }
    let machines = &consideration.machines;
    let forecasts = if args.probe {
        let new: Vec<&Machine> =
            machines.iter().copied().filter(|machine| !probed.contains(&machine.address())).collect();
        let matching = new.iter().filter(|machine| mismatch(machine, request).is_none());
        probed.extend(matching.map(|machine| machine.address()));
        probe(&new, request, engine)
    } else {
        BTreeMap::new()
    };
    let explanations = consideration.explain();
    let (reply, chosen) = consideration.predict();
    let explained = explanations.iter().map(|one| {
        let machine = machines[one.machine];
        let transfer = forecasts.get(&machine.address()).copied();
        let mark = match chosen == Some(one.machine) {
            true => '→',
            false if matches(one) => ' ',
            false => '✗',
        };
        Explained { transfer, mark, ..explained(machine, one, &engine.state) }
    });
    let explained = explained.collect();
    let chosen = chosen.map(|index| machines[index].name.as_str());
    let outcome = outcome(reply, chosen, consideration.may_build_locally(), &explanations);
    let FoundRequestFacts { input_bytes, expected_seconds, expected_output_bytes } = consideration.facts();
    let head = consideration.head_score();
    let head_estimate = head.and_then(|_| consideration.head_estimate());
    BuildReport {
        request: RequestSummary {
            system: &request.system,
            features: &request.features,
            derivation: args.system.is_none().then(|| request.derivation.as_str()),
            input_bytes,
            expected_seconds,
            expected_output_bytes,
        },
        machines: explained,
        head,
        head_estimated: head_estimate.map(|estimate| estimate.to_string()),
        head_estimate: head_estimate.map(EstimateSummary::from),
        reply,
        machine: chosen,
        ahead: (reply == "accept" && chosen.is_none()).then(|| ahead(&explanations)),
        outcome,
        has_match: explanations.iter().any(matches),
    }
}

/// Returns how many builds get a slot before this one, at the machine where they are fewest.
fn ahead(machines: &[Explanation]) -> usize {
    let counts = machines.iter().filter_map(|one| match one.verdict {
        Readiness::Not(Reason::NoSlot { ahead }) => Some(ahead),
        _ => None,
    });
    counts.min().unwrap_or(0)
}

/// Returns whether the machine may take the build, now or later.
fn matches(explanation: &Explanation) -> bool {
    !matches!(&explanation.verdict, Readiness::Not(reason) if !reason.is_for_now())
}

/// Returns what becomes of the build after this reply, for people. `is_local`: this machine may build it.
fn outcome(reply: &str, chosen: Option<&str>, is_local: bool, machines: &[Explanation]) -> String {
    let is_possible = |one: &Explanation| !matches!(one.verdict, Readiness::Not(_));
    let why = match () {
        () if machines.iter().any(is_possible) => "it has the best score",
        () if machines.iter().any(matches) => "no build machine can take it now",
        () => "no build machine matches",
    };
    match (reply, chosen) {
        ("accept", Some(name)) => format!("built on {name}"),
        ("accept", None) => match ahead(machines) {
            0 => "waits for a slot".to_owned(),
            1 => "waits for a slot: 1 build is ahead".to_owned(),
            count => format!("waits for a slot: {count} builds are ahead"),
        },
        ("postpone", _) => "waits: no build machine can take it now".to_owned(),
        _ if is_local => format!("built on this machine: {why}"),
        _ => format!("not built: {why}, and this machine does not build for its system"),
    }
}

/// Returns the requests to explain.
fn requests(args: &Args, directories: &Directories) -> Result<Vec<Request>, CommandError> {
    let usage = |message: &str| CommandError::new(ExitStatus::Usage, message);
    let requests = builds::requests(&args.words, directories, &mut io::stdin().lock())?;
    match (&args.system, requests.is_empty()) {
        (Some(system), true) => {
            let path = format!("{}/{NO_DERIVATION}", directories.store);
            let derivation = StorePath::parse(&directories.store, path.as_bytes()).map_err(CommandError::failure)?;
            let features = args.features.iter().filter(|feature| !feature.is_empty()).cloned().collect();
            Ok(vec![Request { wants_local: true, system: system.clone(), derivation, features }])
        }
        (None, false) => Ok(requests),
        (Some(_), false) => Err(usage("give derivations or --system, not both")),
        (None, true) => Err(usage("give a derivation or --system")),
    }
}

/// Probes all machines that match, concurrently, and records the results. Returns what would be transferred, by the
/// addresses of the machines, as far as it can be determined.
fn probe(machines: &[&Machine], request: &Request, engine: &Engine) -> BTreeMap<String, Forecast> {
    let inputs = inputs(request, engine).inspect_err(|error| debug!("no forecast: {error}")).ok();
    let forecasts = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for machine in machines.iter().filter(|machine| mismatch(machine, request).is_none()) {
            let (inputs, forecasts) = (&inputs, &forecasts);
            scope.spawn(move || {
                let probed = contact::contact(engine, machine)
                    .and_then(|link| contact::probe(engine, &link).map(|status| (link, status)));
                let link = match probed {
                    Ok((link, status)) => {
                        contact::record_works(engine, machine, status);
                        link
                    }
                    Err(error) => return contact::record_fails(engine, machine, &error),
                };
                if let Some(inputs) = inputs
                    && let Some(forecast) = forecast(engine, machine, link, inputs)
                {
                    forecasts.lock().unwrap_or_else(PoisonError::into_inner).insert(machine.address(), forecast);
                }
            });
        }
    });
    forecasts.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn explained<'a>(machine: &'a Machine, explanation: &Explanation, state: &StateDirectory) -> Explained<'a> {
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

fn print(report: &BuildReport<'_>, out: &mut impl Write) -> io::Result<()> {
    let terminal = Terminal::of_stdout();
    let features = if report.request.features.is_empty() { "none" } else { &report.request.features.join(", ") };
    writeln!(out, "system {}, required features: {features}", report.request.system)?;
    if report.machines.is_empty() {
        writeln!(out, "the machine file has no build machines")?;
    }
    for machine in &report.machines {
        print_machine(out, machine, &terminal)?;
    }
    if let Some(score) = report.head {
        writeln!(out, "  the head itself  score {score:.3}")?;
    }
    if let Some(estimate) = &report.head_estimated {
        writeln!(out, "    {}", terminal.wrap(INDENT, estimate))?;
    }
    writeln!(out, "→ {}", terminal.wrap(2, &report.outcome))
}

/// The column of the lines below a row.
const INDENT: usize = 4;

fn print_machine(out: &mut impl Write, machine: &Explained<'_>, terminal: &Terminal) -> io::Result<()> {
    let score = machine.score.map_or("-".to_owned(), |score| format!("{score:.3}"));
    let verdict = match (machine.verdict, &machine.reason) {
        ("ready", _) => "can take it".to_owned(),
        ("unknown", _) => "not checked recently; checked before use".to_owned(),
        (_, Some(reason)) => printable(reason, MAX_REASON_BYTES),
        (_, None) => String::new(),
    };
    let row = format!("{} {}:{}  score {score}  {verdict}", machine.mark, machine.name, machine.port);
    let mut lines = row.split('\n');
    // The first line begins two columns to the left of the others.
    let first = lines.next().unwrap_or_default();
    let has_room = terminal.width.is_none_or(|width| first.chars().count() <= width);
    writeln!(out, "{}", if has_room { first.to_owned() } else { terminal.wrap(INDENT, first) })?;
    lines.try_for_each(|line| writeln!(out, "    {}", terminal.wrap(INDENT, line)))?;
    let mut detail = |text: String| writeln!(out, "    {}", terminal.wrap(INDENT, &text));
    if let Some(estimate) = &machine.estimated {
        detail(estimate.clone())?;
    }
    for holder in machine.holders.iter().flatten() {
        let time = span(health::now().saturating_sub(holder.since.saturating_mul(1000)));
        detail(format!("a slot is held by process {} for {time}: {}", holder.pid, holder.derivation))?;
    }
    if let Some(failures) = &machine.failures {
        let since = span(health::now().saturating_sub(failures.since));
        detail(failure_count(failures.count, &since).to_string())?;
    }
    if let Some(until) = machine.drained.and_then(|drained| drained.until) {
        detail(format!("drained for {} more", span(until.saturating_sub(health::now()))))?;
    }
    if let Some(note) = substitute_note(&machine.substitutes) {
        detail(note.to_string())?;
    }
    if let Some(forecast) = machine.transfer {
        detail(transfer_note(forecast).to_string())?;
    }
    Ok(())
}

fn span(milliseconds: Time) -> HumanDuration {
    HumanDuration(milliseconds / 1000)
}

fn print_json(report: &impl Serialize) -> io::Result<()> {
    write_json(report, true, &mut io::stdout().lock())
}
