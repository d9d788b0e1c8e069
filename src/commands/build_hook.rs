//! `offload SYSTEM MAX-SILENT-TIME PRINT-BUILD-TRACE? BUILD-TIMEOUT`: the build hook.
//!
//! It answers requests one after the other until it accepts one; then this process builds it and ends. It evaluates the
//! machine file again for each request, so that a change takes effect immediately.

mod admission;

use std::collections::BTreeSet;
use std::error::Error;
use std::ffi::OsString;
use std::io::BufReader;
use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, Instant, UNIX_EPOCH};

use log::{debug, error, info, warn};

use self::admission::Admission;
use super::history::checkpoint_in_background;
use super::machines::machine_file;
use super::on_event;
use super::power::{by_process, reap_by_process};
use super::reporter::{Reporter, SharedWaits};
use super::signals;
use crate::build::LiveEnvironment;
use crate::engine::{Accepted, Engine, STATE_SUBDIRECTORY};
use crate::exit::ExitStatus;
use crate::failpoints::{Failpoint, failpoint};
use crate::hook::daemon_process::DaemonProcess;
use crate::hook::descriptors::{TooFewFiles, raise_open_files};
use crate::hook::{self, BuildLog, Descriptors, HookArguments, Reply, Request, paths, request};
use crate::local::Directories;
use crate::logging::{self, TemporaryLevels};
use crate::machine::Machine;
use crate::machine_file::Pool;
use crate::power::{Head, is_reaping_due};
use crate::scheduler::decision::hold;
use crate::scheduler::{Decision, Rejection, by_reason};
use crate::state::history::Outcome;
use crate::state::{LogLevel, StateDirectory, health};
use crate::timing::{self, Stopwatch};

/// The limit of different messages about requests that are remembered.
const MAX_REPORTED: usize = 1000;

/// The reason in the history of a request that [`Admission`] refuses.
const NO_DESCRIPTORS: &str = "guix-daemon has no room for another hook of this client";

/// Runs the hook with the daemon's four arguments.
pub fn run(arguments: &[OsString]) -> ExitStatus {
    let files = raise_open_files();
    let descriptors = match Descriptors::take() {
        Ok(descriptors) => descriptors,
        Err(error) => {
            eprintln!("offload: error: cannot set up the descriptors of the build hook: {error}");
            if let Err(error) = files {
                eprintln!("offload: error: {error}");
            }
            return ExitStatus::Failure;
        }
    };
    match descriptors.messages.try_clone() {
        Ok(messages) => logging::start_switchable(logging::pipe(messages), Some(Box::new(levels_of_this_head))),
        Err(error) => debug!("no log: {error}"),
    }
    // A panic would end the process with 101, which the daemon takes for a time-out of the build.
    let served = panic::catch_unwind(AssertUnwindSafe(|| serve(arguments, &descriptors, files)));
    let status = match served {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => {
            error!("{error}");
            ExitStatus::Failure
        }
        Err(_) => {
            error!("this is a bug in offload; please report it with the lines above");
            ExitStatus::Failure
        }
    };
    if let Err(error) = descriptors.finish() {
        debug!("standard output and error: {error}");
    }
    failpoint(Failpoint::Ending);
    status
}

/// Returns the levels that `offload log-level` has set.
fn levels_of_this_head() -> Option<TemporaryLevels> {
    let state = Directories::from_environment().ok()?.state.join(STATE_SUBDIRECTORY);
    let LogLevel { levels, until } = LogLevel::read(&StateDirectory::new(state), health::now())?;
    Some(TemporaryLevels { levels, until: UNIX_EPOCH + Duration::from_millis(until) })
}

/// Answers requests until one is accepted, or there are no more.
fn serve(
    arguments: &[OsString],
    descriptors: &Descriptors,
    files: Result<(), TooFewFiles>,
) -> Result<ExitStatus, Box<dyn Error>> {
    let arguments: Vec<String> = arguments.iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let arguments = HookArguments::parse(&arguments)?;
    let mut engine = Engine::new(Directories::from_environment()?, arguments);
    engine.persists_connections = true;
    engine.is_hook = true;
    engine.daemon = hook::main_daemon;
    engine.client = hook::client_user;
    engine.hand_events_to(on_event::launch);
    on_event::report_error(&engine);
    let store = &engine.directories.store;
    let mut reported = SeenMessages::default();
    let mut admission = Admission::new(&engine.state);
    let mut postponed: Option<Instant> = None; // The last one.
    let mut requests = BufReader::new(&descriptors.requests);
    while let Some(request) = request::read_request(&mut requests, store)? {
        failpoint(Failpoint::RequestRead);
        logging::refresh();
        if let Err(error) = &files {
            let error = error.to_string();
            if reported.is_new(&error) {
                error!("{error}");
            }
            Reply::Decline.send(&mut &descriptors.replies)?;
            engine.record_request(&request, Outcome::Declined, error);
            continue;
        }
        if let Some(reply) = admission.refuse(&request) {
            reply.send(&mut &descriptors.replies)?;
            let outcome = if reply == Reply::Decline { Outcome::Declined } else { Outcome::Postponed };
            engine.record_request(&request, outcome, NO_DESCRIPTORS.to_owned());
            continue;
        }
        timing::set_subject(request.derivation.as_str(), None);
        let mut stopwatch = Stopwatch::start();
        let pool = load_pool(&engine, &mut reported);
        stopwatch.lap("evaluate");
        let mut consideration = engine.consider(&pool, &request);
        consideration.starter = Some(by_process(&pool.path));
        let decision = consideration.decide_within(hold(postponed.map(|at| at.elapsed())));
        stopwatch.lap("choose");
        explain(&request, &consideration.machines, &decision, &mut reported);
        if decision.reply() == Reply::Accept {
            admission.accepted();
        }
        decision.reply().send(&mut &descriptors.replies)?;
        consideration.end_outdated_connections();
        let accepted = match decision {
            Decision::Accept(choice) => Accepted::Chosen(Box::new(choice)),
            Decision::AcceptAndWait(ticket) => Accepted::Waiting(ticket),
            Decision::Decline(reasons) => {
                let reason = summary(&consideration.machines, &reasons);
                engine.record_request(&request, Outcome::Declined, reason);
                continue;
            }
            Decision::Postpone(reasons) => {
                let reason = summary(&consideration.machines, &reasons);
                engine.record_request(&request, Outcome::Postponed, reason);
                postponed = Some(Instant::now());
                continue;
            }
        };
        failpoint(Failpoint::Replied);
        let inputs = paths::read_paths(&mut requests, store, "inputs")?;
        let outputs = paths::read_paths(&mut requests, store, "outputs")?;
        stopwatch.lap("read");
        failpoint(Failpoint::ListsRead);
        let log = BuildLog::new(descriptors.build_log.try_clone()?);
        let waits = SharedWaits::new(&engine.state, DaemonProcess::of_this_hook().pid(), &engine.arguments);
        let mut observer = Reporter::new(&engine.arguments, &descriptors.messages).sharing(waits);
        let cancel = signals::cancel_on_signals();
        let result = cancel.scope(|| consideration.offload(accepted, &inputs, &outputs, &log, &mut observer));
        // The daemon discards the unread rest of the log when this process ends.
        let mut stopwatch = Stopwatch::start();
        let unread = log.drain();
        stopwatch.lap("log");
        failpoint(Failpoint::LogRead);
        checkpoint_in_background(&engine.history());
        let head = Head { pool: &pool, state: &engine.state, store };
        if is_reaping_due(head) {
            reap_by_process(&pool.path);
        }
        if unread > 0 {
            warn!("the daemon left {unread} bytes of the build log unread");
        }
        return Ok(match result {
            Ok(()) => ExitStatus::Success,
            Err(failure) => {
                error!("{failure}");
                failure.status()
            }
        });
    }
    checkpoint_in_background(&engine.history());
    Ok(ExitStatus::Success)
}

/// Returns the pool; an empty one, with an error on standard error, if the machine file is broken.
fn load_pool(engine: &Engine, reported: &mut SeenMessages) -> Pool {
    let path = machine_file(None, &engine.directories);
    engine.load_pool(&path, None).unwrap_or_else(|report| {
        let report = report.to_string();
        if reported.is_new(&report) {
            error!("{report}");
        }
        Pool::empty(&path)
    })
}

/// Returns why a request is not accepted, for the history.
fn summary(machines: &[&Machine], reasons: &[Rejection]) -> String {
    let first = match (machines.len(), machines.len() - reasons.len().min(machines.len())) {
        (0, _) => Some("the pool has no machine".to_owned()),
        (_, 0) => None,
        // The others can take the build.
        (..) => Some("this machine has the best score".to_owned()),
    };
    first.into_iter().chain(by_reason(machines, reasons)).collect::<Vec<_>>().join("; ")
}

/// Reports why a request is not accepted, unless that was reported before.
fn explain(
    request: &Request,
    machines: &[&Machine],
    decision: &Decision<LiveEnvironment>,
    reported: &mut SeenMessages,
) {
    let (what, reasons) = match decision {
        Decision::Decline(reasons) => ("no build machine for", reasons),
        Decision::Postpone(reasons) => ("no build machine now for", reasons),
        Decision::Accept(_) | Decision::AcceptAndWait(_) => return,
    };
    let mut text = String::new();
    for line in by_reason(machines, reasons) {
        if reported.is_new(&line) {
            text.push_str(&format!("\n  {}", line.replace('\n', "\n  ")));
        }
    }
    if !text.is_empty() {
        info!("{what} '{}'{text}", request.derivation);
    }
}

/// The reported reasons for requests that were not accepted, so that each is reported only once.
#[derive(Default)]
struct SeenMessages(BTreeSet<String>);

impl SeenMessages {
    /// Returns whether this is new. Reasons with changing numbers are always new, and are not worth much memory.
    fn is_new(&mut self, text: &str) -> bool {
        if self.0.len() >= MAX_REPORTED {
            self.0.clear();
        }
        self.0.insert(text.to_owned())
    }
}
