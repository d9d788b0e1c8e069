//! Loading a machine file.

use super::diagnostic::{Diagnostic, Report};
use super::evaluate::{self, Evaluated};
use super::functions::Candidate;
use super::loaded_file::LoadedFile;
use super::machine_fields::{Entry, LocalMachine};
use super::settings::{Limits, Settings};
use crate::lua::{Interpreter, Messages, RuntimeOptions, Stopped, read_chunk};
use crate::machine::label;
use crate::permissions::passwd::home_directory;
use crate::permissions::{self, Need};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Adds an embedding program's own functions to an interpreter before the machine file is evaluated.
pub type Extend = Arc<dyn Fn(&mlua::Lua) -> mlua::Result<()> + Send + Sync>;

/// The context in which a machine file is evaluated.
#[derive(Clone, Default)]
pub struct LoadContext {
    /// The directory that `~` means; `None`: the home directory of the effective user.
    pub home: Option<PathBuf>,
    /// The directory in which `cached` stores values between processes; `None`: they are not stored.
    pub cache: Option<PathBuf>,
    /// The limits that apply if the file has none.
    pub limits: Limits,
    /// Functions of an embedding program.
    pub extend: Option<Extend>,
    /// Whether what the file prints goes to the log instead of standard error.
    pub logs_prints: bool,
}

impl fmt::Debug for LoadContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LoadContext { home, cache, limits, extend, logs_prints } = self;
        f.debug_struct("LoadContext")
            .field("home", home)
            .field("cache", cache)
            .field("limits", limits)
            .field("extend", &extend.is_some())
            .field("logs_prints", logs_prints)
            .finish()
    }
}

/// The contents of a machine file.
#[derive(Debug)]
pub struct Pool {
    /// The build machines, in the order of the file.
    pub machines: Vec<Entry>,
    /// The head itself, if it takes part.
    pub local: Option<LocalMachine>,
    pub settings: Settings,
    /// The warnings about the file.
    pub warnings: Vec<Diagnostic>,
    /// The machine file.
    pub path: PathBuf,
    /// The labels and the speeds of the machines, for what is learned from the history.
    pub speeds: Arc<HashMap<String, f64>>,
    /// The text and the context of the evaluation; `None` if there is no machine file.
    pub(super) source: Option<(Vec<u8>, LoadContext)>,
    /// The interpreter that holds the functions; `None` if there is no machine file.
    pub(super) interpreter: Option<Interpreter<LoadedFile>>,
    /// The warnings of decisions that were reported.
    pub(super) reported: Mutex<HashSet<String>>,
    /// Whether a function has failed or returned an invalid value.
    pub(super) has_failed: AtomicBool,
    /// Whether each decision reports its warnings, even if an earlier one has reported the same.
    pub repeats_warnings: bool,
}

impl Pool {
    /// Returns a pool without machines, like that of a machine file that does not exist.
    pub fn empty(path: &Path) -> Pool {
        Pool {
            machines: Vec::new(),
            local: None,
            settings: Settings::default(),
            warnings: Vec::new(),
            path: path.to_path_buf(),
            speeds: Arc::default(),
            source: None,
            interpreter: None,
            reported: Mutex::default(),
            has_failed: AtomicBool::new(false),
            repeats_warnings: false,
        }
    }

    /// Returns whether a function of the machine file gives the score of a candidate.
    pub fn has_score(&self, candidate: Candidate) -> bool {
        self.settings.has_score || self.own_score(candidate).0
    }

    /// Returns whether `offload.soonest` itself is the score of a candidate.
    pub fn uses_soonest(&self, candidate: Candidate) -> bool {
        match self.own_score(candidate) {
            (true, is_soonest) => is_soonest,
            (false, _) => self.settings.scores_soonest,
        }
    }

    fn own_score(&self, candidate: Candidate) -> (bool, bool) {
        let entry = |entry: &Entry| (entry.has_score, entry.scores_soonest);
        match candidate {
            Candidate::Machine(index) => self.machines.get(index).map(entry),
            Candidate::Local => self.local.as_ref().map(|local| (local.has_score, local.scores_soonest)),
        }
        .unwrap_or_default()
    }

    /// Returns whether a function of the machine file has failed or returned an invalid value.
    pub fn has_failed_functions(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    /// Forgets which warnings were reported.
    pub(super) fn forget_reported(&self) {
        if let Ok(mut reported) = self.reported.lock() {
            reported.clear();
        }
        self.has_failed.store(false, Ordering::Relaxed);
    }
}

/// Evaluates the machine file `path`. A file that does not exist gives an empty pool.
pub fn load(path: &Path, context: &LoadContext) -> Result<Pool, Report> {
    let file = path.display().to_string();
    let text = match read_chunk(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Pool::empty(path)),
        Err(error) => {
            let diagnostic = Diagnostic::error(file, format!("cannot be read: {error}"));
            return Err(match permissions::remedy::advice(path, Need::Read, &error) {
                Some(advice) => diagnostic.hint(advice).into(),
                None => diagnostic.into(),
            });
        }
    };
    load_text(path, text, context)
}

/// Evaluates `text` as the content of the machine file `path`, whether there is such a file or not.
pub fn load_text(path: &Path, text: Vec<u8>, context: &LoadContext) -> Result<Pool, Report> {
    let file = path.display().to_string();
    let failed = |message: String| Report::from(Diagnostic::error(file.clone(), message));
    let mut limits = context.limits;
    let options = RuntimeOptions {
        file: path.to_path_buf(),
        home: context.home.clone().or_else(home_directory),
        cache: context.cache.clone(),
        memory: limits.memory,
        log_target: "offload::machine_file",
        messages: if context.logs_prints { Messages::Log } else { Messages::StandardError },
    };
    let extend = context.extend.clone();
    let interpreter = Interpreter::start(move |cancel_state| {
        let make = || {
            let file = LoadedFile::new(options, cancel_state)?;
            if let Some(extend) = extend {
                extend(&file.runtime.lua)?;
            }
            Ok(file)
        };
        make().map_err(|error: mlua::Error| error.to_string())
    });
    let interpreter = match interpreter {
        Ok(Ok(interpreter)) => interpreter,
        Ok(Err(error)) => {
            let error = error.unwrap_or_else(|| "its thread has ended".to_owned());
            return Err(failed(format!("the Lua interpreter cannot be started: {error}")));
        }
        Err(error) => return Err(failed(format!("no thread for the Lua interpreter: {error}"))),
    };
    let stopped = |stopped: Stopped, limits: Limits| match stopped {
        Stopped::Late(location) => {
            let seconds = limits.evaluate.as_secs_f64();
            let message = format!("evaluation stopped: it took longer than {seconds} s (limits.evaluate)");
            let (file, line) =
                location.map_or((file.clone(), interpreter.line()), |location| (location.file, Some(location.line)));
            Report::from(Diagnostic::error(file, message).at(line))
        }
        Stopped::Before | Stopped::Gone | Stopped::Cancelled => {
            failed("evaluation ended the Lua interpreter".to_owned())
        }
    };
    let source = String::from_utf8_lossy(&text).into_owned();
    let mut budget = limits.evaluate;
    limits = interpreter
        .run(&mut budget, move |file| {
            let limits = evaluate::limits(&file.runtime, &source, limits);
            file.runtime.context.set_memory(limits.memory);
            limits
        })
        .map_err(|reason| stopped(reason, limits))?;
    let mut budget = limits.evaluate;
    let source = Some((text.clone(), context.clone()));
    let evaluated = interpreter
        .run(&mut budget, move |file| evaluate::evaluate(file, &text, limits))
        .map_err(|reason| stopped(reason, limits))??;
    let Evaluated { machines, local, settings, warnings } = evaluated;
    let interpreter = Some(interpreter);
    let pool = Pool::empty(path);
    let speed = |entry: &Entry| (label(&entry.machine.name, entry.machine.port), entry.machine.speed);
    let speeds = Arc::new(machines.iter().map(speed).collect());
    Ok(Pool { machines, local, settings, warnings, speeds, source, interpreter, ..pool })
}
