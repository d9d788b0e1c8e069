//! The engine: a program offloads builds with it in four steps.
//!
//! 1. The program makes an [`Engine`] from the daemon's directories and the limits for builds.
//! 2. The engine loads a machine file into a [`Pool`]. The program may add its own functions to the interpreter.
//! 3. The engine considers a request: [`Consideration::explain`] explains, [`Consideration::decide`] decides.
//! 4. [`Consideration::offload`] runs the accepted build, and reports its events to an observer.
//!
//! The build hook is one such program (`commands/build_hook.rs`). Other programs use the module `embed`.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::geteuid;
use rustix::system::uname;

use crate::build::{
    Build, Chosen, Expectations, FailOver, HistoryRecorder, LiveEnvironment, OnDemand, OpenSessions, Starter,
    collect_in_background, end_outdated,
};
use crate::error::{Failure, with_causes};
use crate::events::Observer;
use crate::hook::{BuildLog, HookArguments, Request};
use crate::local::{Directories, read_derivation};
use crate::machine::Machine;
use crate::machine_file::{
    Candidate, DerivationReader, Diagnostic, Extend, FoundRequestFacts, LoadContext, LuaRequest, Pool, QueueCounter,
    Report, RequestFacts, load,
};
use crate::permissions::ownership::{self, Control};
use crate::permissions::{User, files};
use crate::scheduler::decision::{self, FULL_QUEUE_HOLD};
use crate::scheduler::file_rules::log_warning;
use crate::scheduler::matching::builds_locally;
use crate::scheduler::soonest::head_estimate;
use crate::scheduler::{
    self, Decision, Environment, Estimate, Explanation, FileRules, Query, Reason, Rejection, Rules, WarningSink,
};
use crate::shared::SharedSlots;
use crate::shell::in_quotes;
use crate::state::history::{History, Outcome, Row};
use crate::state::{Queue, QueueTicket, StateDirectory, health};
use crate::store::path::StorePath;
use crate::transfer::{Destination, LeftForDaemon};

/// The directory of all state, inside the daemon's state directory.
pub const STATE_SUBDIRECTORY: &str = "offload";

/// Root's own cache. Below it are directories named after the state directories.
const ROOT_CACHE_DIRECTORY: &str = "/var/cache/offload";

/// This machine, as a head that offloads builds.
pub struct Engine {
    pub directories: Directories,
    /// The state that all hooks of this machine share.
    pub state: StateDirectory,
    /// The head's own system type, and the limits for builds.
    pub arguments: HookArguments,
    /// Whether SSH sessions stay open for the next build, in the processes that own them. The program must have called
    /// [`serve_if_asked`](crate::remote::owner::serve_if_asked). Default: false.
    pub persists_connections: bool,
    /// Whether the daemon waits for the end of this process. Then this process never waits for the disk to record a build.
    /// Default: false.
    pub is_hook: bool,
    /// Opens the process with which persistent connections end (pidfd_open(2)), such as the daemon whose hook this
    /// process is. Default: `None`.
    pub daemon: fn() -> Option<OwnedFd>,
    /// Returns the name of the user whose command requests the builds, if known. It is called once, when the first request
    /// is considered. Default: `None`.
    pub client: fn() -> Option<String>,
    /// The result of `client`.
    client_name: OnceLock<Option<String>>,
}

impl Engine {
    /// Makes an engine that stores its state in the directory `offload` of the daemon's state.
    pub fn new(directories: Directories, arguments: HookArguments) -> Engine {
        let state = StateDirectory::new(directories.state.join(STATE_SUBDIRECTORY));
        let (persists_connections, is_hook) = (false, false);
        let (daemon, client): (fn() -> _, fn() -> _) = (|| None, || None);
        let client_name = OnceLock::new();
        Engine { directories, state, arguments, persists_connections, is_hook, daemon, client, client_name }
    }

    /// Returns the history of this head.
    pub fn history(&self) -> History {
        if self.is_hook { History::of_hook(&self.state) } else { History::of(&self.state) }
    }

    /// Records that a request was not accepted, and why.
    pub fn record_request(&self, request: &Request, outcome: Outcome, reason: String) {
        let history = self.history();
        history.append(&[Row { reason: Some(reason), ..self.row(request, outcome) }]);
        // If no build runs, nothing else moves the rows.
        if history.has_many_new_rows() {
            collect_in_background(&history);
        }
    }

    /// Returns the name of the user whose command requests the builds, if known.
    pub fn client_name(&self) -> Option<String> {
        self.client_name.get_or_init(self.client).clone()
    }

    /// Returns a row with what all rows about a request have in common.
    fn row(&self, request: &Request, outcome: Outcome) -> Row {
        let row = Row::new(request.derivation.as_str(), &request.system, outcome, health::now());
        let head = uname().nodename().to_string_lossy().into_owned();
        Row { user: self.client_name(), head, ..row }
    }

    /// Returns the SSH sessions that builds of this head leave open for each other.
    pub fn sessions(&self) -> OpenSessions {
        OpenSessions::new(&self.state, &self.directories, &self.arguments, self.daemon)
    }

    /// Evaluates a machine file. `extend` may add functions to the interpreter before that.
    pub fn load_pool(&self, path: &Path, extend: Option<Extend>) -> Result<Pool, Report> {
        self.load_pool_with(path, &LoadContext { extend, ..self.load_context() })
    }

    /// Evaluates a machine file in this context.
    pub fn load_pool_with(&self, path: &Path, context: &LoadContext) -> Result<Pool, Report> {
        self.check_writers(path)?;
        load(path, context)
    }

    /// Refuses a machine file that unknown users can write, or the owner of the state, if this process is root and the
    /// owner is another user.
    pub fn check_writers(&self, path: &Path) -> Result<(), Report> {
        if !geteuid().is_root() {
            return Ok(());
        }
        let (file, state) = (ownership::control(path), ownership::control(self.state.path()));
        if let Ok(Control::Others { path: shared }) = &file
            && path.exists()
        {
            let shared = in_quotes(&shared.to_string_lossy());
            let message = format!("root does not evaluate it: other users can write to {shared}");
            let hint = "keep it where only its owner can write, for example in /etc/guix, with the mode 0644";
            return Err(Diagnostic::error(path.display().to_string(), message).hint(hint).into());
        }
        let (Ok(Control::User { path: owned, uid, gid }), Ok(Control::User { uid: owner, .. })) = (file, state) else {
            return Ok(());
        };
        if uid != owner {
            return Ok(());
        }
        let user = User::numbered(Path::new("/"), uid, gid).name;
        let owned = in_quotes(&owned.to_string_lossy());
        let message = format!("root does not evaluate it: {owned} belongs to {user}, as the state does");
        let hint = format!("run guix-daemon as {user}; or, as root: `chown root: {owned}`");
        Err(Diagnostic::error(path.display().to_string(), message).hint(hint).into())
    }

    /// Returns the context in which machine files are evaluated.
    pub fn load_context(&self) -> LoadContext {
        LoadContext { cache: Some(self.cache()), ..LoadContext::default() }
    }

    /// Returns the directory that caches values of the machine file between processes. It is in the state, unless this
    /// process is root and another user could write there: then it is a directory of root's alone.
    fn cache(&self) -> PathBuf {
        let state = self.state.path();
        let cache = state.join("cache");
        match files::is_ours(&cache) {
            true => cache,
            false => Path::new(ROOT_CACHE_DIRECTORY).join(state.strip_prefix("/").unwrap_or(state)),
        }
    }

    /// Considers a request. All functions of the machine file share the time limit of one decision, and their errors are
    /// logged.
    pub fn consider<'a>(&'a self, pool: &'a Pool, request: &'a Request) -> Consideration<'a> {
        self.consider_reporting(pool, request, Box::new(log_warning))
    }

    /// Returns the slots of a pool that other heads share. There is no connection yet.
    fn shared_slots(&self, pool: &Pool) -> Option<SharedSlots> {
        let shared = pool.settings.shared.as_ref()?;
        SharedSlots::new(&self.state, shared)
            .inspect_err(|error| log::warn!("builds do not count in the shared pool '{}': {error}", shared.name))
            .ok()
    }

    /// Considers a request, and reports the errors of the machine file's functions to `report`.
    pub fn consider_reporting<'a>(
        &'a self,
        pool: &'a Pool,
        request: &'a Request,
        report: WarningSink<'a>,
    ) -> Consideration<'a> {
        let (store, path) = (self.directories.store.clone(), request.derivation.clone());
        let read = move || read_derivation(&store, &path).map_err(|error| with_causes(&error));
        let state = self.state.clone();
        let waiting = move || Queue::length(&state).unwrap_or(0);
        let expectations = Expectations::new(&self.state, &self.directories, request, &pool.speeds);
        let known = expectations.clone();
        let request_for_rules = LuaRequest {
            user: self.client_name(),
            queue: Some(QueueCounter(Arc::new(waiting))),
            reader: Some(DerivationReader(Arc::new(read))),
            facts: Some(RequestFacts(Arc::new(move || request_facts(&known)))),
            ..LuaRequest::new(request, &self.arguments)
        };
        let rules = FileRules::new(pool, request_for_rules).reporting(report);
        let machines = pool.machines.iter().map(|entry| &entry.machine).collect();
        Consideration {
            engine: self,
            pool,
            request,
            machines,
            rules,
            expectations,
            ignores_drains: false,
            keep_failed: false,
            persists_connections: self.persists_connections,
            starter: None,
            shared: self.shared_slots(pool),
        }
    }
}

fn request_facts(expectations: &Expectations) -> FoundRequestFacts {
    let learned = expectations.learned();
    FoundRequestFacts {
        input_bytes: expectations.input_bytes(),
        expected_seconds: learned.seconds(),
        expected_output_bytes: learned.output_bytes().map(|bytes| bytes as u64),
    }
}

/// One request and the pool that may serve it.
pub struct Consideration<'a> {
    engine: &'a Engine,
    pool: &'a Pool,
    request: &'a Request,
    /// In the order of the machine file. Other functions name a machine by its index in this list.
    pub machines: Vec<&'a Machine>,
    /// The functions of the machine file.
    pub rules: FileRules<'a>,
    /// What is expected of the build.
    pub expectations: Expectations,
    /// Whether drained machines may take it. Default: false.
    pub ignores_drains: bool,
    /// Whether the machine keeps the directory of a failed build. Default: false.
    pub keep_failed: bool,
    /// Whether SSH sessions are shared with other builds. Default: as the engine.
    pub persists_connections: bool,
    /// Starts machines on demand. Default: `None`, they are not started.
    pub starter: Option<Starter>,
    /// The slots of the pool, if other heads share it.
    shared: Option<SharedSlots>,
}

/// The start of an accepted build.
pub enum Accepted {
    /// A machine takes it.
    Chosen(Box<Chosen>),
    /// It waits in the queue for a machine.
    Waiting(QueueTicket),
}

/// A build that no daemon has asked for.
pub struct Task<'a> {
    /// The rules of the consideration, or stricter ones.
    pub rules: &'a dyn Rules,
    /// The closure of the inputs of the build, including the derivation.
    pub inputs: &'a BTreeSet<StorePath>,
    /// The outputs that the store lacks.
    pub outputs: &'a BTreeSet<StorePath>,
    pub destination: &'a dyn Destination,
}

impl Consideration<'_> {
    /// Decides the reply to the request. If a machine is chosen, the decision holds one of its slots.
    pub fn decide(&self) -> Decision<LiveEnvironment> {
        self.decide_within(FULL_QUEUE_HOLD)
    }

    /// Decides like [`decide`](Self::decide), but waits up to `hold` before it postpones a request because the queue is
    /// full.
    pub fn decide_within(&self, hold: Duration) -> Decision<LiveEnvironment> {
        let decide = || scheduler::decide(&self.query(&self.rules), self.may_build_locally(), hold, &self.env());
        let Some(shared) = self.shared.as_ref().filter(|_| self.may_build_locally()) else { return decide() };
        let local = |reason: String| Decision::Decline(self.all_rejected(&reason));
        if let Some(reason) = shared.prefers_local() {
            return local(reason);
        }
        // The decision may be the one that finds the database down.
        let decision = decide();
        shared.prefers_local().map_or(decision, local)
    }

    /// Returns a rejection of each machine, because the pool that heads share has no database.
    fn all_rejected(&self, reason: &str) -> Vec<Rejection> {
        let rejected = |machine| Rejection { machine, reason: Reason::SlotsUnknown(reason.to_owned()) };
        (0..self.machines.len()).map(rejected).collect()
    }

    /// Returns every machine with its score, or the reason why it is rejected.
    pub fn explain(&self) -> Vec<Explanation> {
        self.explain_by(&self.rules)
    }

    /// Explains as [`explain`](Self::explain) does, by stricter rules.
    pub fn explain_by(&self, rules: &dyn Rules) -> Vec<Explanation> {
        scheduler::explain(&self.query(rules), &self.env())
    }

    /// Ends the persistent connections that must not be used any more: the machine file has no such machine now, or the
    /// machine's entry or its keys have changed.
    pub fn end_outdated_connections(&self) {
        end_outdated(&self.engine.state, &self.engine.directories, &self.machines);
    }

    /// Returns the reply's word that [`decide`](Self::decide) would give, and the index of the machine that it would
    /// choose.
    pub fn predict(&self) -> (&'static str, Option<usize>) {
        self.predict_by(&self.rules)
    }

    /// Predicts as [`predict`](Self::predict) does, by stricter rules.
    pub fn predict_by(&self, rules: &dyn Rules) -> (&'static str, Option<usize>) {
        scheduler::predict(&self.query(rules), self.may_build_locally(), &self.env())
    }

    /// Returns the score of the head itself, if it takes part and can build this.
    pub fn head_score(&self) -> Option<f64> {
        if self.may_build_locally() { decision::head_score(&self.rules, &self.env()) } else { None }
    }

    /// Returns when the head itself would have the outputs, if that is its score.
    pub fn head_estimate(&self) -> Option<Estimate> {
        let head = self.pool.local.as_ref().filter(|_| self.pool.uses_soonest(Candidate::Local))?;
        Some(head_estimate(&self.expectations.learned(), head.speed, self.env().own_status().load()))
    }

    /// Returns what is expected of the build, as functions of the machine file can read it.
    pub fn facts(&self) -> FoundRequestFacts {
        request_facts(&self.expectations)
    }

    /// Runs an accepted build. It sends those of `inputs` (a closure) that the machine lacks, builds the derivation
    /// there, and puts `outputs` into the store, for the daemon to register.
    pub fn offload(
        &self,
        accepted: Accepted,
        inputs: &BTreeSet<StorePath>,
        outputs: &BTreeSet<StorePath>,
        log: &BuildLog,
        observer: &mut dyn Observer,
    ) -> Result<(), Failure> {
        let (first, ticket) = match accepted {
            Accepted::Chosen(choice) => (Some(*choice), None),
            Accepted::Waiting(ticket) => (None, Some(ticket)),
        };
        let task = Task { rules: &self.rules, inputs, outputs, destination: &LeftForDaemon };
        self.run(first, ticket, &task, log, observer)
    }

    /// Waits for a machine, and builds there.
    pub fn build(&self, task: &Task<'_>, log: &BuildLog, observer: &mut dyn Observer) -> Result<(), Failure> {
        self.run(None, None, task, log, observer)
    }

    fn run(
        &self,
        first: Option<Chosen>,
        ticket: Option<QueueTicket>,
        task: &Task<'_>,
        log: &BuildLog,
        observer: &mut dyn Observer,
    ) -> Result<(), Failure> {
        let &Task { rules, inputs, outputs, destination } = task;
        // The daemon does not wait any more.
        self.rules.begin();
        let arguments = HookArguments { keep_failed: self.keep_failed, ..self.engine.arguments.clone() };
        let failover = FailOver {
            request: self.request,
            arguments: &arguments,
            machines: &self.machines,
            rules,
            max_attempts: self.rules.max_attempts(),
            wait_for_slot: self.rules.wait_for_slot(),
            wait_for_machine: self.pool.settings.wait_for_machine,
        };
        let &Engine { ref directories, ref state, daemon, .. } = self.engine;
        let &Consideration { ignores_drains, persists_connections, .. } = self;
        let job = Build {
            failover,
            inputs,
            outputs,
            destination,
            directories,
            state,
            user: self.user(),
            expectations: self.expectations.clone(),
            ignores_drains,
            on_demand: &self.on_demand(),
            shared: self.shared.clone(),
            persists_connections,
            daemon,
        };
        let history = self.engine.history();
        let mut recorder = HistoryRecorder::new(observer, &history);
        let result = job.run(first, ticket, log, &mut recorder);
        let rows = recorder.rows(&self.engine.row(self.request, Outcome::Built), &result);
        history.append(&rows);
        result
    }

    /// Returns the user whose command requests the build, if known.
    pub fn user(&self) -> Option<String> {
        self.rules.user()
    }

    /// Returns the environment of this request.
    pub fn env(&self) -> LiveEnvironment {
        let sessions = self.persists_connections.then(|| self.engine.sessions());
        let on_demand = self.on_demand();
        let state = &self.engine.state;
        let (user, shared) = (self.user(), self.shared.clone());
        LiveEnvironment::new(state, &self.expectations, user, sessions, self.ignores_drains, on_demand, shared)
    }

    fn on_demand(&self) -> OnDemand {
        let machines = self.machines.iter().filter(|machine| machine.on_demand.is_some());
        OnDemand {
            machines: machines.map(|machine| (*machine).clone()).collect(),
            limits: self.pool.settings.on_demand.clone(),
            start: self.starter.clone(),
        }
    }

    /// Returns the input of the decision about this request.
    pub fn query<'b>(&'b self, rules: &'b dyn Rules) -> Query<'b> {
        Query { request: self.request, machines: &self.machines, rules, excluded: &[], head: None }
    }

    /// Returns whether the daemon would build it at once and the head's system allows that.
    pub fn may_build_locally(&self) -> bool {
        let own = self.pool.local.as_ref().and_then(|head| head.systems.as_ref());
        let can_build = builds_locally(&self.engine.arguments.system, &self.request.system)
            || own.is_some_and(|systems| systems.contains(&self.request.system));
        self.request.wants_local && can_build
    }
}
