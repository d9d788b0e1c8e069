//! The engine: what a program does that offloads builds, in four steps.
//!
//! 1. An [`Engine`] is made from the daemon's directories and the limits for builds.
//! 2. It loads a machine file into a [`Pool`], with functions of the program's own if it has some.
//! 3. It considers a request: [`Consideration::explain`] explains, [`Consideration::decide`] decides.
//! 4. [`Consideration::offload`] does what was accepted, and tells an observer what happens.
//!
//! The build hook is one such program (`commands/build_hook.rs`), `examples/embed.rs` is another.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::geteuid;

use crate::build::{Build, Chosen, FailOver, LiveEnvironment, OpenSessions, end_outdated};
use crate::error::{Failure, with_causes};
use crate::events::Observer;
use crate::hook::{BuildLog, HookArguments, Request};
use crate::local::{Directories, read_derivation};
use crate::machine::Machine;
use crate::machine_file::{DerivationReader, Diagnostic, Extend, LoadContext, Pool, Report, load};
use crate::permissions::ownership::{self, Control};
use crate::permissions::{User, files};
use crate::scheduler::decision::QUEUE_WAIT;
use crate::scheduler::matching::builds_locally;
use crate::scheduler::{self, Decision, Environment, Explanation, FileRules, Query, Rules};
use crate::shell::in_quotes;
use crate::state::{QueueTicket, StateDirectory};
use crate::store::path::StorePath;

/// The directory of all state, in the daemon's.
pub const STATE: &str = "offload";

/// Root's own cache, by the names of the directories of state.
const CACHE_OF_ROOT: &str = "/var/cache/offload";

/// This machine, as a head that offloads builds.
pub struct Engine {
    pub directories: Directories,
    /// What all hooks of this machine share.
    pub state: StateDirectory,
    /// The head's own system type, and the limits for builds.
    pub arguments: HookArguments,
    /// Whether connections are kept for the next build, by the processes that own them. That takes a program that has
    /// called [`serve_if_asked`](crate::remote::owner::serve_if_asked). Default false.
    pub persists_connections: bool,
    /// Finds a process with which kept connections end (pidfd_open(2)), such as the daemon whose hook this process is.
    /// Default: there is none.
    pub daemon: fn() -> Option<OwnedFd>,
}

impl Engine {
    /// An engine that keeps its state below the daemon's, in `offload`.
    pub fn new(directories: Directories, arguments: HookArguments) -> Engine {
        let state = StateDirectory::new(directories.state.join(STATE));
        Engine { directories, state, arguments, persists_connections: false, daemon: || None }
    }

    /// Evaluates a machine file. `extend` may add functions to the interpreter before that.
    pub fn load_pool(&self, path: &Path, extend: Option<Extend>) -> Result<Pool, Report> {
        self.check_writers(path)?;
        load(path, &LoadContext { extend, ..self.load_context() })
    }

    /// Root does not evaluate what the owner of the state can write, where that is another user.
    fn check_writers(&self, path: &Path) -> Result<(), Report> {
        if !geteuid().is_root() {
            return Ok(());
        }
        let (file, state) = (ownership::control(path), ownership::control(self.state.path()));
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

    /// What machine files are evaluated with.
    pub fn load_context(&self) -> LoadContext {
        LoadContext { cache: Some(self.cache()), ..LoadContext::default() }
    }

    /// Where values of the machine file are kept between processes: in the state, or, where another user could write them
    /// there and this process is root's, in a directory that is root's alone.
    fn cache(&self) -> PathBuf {
        let state = self.state.path();
        let cache = state.join("cache");
        match files::is_ours(&cache) {
            true => cache,
            false => Path::new(CACHE_OF_ROOT).join(state.strip_prefix("/").unwrap_or(state)),
        }
    }

    /// Considers a request. The functions of the machine file are asked within the time of one decision.
    pub fn consider<'a>(&'a self, pool: &'a Pool, request: &'a Request) -> Consideration<'a> {
        let (store, path) = (self.directories.store.clone(), request.derivation.clone());
        let read = move || read_derivation(&store, &path).map_err(|error| with_causes(&error));
        let rules = FileRules::new(pool, request, &self.arguments, Some(DerivationReader(Arc::new(read))));
        let machines = pool.machines.iter().map(|entry| &entry.machine).collect();
        Consideration { engine: self, pool, request, machines, rules }
    }
}

/// One request and the pool that may serve it.
pub struct Consideration<'a> {
    engine: &'a Engine,
    pool: &'a Pool,
    request: &'a Request,
    /// In the order of the machine file; others name a machine by its place in this list.
    pub machines: Vec<&'a Machine>,
    rules: FileRules<'a>,
}

/// What a build that was accepted begins with.
pub enum Accepted {
    /// A machine that takes it.
    Chosen(Box<Chosen>),
    /// A place among the builds that wait for a machine.
    Waiting(QueueTicket),
}

impl Consideration<'_> {
    /// Decides what becomes of the request. A machine that is chosen has given a slot.
    pub fn decide(&self) -> Decision<LiveEnvironment> {
        self.decide_within(QUEUE_WAIT)
    }

    /// The same; a request that would have to be postponed because too many builds wait is kept for so long at most.
    pub fn decide_within(&self, hold: Duration) -> Decision<LiveEnvironment> {
        scheduler::decide(&self.query(), self.may_build_locally(), hold, &self.env())
    }

    /// Every machine with its score, or why it is passed over.
    pub fn explain(&self) -> Vec<Explanation> {
        scheduler::explain(&self.query(), &self.env())
    }

    /// Ends the connections that were kept and must not be used any more: to machines that are gone, whose entries have
    /// changed, or whose keys have.
    pub fn end_outdated_connections(&self) {
        end_outdated(&self.engine.state, &self.engine.directories, &self.machines);
    }

    /// What would be decided: the word of the reply, and the place of the machine that would be chosen.
    pub fn predict(&self) -> (&'static str, Option<usize>) {
        scheduler::predict(&self.query(), self.may_build_locally(), &self.env())
    }

    /// The score of the head itself, if it takes part and could build this.
    pub fn head_score(&self) -> Option<f64> {
        if self.may_build_locally() { self.rules.head(&self.env().own_status()) } else { None }
    }

    /// Builds what was accepted: sends `inputs` (a closure) as far as they are missing there, has the derivation built,
    /// and puts `outputs` in their places in the store, for the daemon to register.
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
        let failover = FailOver {
            request: self.request,
            arguments: &self.engine.arguments,
            machines: &self.machines,
            rules: &self.rules,
            max_attempts: self.pool.settings.max_attempts as usize,
            wait_for_slot: self.pool.settings.wait_for_slot,
            wait_for_machine: self.pool.settings.wait_for_machine,
        };
        let &Engine { ref directories, ref state, persists_connections, daemon, .. } = self.engine;
        let job = Build { failover, inputs, outputs, directories, state, persists_connections, daemon };
        job.run(first, ticket, log, observer)
    }

    /// The world of this request.
    pub fn env(&self) -> LiveEnvironment {
        let Engine { state, directories, arguments, persists_connections, .. } = self.engine;
        let sessions = persists_connections.then(|| OpenSessions::new(state, directories, arguments));
        LiveEnvironment::new(state, &directories.store, self.request, sessions)
    }

    fn query(&self) -> Query<'_> {
        Query { request: self.request, machines: &self.machines, rules: &self.rules, excluded: &[], head: None }
    }

    /// Whether the daemon would build it at once, and the head's system can.
    fn may_build_locally(&self) -> bool {
        let own = self.pool.local.as_ref().and_then(|head| head.systems.as_ref());
        let can_build = builds_locally(&self.engine.arguments.system, &self.request.system)
            || own.is_some_and(|systems| systems.contains(&self.request.system));
        self.request.wants_local && can_build
    }
}
