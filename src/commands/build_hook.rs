//! `offload SYSTEM MAX-SILENT-TIME PRINT-BUILD-TRACE? BUILD-TIMEOUT`: the build hook.
//!
//! Requests are answered one after the other until one is accepted; then this process builds it and ends. The machine file
//! is evaluated anew for each request, so that a change counts at once.

use std::collections::BTreeSet;
use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;

use env_logger::Target;
use log::{debug, error, info, warn};

use super::machines::{load_pool, machine_file};
use crate::error::with_causes;
use crate::events::Event;
use crate::exit::Status;
use crate::hook::{Arguments, BuildLog, Descriptors, Request, paths, request, trace};
use crate::job::{Job, Network};
use crate::local::{Directories, read_derivation};
use crate::logging;
use crate::machine::Machine;
use crate::policy::{DerivationReader, Pool};
use crate::schedule::matching::builds_locally;
use crate::schedule::{self, Decision, FileRules, PassedOver, Question};
use crate::state::StateDirectory;
use crate::store::path::{StoreDir, StorePath};
use crate::timing::Stopwatch;

/// How many different messages about requests are remembered.
const MAX_SAID: usize = 1000;

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
    let mut hook = Hook { arguments, directories, state, said: BTreeSet::new() };
    let mut requests = BufReader::new(&descriptors.requests);
    while let Some(request) = request::read_request(&mut requests, &hook.directories.store)? {
        let mut stopwatch = Stopwatch::start();
        let pool = hook.load_pool();
        stopwatch.lap("evaluate");
        let machines: Vec<&Machine> = pool.machines.iter().map(|entry| &entry.machine).collect();
        let reader = derivation_reader(&hook.directories.store, &request.derivation);
        let rules = FileRules::new(&pool, &request, &hook.arguments, Some(reader));
        let decision = hook.decide(&request, &pool, &rules, &machines);
        stopwatch.lap("choose");
        hook.explain(&request, &machines, &decision);
        decision.reply().send(&mut &descriptors.replies)?;
        let (first, place) = match decision {
            Decision::Accept(choice) => (Some(choice), None),
            Decision::AcceptAndWait(place) => (None, Some(place)),
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
    /// What has been said about requests that were not accepted, so that it is not said again each time.
    said: BTreeSet<String>,
}

impl Hook {
    /// The pool; an empty one, said on standard error, where the machine file is broken.
    fn load_pool(&mut self) -> Pool {
        let path = machine_file(None, &self.directories);
        load_pool(&path, &self.directories).unwrap_or_else(|report| {
            let report = report.to_string();
            if self.is_new(&report) {
                error!("{report}");
            }
            Pool::empty(&path)
        })
    }

    fn decide(
        &self,
        request: &Request,
        pool: &Pool,
        rules: &FileRules<'_>,
        machines: &[&Machine],
    ) -> Decision<Network> {
        let own = pool.local.as_ref().and_then(|head| head.systems.as_ref());
        let can_build = builds_locally(&self.arguments.system, &request.system)
            || own.is_some_and(|systems| systems.contains(&request.system));
        let world = Network::new(&self.state, &self.directories.store, request);
        let question = Question { request, machines, rules, excluded: &[], head: None };
        schedule::decide(&question, request.wants_local && can_build, &world)
    }

    /// Says why a request is not accepted, as far as that was not said before.
    fn explain(&mut self, request: &Request, machines: &[&Machine], decision: &Decision<Network>) {
        let (what, reasons) = match decision {
            Decision::Decline(reasons) => ("no build machine for", reasons),
            Decision::Postpone(reasons) => ("no build machine now for", reasons),
            Decision::Accept(_) | Decision::AcceptAndWait(_) => return,
        };
        let mut text = String::new();
        for PassedOver { machine, reason } in reasons {
            let (machine, reason) = (machines[*machine], reason.to_string());
            // Errors of the connection name the machine themselves.
            let names_itself = reason.starts_with(&machine.address());
            let line = if names_itself { reason } else { format!("{}: {reason}", machine.name) };
            if self.is_new(&line) {
                text.push_str(&format!("\n  {}", line.replace('\n', "\n  ")));
            }
        }
        if !text.is_empty() {
            info!("{what} '{}'{text}", request.derivation);
        }
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

    /// Whether this has not been said. What holds changing numbers is new each time and not worth much memory.
    fn is_new(&mut self, text: &str) -> bool {
        if self.said.len() >= MAX_SAID {
            self.said.clear();
        }
        self.said.insert(text.to_owned())
    }
}

/// What `request:read_derivation()` reads.
fn derivation_reader(store: &StoreDir, path: &StorePath) -> DerivationReader {
    let (store, path) = (store.clone(), path.clone());
    DerivationReader(Arc::new(move || read_derivation(&store, &path).map_err(|error| with_causes(&error))))
}
