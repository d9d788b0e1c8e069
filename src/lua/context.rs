//! The context of functions called from Lua: the files, the limits, the errors deferred so far.

use super::cancellation::{CancelState, SourceLocation};
use super::message::plain;
use mlua::{Function, Lua};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;

/// The number of deferred errors after which the next one ends the evaluation.
const MAX_DEFERRED_ERRORS: usize = 100;
/// The most calls of a stack that are searched for a place in the user's files.
const MAX_STACK_LEVELS: usize = 100;

/// The context of functions called from Lua.
#[derive(Debug)]
pub(crate) struct Context {
    /// The directory of the main file.
    pub directory: PathBuf,
    /// Path of the main file.
    pub file: PathBuf,
    pub cancel_state: Arc<CancelState>,
    /// The user's chunks by the names that Lua uses in messages, with their files.
    chunks: RefCell<HashMap<String, PathBuf>>,
    /// Errors that the main file deferred; `None` once it has ended.
    deferred: RefCell<Option<Vec<DeferredError>>>,
    /// Memory limit in bytes.
    memory: Cell<usize>,
    /// The directory that `~` means.
    pub home: Option<PathBuf>,
    /// The directory in which `cached` stores values.
    pub cache: Option<PathBuf>,
    /// The target of messages that user code logs.
    pub log_target: &'static str,
    pub messages: Messages,
}

/// The place of what user code prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Messages {
    /// Standard error, which programs that user code starts have as well.
    StandardError,
    /// The log. Messages of programs are dropped.
    Log,
}

/// A location in one of the user's files, as Lua names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub chunk: String,
    pub line: u32,
}

/// An error after which the evaluation continued with nil, to find all errors in one run.
#[derive(Clone, Debug)]
pub(crate) struct DeferredError {
    pub message: String,
    pub hint: Option<String>,
    pub position: Option<Position>,
    /// The undefined global variable that was read.
    pub global: Option<String>,
}

/// The options of a runtime.
#[derive(Clone, Debug)]
pub(crate) struct RuntimeOptions {
    /// The main file, which the user wrote. Its modules are beside it.
    pub file: PathBuf,
    /// The directory that `~` means.
    pub home: Option<PathBuf>,
    /// The directory in which `cached` stores values.
    pub cache: Option<PathBuf>,
    /// Memory limit in bytes, once user code runs.
    pub memory: usize,
    /// The target of messages that user code logs.
    pub log_target: &'static str,
    /// The place of what user code prints.
    pub messages: Messages,
}

impl Context {
    pub fn new(options: RuntimeOptions, cancel_state: Arc<CancelState>) -> Context {
        let RuntimeOptions { file, home, cache, memory, log_target, messages } = options;
        let directory = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        Context {
            directory,
            file,
            cancel_state,
            chunks: RefCell::default(),
            deferred: RefCell::new(Some(Vec::new())),
            memory: Cell::new(memory),
            home,
            cache,
            log_target,
            messages,
        }
    }

    /// Returns the memory limit in bytes.
    pub fn memory(&self) -> usize {
        self.memory.get()
    }

    pub fn set_memory(&self, limit: usize) {
        self.memory.set(limit);
    }

    /// Returns whether the main file still runs.
    pub fn runs_main_file(&self) -> bool {
        self.deferred.borrow().is_some()
    }

    /// Returns the errors that the main file deferred, after it has ended.
    pub fn take_deferred(&self) -> Vec<DeferredError> {
        self.deferred.borrow_mut().take().unwrap_or_default()
    }

    /// Defers an error at the location of the caller while the main file runs; raises it afterwards.
    pub fn defer(&self, lua: &Lua, message: String, hint: Option<String>) -> mlua::Result<()> {
        self.defer_or_raise(DeferredError { message, hint, position: self.position(lua, 1), global: None })
    }

    /// Works like `defer`, with all parts given.
    pub fn defer_or_raise(&self, deferred: DeferredError) -> mlua::Result<()> {
        let deferred = DeferredError { message: plain(&deferred.message), ..deferred };
        match &mut *self.deferred.borrow_mut() {
            Some(list) if list.len() < MAX_DEFERRED_ERRORS => list.push(deferred),
            _ => return Err(mlua::Error::RuntimeError(deferred.message)),
        }
        Ok(())
    }

    /// Works like `position`, in the form for a message.
    pub fn location(&self, lua: &Lua, level: usize) -> Option<SourceLocation> {
        let position = self.position(lua, level)?;
        Some(SourceLocation { file: self.path_of(&position), line: position.line })
    }

    /// Parks this thread if the evaluation is cancelled.
    pub fn park_if_cancelled(&self, lua: &Lua) {
        if self.cancel_state.is_cancelled() {
            self.cancel_state.park(self.location(lua, 0));
        }
    }

    /// Registers a file under a short name; returns the name for Lua.
    pub fn add_chunk(&self, name: String, file: PathBuf) -> String {
        let chunk = format!("@{name}");
        self.chunks.borrow_mut().insert(name, file);
        chunk
    }

    /// Returns the file that is registered under this name.
    pub fn file_of(&self, chunk: &str) -> Option<PathBuf> {
        self.chunks.borrow().get(chunk).cloned()
    }

    /// Returns the file of a location, for a message.
    pub fn path_of(&self, position: &Position) -> String {
        let file = self.file_of(&position.chunk);
        file.map_or_else(|| position.chunk.clone(), |file| file.display().to_string())
    }

    /// Resolves a file name from user code: `~/` is the home directory, and a relative path starts at the directory of
    /// the main file.
    pub fn resolve(&self, name: &[u8]) -> PathBuf {
        match (name.strip_prefix(b"~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(OsStr::from_bytes(rest)),
            _ => self.directory.join(OsStr::from_bytes(name)),
        }
    }

    /// Returns Lua's name of the main file.
    pub fn main_chunk(&self) -> String {
        self.file.file_name().unwrap_or(self.file.as_os_str()).to_string_lossy().into_owned()
    }

    /// Returns the innermost location in one of the user's files, from `level` of the call stack outwards.
    pub fn position(&self, lua: &Lua, level: usize) -> Option<Position> {
        (level..level + MAX_STACK_LEVELS)
            .map_while(|level| lua.inspect_stack(level, |call| self.position_of(call)))
            .flatten()
            .next()
    }

    /// Returns the location of a function's definition, if it is in one of the user's files.
    pub fn definition_of(&self, function: &Function) -> Option<Position> {
        let info = function.info();
        let position = Position { chunk: info.short_src?, line: u32::try_from(info.line_defined?).ok()? };
        self.file_of(&position.chunk).is_some().then_some(position)
    }

    fn position_of(&self, call: &mlua::debug::Debug) -> Option<Position> {
        let line = call.current_line()?;
        let chunk = call.source().short_src?.into_owned();
        self.chunks.borrow().contains_key(&chunk).then_some(())?;
        Some(Position { chunk, line: u32::try_from(line).ok()? })
    }
}
