//! The engine and its settings.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::functions;
use crate::engine;
use crate::events::pool::{PoolEvent, PoolListener};
use crate::hook::request::is_system;
use crate::hook::{HookArguments, own_system};
use crate::local::{Directories, DirectoryError, ImportConnections};
use crate::machine_file::Extend;
use crate::store::path::{PathError, StoreDir};

/// This machine, as the head of a pool of build machines.
///
/// A program makes one engine, loads machine files with it, and builds in the [`Pool`](super::Pool)s. An engine can be shared by
/// threads; clones are the same engine.
#[derive(Clone)]
pub struct Engine(pub(super) Arc<EngineState>);

pub(super) struct EngineState {
    /// The engine of the hook.
    pub(super) engine: engine::Engine,
    /// Functions of the program for machine files.
    pub(super) functions: Vec<Extend>,
    /// The connections through which outputs are registered.
    pub(super) imports: ImportConnections,
}

impl Engine {
    /// Returns a builder with the directories and the system type of this machine's daemon.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let engine = &self.0.engine;
        f.debug_struct("Engine")
            .field("directories", &engine.directories)
            .field("system", &engine.arguments.system)
            .finish_non_exhaustive()
    }
}

/// The settings of an [`Engine`].
///
/// By default they are those of guix-daemon: the directories that its environment variables name, else the usual ones.
#[must_use]
#[derive(Default)]
pub struct EngineBuilder {
    system: Option<String>,
    store: Option<PathBuf>,
    state: Option<PathBuf>,
    configuration: Option<PathBuf>,
    max_silent_time: Option<Duration>,
    build_timeout: Option<Duration>,
    closes_sessions: bool,
    functions: Vec<Extend>,
    listener: Option<PoolListener>,
}

impl EngineBuilder {
    /// Sets the system type of this machine, such as `x86_64-linux`. Default: that of this program.
    pub fn system(mut self, system: impl Into<String>) -> EngineBuilder {
        self.system = Some(system.into());
        self
    }

    /// Sets the store directory. Default: `/gnu/store`.
    pub fn store(mut self, directory: impl Into<PathBuf>) -> EngineBuilder {
        self.store = Some(directory.into());
        self
    }

    /// Sets the daemon's state directory, below which are its database, its socket and the state of this engine. Default:
    /// `/var/guix`.
    pub fn state(mut self, directory: impl Into<PathBuf>) -> EngineBuilder {
        self.state = Some(directory.into());
        self
    }

    /// Sets the daemon's configuration directory, which holds the signing key and the access-control list. Default:
    /// `/etc/guix`.
    pub fn configuration(mut self, directory: impl Into<PathBuf>) -> EngineBuilder {
        self.configuration = Some(directory.into());
        self
    }

    /// Sets the time without output after which a build fails, in whole seconds. Default: none.
    pub fn max_silent_time(mut self, limit: Duration) -> EngineBuilder {
        self.max_silent_time = Some(limit);
        self
    }

    /// Sets the time after which a build fails, in whole seconds; waiting for a machine counts. Default: none.
    pub fn build_timeout(mut self, limit: Duration) -> EngineBuilder {
        self.build_timeout = Some(limit);
        self
    }

    /// Sets whether SSH sessions stay open for the next build, as long as `keep_connection` of the machine file says.
    /// Default: true.
    pub fn keep_sessions(mut self, keep: bool) -> EngineBuilder {
        self.closes_sessions = !keep;
        self
    }

    /// Adds a global function for machine files.
    ///
    /// The argument is what Lua passes, the result what Lua gets, both by serde: a function of one argument takes a
    /// value, one of several a tuple, one of none `()`. An error is raised in Lua with its text, and so is a panic. The
    /// function runs on the thread of the interpreter, within the time limits of the machine file.
    pub fn function<A, R, E, F>(mut self, name: &str, function: F) -> EngineBuilder
    where
        A: DeserializeOwned,
        R: Serialize,
        E: std::fmt::Display,
        F: Fn(A) -> Result<R, E> + Send + Sync + 'static,
    {
        self.functions.push(functions::extend(name.to_owned(), function));
        self
    }

    /// Adds to the interpreter of each machine file before it is evaluated, with the functions of mlua. These functions can
    /// break the limits of the machine file.
    #[cfg(feature = "raw-lua")]
    pub fn lua(mut self, extend: impl Fn(&mlua::Lua) -> mlua::Result<()> + Send + Sync + 'static) -> EngineBuilder {
        self.functions.push(Arc::new(extend));
        self
    }

    /// Receives the events of the pools: builds that failed, machines that went down or came up, machines on demand that
    /// were started or stopped. They are those of this program: another process may have the event of a machine that both
    /// use. `receive` is called on any thread, and must return at once. `on_event` of a machine file is not called.
    pub fn on_event(mut self, receive: impl Fn(&PoolEvent) + Send + Sync + 'static) -> EngineBuilder {
        self.listener = Some(PoolListener::new(receive));
        self
    }

    /// Makes the engine. It reads the environment and opens nothing.
    pub fn build(self) -> Result<Engine, EngineError> {
        let mut directories = Directories::from_environment()?;
        if let Some(store) = self.store {
            directories.store = StoreDir::new(&store.to_string_lossy())?;
        }
        if let Some(state) = self.state {
            directories.database = state.join("db");
            directories.state = state;
        }
        directories.configuration = self.configuration.unwrap_or(directories.configuration);
        let system = self.system.unwrap_or_else(own_system);
        if !is_system(&system) {
            return Err(EngineError::System { system });
        }
        let arguments = HookArguments {
            max_silent_time: self.max_silent_time,
            build_timeout: self.build_timeout,
            ..HookArguments::without_limits(&system)
        };
        let mut engine = engine::Engine::new(directories, arguments);
        if let Some(listener) = self.listener {
            engine.state = engine.state.with_listener(listener);
        }
        engine.persists_connections = !self.closes_sessions;
        Ok(Engine(Arc::new(EngineState { engine, functions: self.functions, imports: ImportConnections::default() })))
    }
}

impl std::fmt::Debug for EngineBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineBuilder").field("functions", &self.functions.len()).finish_non_exhaustive()
    }
}

/// The reason why there is no engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A setting or an environment variable does not name a directory that can be used.
    #[error("a directory of the daemon: {0}")]
    Directory(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The system type is not in the form of Guix.
    #[error("'{system}' is not a system type such as x86_64-linux")]
    System {
        /// The system type.
        system: String,
    },
}

impl From<DirectoryError> for EngineError {
    fn from(error: DirectoryError) -> EngineError {
        EngineError::Directory(Box::new(error))
    }
}

impl From<PathError> for EngineError {
    fn from(error: PathError) -> EngineError {
        EngineError::Directory(Box::new(error))
    }
}
