//! `offload SYSTEM MAX-SILENT-TIME PRINT-BUILD-TRACE? BUILD-TIMEOUT`: the build hook.
//!
//! Requests are answered one after the other until one is accepted; then this process builds it and ends. The machine file
//! is evaluated anew for each request, so that a change counts at once.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Arc;

use env_logger::Target;
use log::{Level, debug, error, info, log, warn};

use crate::error::with_causes;
use crate::events::Event;
use crate::exit::Status;
use crate::hook::{Arguments, BuildLog, Descriptors, Request, paths, request, trace};
use crate::job::{Job, Network};
use crate::local::{Directories, read_derivation};
use crate::logging;
use crate::machine::Machine;
use crate::policy::{self, DerivationReader, LoadContext, Pool, When};
use crate::remote::Connection;
use crate::schedule::matching::{builds_locally, mismatch};
use crate::schedule::{self, Circumstances, Decision, FileRules, Otherwise, Outcome, PassedOver};
use crate::state::waiting::{self, Place};
use crate::state::{Slot, StateDirectory};
use crate::store::path::{StoreDir, StorePath};
use crate::timing::Stopwatch;

/// How many waiting hooks there may be for each slot of the machines that match.
const WAITING_PER_SLOT: usize = 4;

/// Runs the hook with the daemon's four arguments.
pub fn run(arguments: &[OsString]) -> Status {
    let descriptors = match Descriptors::take() {
        Ok(descriptors) => descriptors,
        Err(error) => {
            eprintln!("offload: error: cannot set up the descriptors of the build hook: {error}");
            return Status::Failure;
        }
    };
    match descriptors.messages.try_clone() {
        Ok(messages) => logging::start(Target::Pipe(Box::new(messages))),
        Err(error) => debug!("no log: {error}"),
    }
    let status = serve(arguments, &descriptors).unwrap_or_else(|error| {
        error!("{error}");
        Status::Failure
    });
    if let Err(error) = descriptors.finish() {
        debug!("standard output and error: {error}");
    }
    status
}

/// Answers requests until one is accepted, or there are no more.
fn serve(arguments: &[OsString], descriptors: &Descriptors) -> Result<Status, Box<dyn Error>> {
    let arguments: Vec<String> = arguments.iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let arguments = Arguments::parse(&arguments)?;
    let directories = Directories::from_environment()?;
    let state = StateDirectory::new(directories.state.join("offload"));
    let mut hook = Hook { arguments, directories, state, said: String::new() };
    let mut requests = BufReader::new(&descriptors.requests);
    while let Some(request) = request::read_request(&mut requests, &hook.directories.store)? {
        let mut stopwatch = Stopwatch::start();
        let pool = hook.load_pool();
        stopwatch.lap("evaluate");
        let machines: Vec<&Machine> = pool.machines.iter().map(|entry| &entry.machine).collect();
        let reader = derivation_reader(&hook.directories.store, &request.derivation);
        let rules = FileRules::new(&pool, &request, &hook.arguments, Some(reader));
        let (decision, place) = hook.decide(&request, &rules, &machines);
        stopwatch.lap("choose");
        hook.explain(&request, &machines, &decision);
        decision.reply().send(&mut &descriptors.replies)?;
        let first = match decision {
            Decision::Accept(choice) => Some(choice),
            Decision::AcceptAndWait(_) => None,
            Decision::Decline(_) | Decision::Postpone(_) => continue,
        };
        let inputs = paths::read_paths(&mut requests, &hook.directories.store, "inputs")?;
        let outputs = paths::read_paths(&mut requests, &hook.directories.store, "outputs")?;
        stopwatch.lap("read");
        let log = BuildLog::new(descriptors.build_log.try_clone()?);
        let job = Job {
            request: &request,
            arguments: &hook.arguments,
            inputs: &inputs,
            outputs: &outputs,
            machines: &machines,
            rules: &rules,
            directories: &hook.directories,
            state: &hook.state,
            max_attempts: pool.settings.max_attempts as usize,
            wait_for_slot: pool.settings.wait_for_slot,
        };
        let result = job.run(first, place, &log, &mut hook.observer(&descriptors.messages));
        // The daemon throws away what it has not read of the log when this process ends.
        let mut stopwatch = Stopwatch::start();
        let unread = log.drain();
        stopwatch.lap("log");
        if unread > 0 {
            warn!("the daemon left {unread} bytes of the build log unread");
        }
        return Ok(match result {
            Ok(()) => Status::Success,
            Err(failure) => {
                error!("{failure}");
                failure.status()
            }
        });
    }
    Ok(Status::Success)
}

/// What stays the same for all requests of a process.
struct Hook {
    arguments: Arguments,
    directories: Directories,
    state: StateDirectory,
    /// The last message about a request that was not accepted, so that it is not said again each time.
    said: String,
}

type HookDecision = Decision<Slot, Connection>;

impl Hook {
    /// The pool; an empty one, said on standard error, where the machine file is broken.
    fn load_pool(&mut self) -> Pool {
        let path = machine_file(&self.directories);
        let context = LoadContext { cache: Some(self.state.path().join("cache")), ..LoadContext::default() };
        policy::load(&path, &context).unwrap_or_else(|report| {
            self.say_once(Level::Error, report.to_string());
            Pool::empty(&path)
        })
    }

    /// Decides, and takes a place among those that wait where the build will have to.
    fn decide(&self, request: &Request, rules: &FileRules<'_>, machines: &[&Machine]) -> (HookDecision, Option<Place>) {
        let network = Network::new(&self.state, &self.directories.store, request);
        let outcome = schedule::choose(machines, request, rules, &[], &network);
        let place = match outcome {
            Outcome::Busy(_) => self.waiting_place(request, machines),
            _ => None,
        };
        let circumstances = Circumstances {
            may_build_locally: request.wants_local && builds_locally(&self.arguments.system, &request.system),
            when_busy: otherwise(rules.ask(|decision| decision.when_busy())),
            when_unreachable: otherwise(rules.ask(|decision| decision.when_unreachable())),
            room_to_wait: place.is_some(),
        };
        (schedule::decide(outcome, &circumstances), place)
    }

    fn waiting_place(&self, request: &Request, machines: &[&Machine]) -> Option<Place> {
        let slots: usize = machines
            .iter()
            .filter(|machine| mismatch(machine, request).is_none())
            .map(|machine| machine.parallel_builds as usize)
            .sum();
        waiting::try_take(&self.state, slots.saturating_mul(WAITING_PER_SLOT)).unwrap_or_else(|error| {
            warn!("no place to wait for a slot: {error}");
            None
        })
    }

    /// Says why a request is not accepted.
    fn explain(&mut self, request: &Request, machines: &[&Machine], decision: &HookDecision) {
        let (what, reasons) = match decision {
            Decision::Decline(reasons) => ("no build machine for", reasons),
            Decision::Postpone(reasons) => ("no build machine now for", reasons),
            Decision::Accept(_) | Decision::AcceptAndWait(_) => return,
        };
        if machines.is_empty() {
            return;
        }
        let mut text = format!("{what} '{}'", request.derivation);
        for PassedOver { machine, reason } in reasons {
            text.push_str(&format!("\n  {}: {reason}", machines[*machine].name));
        }
        self.say_once(Level::Info, text);
    }

    /// Tells the daemon's client what happens to the build.
    fn observer(&self, mut messages: &File) -> impl FnMut(&Event<'_>) {
        let is_traced = self.arguments.print_build_trace;
        move |event| {
            if let Event::Building { derivation, machine } = event
                && is_traced
                && let Err(error) = trace::build_remote(&mut messages, derivation, machine)
            {
                debug!("cannot write a trace line: {error}");
            }
            match event {
                Event::Abandoned { .. } => warn!("{event}"),
                Event::Offloading { .. } | Event::Waiting { .. } => info!("{event}"),
                _ => debug!("{event}"),
            }
        }
    }

    fn say_once(&mut self, level: Level, text: String) {
        if self.said != text {
            log!(level, "{text}");
            self.said = text;
        }
    }
}

/// The machine file: `$OFFLOAD_MACHINE_FILE`, else `machines.lua` in the configuration directory.
fn machine_file(directories: &Directories) -> PathBuf {
    match env::var_os("OFFLOAD_MACHINE_FILE") {
        Some(path) => PathBuf::from(path),
        None => directories.configuration.join("machines.lua"),
    }
}

fn otherwise(when: When) -> Otherwise {
    match when {
        When::Local => Otherwise::Local,
        // A function has been asked by now.
        When::Wait | When::Function => Otherwise::Wait,
    }
}

/// What `request:read_derivation()` reads.
fn derivation_reader(store: &StoreDir, path: &StorePath) -> DerivationReader {
    let (store, path) = (store.clone(), path.clone());
    DerivationReader(Arc::new(move || {
        let derivation = read_derivation(&store, &path).map_err(|error| with_causes(&error))?;
        let text = |path: &StorePath| path.to_string();
        Ok(policy::Derivation {
            inputs: (derivation.input_derivations.iter())
                .map(|(path, outputs)| (text(path), outputs.iter().cloned().collect()))
                .collect(),
            sources: derivation.input_sources.iter().map(text).collect(),
            outputs: derivation.outputs.iter().map(|(id, output)| (id.clone(), text(&output.path))).collect(),
            builder: derivation.builder,
            args: derivation.args,
            env: derivation.env.into_iter().collect(),
        })
    }))
}
