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
//! is explained as if it came now, alone. `--format=recutils` prints the same in records (`records`).

mod builds;
mod forecast;
mod outcome;
mod records;
mod report;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use clap::builder::{OsStringValueParser, TypedValueParser};
use serde::Serialize;

use builds::{Word, word};
use outcome::{ahead, matches, outcome};
use report::{BuildReport, EstimateSummary, Explained, RequestSummary, explained};

use super::failure::{CommandError, CommandResult};
use super::format::{Format, FormatArgs};
use super::machines::{MachineFileArgs, machine_file};
use super::selection::named_once;
use super::terminal::write_json;
use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::hook::Request;
use crate::local::Directories;
use crate::machine::Machine;
use crate::machine_file::{FoundRequestFacts, Pool};
use crate::scheduler::matching::mismatch;
use crate::store::path::StorePath;

/// The version of the JSON form. It changes when a field is removed or changes its meaning; new fields may appear.
const JSON_VERSION: u32 = 1;

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
    #[command(flatten)]
    format: FormatArgs,
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
    let out = &mut io::stdout().lock();
    let printed = match (&builds[..], args.format.get()) {
        ([build], Format::Json) => write_json(&Report { version: JSON_VERSION, file, build }, true, out),
        (builds, Format::Json) => write_json(&PlanReport { version: JSON_VERSION, file, builds }, true, out),
        (builds, Format::Recutils) => records::write(builds, out),
        ([build], Format::Text) => text::print(build, out),
        (builds, Format::Text) => text::print_plan(builds, out),
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
        forecast::probe(&new, request, engine)
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
