//! Calls of the functions of a machine file, within the time limit of one decision.
//!
//! Every call has a result. If a function fails, takes too long or returns an invalid value, the default applies, and a
//! warning is logged once in the life of the process. An `accepts` that fails or takes too long refuses: clients choose
//! the names of derivations, and so they could make it fail.

use super::callbacks::{self, Callback, CallbackResult};
use super::diagnostic::{Diagnostic, Severity};
use super::functions::Candidate;
use super::pool::Pool;
use super::request::{LuaRequest, LuaStatus};
use super::settings::{DEFAULT_MAX_ATTEMPTS, Fallback, SlotWait};
use super::soonest::default_score;
use crate::lua::Stopped;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The result of `accepts`.
#[derive(Clone, Debug, PartialEq)]
pub enum Acceptance {
    Yes,
    /// The machine is refused, for this reason.
    No(String),
}

/// The result of `score`.
#[derive(Clone, Debug, PartialEq)]
pub enum Score {
    /// The higher the better. Always finite.
    Value(f64),
    /// The machine is refused, for this reason.
    No(String),
}

/// One decision about one request. All its calls of functions share the time limit [`super::Limits::decide`].
#[derive(Debug)]
pub struct RequestCallbacks<'a> {
    pool: &'a Pool,
    request: Arc<LuaRequest>,
    /// The rest of the time limit.
    budget: Cell<Duration>,
    warnings: RefCell<Vec<Diagnostic>>,
}

impl Pool {
    /// Begins a decision about `request`.
    pub fn callbacks(&self, request: LuaRequest) -> RequestCallbacks<'_> {
        let budget = Cell::new(self.settings.limits.decide);
        RequestCallbacks { pool: self, request: Arc::new(request), budget, warnings: RefCell::default() }
    }
}

impl RequestCallbacks<'_> {
    /// Returns whether the pool and the machine accept the build. Without functions, they do.
    pub fn accepts(&self, candidate: Candidate) -> Acceptance {
        let own = match candidate {
            Candidate::Machine(index) => self.pool.machines.get(index).is_some_and(|entry| entry.has_accepts),
            Candidate::Local => self.pool.local.as_ref().is_some_and(|local| local.has_accepts),
        };
        if !own && !self.pool.settings.has_accepts {
            return Acceptance::Yes;
        }
        match self.call(Callback::Accepts(candidate)) {
            Ok(Some(CallbackResult::No(why))) => Acceptance::No(why),
            Ok(_) => Acceptance::Yes,
            Err(why) => Acceptance::No(why),
        }
    }

    /// Returns the score of the machine. It may be called more than once.
    pub fn score(&self, candidate: Candidate, status: &LuaStatus) -> Score {
        let (own, speed) = match candidate {
            Candidate::Machine(index) => match self.pool.machines.get(index) {
                Some(entry) => (entry.has_score, entry.machine.speed),
                None => return Score::No("there is no such machine".to_owned()),
            },
            Candidate::Local => self.pool.local.as_ref().map_or((false, 1.0), |local| (local.has_score, local.speed)),
        };
        let default = Score::Value(default_score(speed, status.load));
        if !own && !self.pool.settings.has_score {
            return default;
        }
        match self.call(Callback::Score(candidate, status.clone())) {
            Ok(Some(CallbackResult::Number(number))) => Score::Value(number.clamp(f64::MIN, f64::MAX)),
            Ok(Some(CallbackResult::No(why))) => Score::No(why),
            _ => default,
        }
    }

    /// Returns what to do when every matching machine is busy.
    pub fn when_busy(&self) -> Fallback {
        self.fallback(self.pool.settings.when_busy, Fallback::Wait, Callback::WhenBusy)
    }

    /// Returns what to do when no matching machine can be reached.
    pub fn when_unreachable(&self) -> Fallback {
        self.fallback(self.pool.settings.when_unreachable, Fallback::Local, Callback::WhenUnreachable)
    }

    /// Returns the limit of attempts at the build.
    pub fn max_attempts(&self) -> u32 {
        self.pool.settings.max_attempts.unwrap_or_else(|| match self.call(Callback::MaxAttempts) {
            Ok(Some(CallbackResult::Attempts(attempts))) => attempts,
            _ => DEFAULT_MAX_ATTEMPTS,
        })
    }

    /// Returns how long the build may wait for a slot. `None`: as long as the daemon's limits allow.
    pub fn wait_for_slot(&self) -> Option<Duration> {
        match self.pool.settings.wait_for_slot {
            SlotWait::Unlimited => None,
            SlotWait::Limited(wait) => Some(wait),
            SlotWait::Function => match self.call(Callback::WaitForSlot) {
                Ok(Some(CallbackResult::Wait(wait))) => wait,
                _ => None,
            },
        }
    }

    /// Returns the request of the decision.
    pub fn request(&self) -> &LuaRequest {
        &self.request
    }

    /// Returns the warnings since the last call. Each warning is reported once in the life of the pool.
    pub fn take_warnings(&self) -> Vec<Diagnostic> {
        self.warnings.take()
    }

    fn fallback(&self, setting: Option<Fallback>, default: Fallback, callback: Callback) -> Fallback {
        setting.unwrap_or_else(|| match self.call(callback) {
            Ok(Some(CallbackResult::Fallback(fallback))) => fallback,
            _ => default,
        })
    }

    /// Calls a function, and returns its valid result, if any. The error is the reason why it could not be called.
    fn call(&self, callback: Callback) -> Result<Option<CallbackResult>, String> {
        let Some(interpreter) = self.pool.interpreter.as_ref() else { return Ok(None) };
        let (request, function) = (Arc::clone(&self.request), callback.field());
        let mut budget = self.budget.get();
        let answer = interpreter.run(&mut budget, move |file| callbacks::call(file, &request, &callback));
        self.budget.set(budget);
        let stopped = match answer {
            Ok((reply, warnings)) => {
                warnings.into_iter().for_each(|warning| self.warn(warning));
                return Ok(reply);
            }
            Err(stopped) => stopped,
        };
        let what = match &stopped {
            Stopped::Late(_) => {
                let seconds = self.pool.settings.limits.decide.as_secs_f64();
                format!("took longer than {seconds} s (limits.decide)")
            }
            Stopped::Before => "was not called: an earlier call did not return in time".to_owned(),
            Stopped::Cancelled => return Err("the build was cancelled".to_owned()),
            Stopped::Gone => "did not return: the Lua interpreter has ended".to_owned(),
        };
        self.warn_stopped(stopped, function, &what);
        Err(format!("{function} {what}"))
    }

    /// Warns that the functions are not called any more, unless that was reported.
    fn warn_stopped(&self, stopped: Stopped, function: &str, what: &str) {
        let location = match stopped {
            Stopped::Before | Stopped::Cancelled => return,
            Stopped::Late(location) => location,
            Stopped::Gone => None,
        };
        let main = self.pool.path.display().to_string();
        let (file, line) = location.map_or((main, None), |location| (location.file, Some(location.line)));
        let message = format!("{function}: {what}; the functions of this file are not called any more");
        self.warn(Diagnostic { field: Some(function.to_owned()), ..Diagnostic::error(file, message).at(line) });
    }

    fn warn(&self, warning: Diagnostic) {
        if warning.severity == Severity::Error {
            self.pool.has_failed.store(true, Ordering::Relaxed);
        }
        if let Ok(mut reported) = self.pool.reported.lock()
            && (reported.insert(warning.to_string()) || self.pool.repeats_warnings)
        {
            self.warnings.borrow_mut().push(warning);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_lowers_the_default_score() {
        assert_eq!(default_score(3.0, None), 3.0);
        assert_eq!(default_score(3.0, Some(2.0)), 1.0);
        assert_eq!(default_score(3.0, Some(-2.0)), 3.0);
    }
}
