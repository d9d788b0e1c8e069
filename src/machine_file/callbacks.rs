//! Calls of the functions of a machine file, on the interpreter's thread.

use super::diagnostic::{Diagnostic, Severity};
use super::functions::{Candidate, Functions};
use super::loaded_file::LoadedFile;
use super::request::{LuaRequest, LuaStatus};
use super::settings::{ATTEMPTS_EXPECTED, Fallback, WAIT_EXPECTED, attempts_from_lua, wait_from_lua};
use crate::lua::values::{self, describe};
use crate::lua::{LuaError, SourceLocation};
use mlua::{Function, MultiValue, Table, Value};
use std::sync::Arc;
use std::time::Duration;

/// The number of characters of a reason that are shown.
const MAX_REASON: usize = 200;

/// A call of a function of the machine file.
#[derive(Clone, Debug)]
pub(super) enum Callback {
    Accepts(Candidate),
    Score(Candidate, LuaStatus),
    WhenBusy,
    WhenUnreachable,
    MaxAttempts,
    WaitForSlot,
}

impl Callback {
    /// Returns the field that has the function.
    pub fn field(&self) -> &'static str {
        match self {
            Callback::Accepts(_) => "accepts",
            Callback::Score(..) => "score",
            Callback::WhenBusy => "when_busy",
            Callback::WhenUnreachable => "when_unreachable",
            Callback::MaxAttempts => "max_attempts",
            Callback::WaitForSlot => "wait_for_slot",
        }
    }
}

/// A valid result.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum CallbackResult {
    Yes,
    No(String),
    Number(f64),
    Fallback(Fallback),
    Attempts(u32),
    /// `None`: as long as the daemon's limits allow.
    Wait(Option<Duration>),
}

/// Calls the functions that exist. Without a valid result there is a warning, and the default applies; an `accepts`
/// that fails refuses.
pub(super) fn call(
    file: &LoadedFile,
    request: &Arc<LuaRequest>,
    callback: &Callback,
) -> (Option<CallbackResult>, Vec<Diagnostic>) {
    let Some(functions) = &file.functions else { return (None, Vec::new()) };
    let mut caller = Caller { file, request, field: callback.field(), warnings: Vec::new() };
    let reply = match callback {
        Callback::Accepts(candidate) => caller.accepts(functions, *candidate),
        Callback::Score(candidate, status) => caller.score(functions, *candidate, status),
        Callback::WhenBusy => caller.fallback(functions.pool.when_busy.as_ref()),
        Callback::WhenUnreachable => caller.fallback(functions.pool.when_unreachable.as_ref()),
        Callback::MaxAttempts => caller.attempts(functions.pool.max_attempts.as_ref()),
        Callback::WaitForSlot => caller.wait(functions.pool.wait_for_slot.as_ref()),
    };
    (reply, caller.warnings)
}

struct Caller<'a> {
    file: &'a LoadedFile,
    request: &'a Arc<LuaRequest>,
    field: &'static str,
    warnings: Vec<Diagnostic>,
}

impl Caller<'_> {
    fn accepts(&mut self, functions: &Functions, candidate: Candidate) -> Option<CallbackResult> {
        let (machine, functions_of_machine) = functions.of(candidate)?;
        for function in [&functions.pool.accepts, &functions_of_machine.accepts].into_iter().flatten() {
            // Clients choose the names of derivations, and so they could make it fail.
            let values = match self.values(function, machine, None) {
                Ok(values) => values,
                Err(message) => return Some(CallbackResult::No(shorten(&format!("accepts failed: {message}")))),
            };
            match values.front().unwrap_or(&Value::Nil) {
                Value::Boolean(true) => {}
                Value::Boolean(false) => {
                    return Some(CallbackResult::No(reason(values.get(1), "accepts returned false")));
                }
                Value::Nil => {
                    self.report(
                        Severity::Warning,
                        function,
                        "expected true or false, found nothing; it counts as true",
                    );
                }
                other => {
                    let found = describe(other);
                    self.warn(function, &format!("expected true or false, found {found}; it counts as true"));
                }
            }
        }
        Some(CallbackResult::Yes)
    }

    fn score(&mut self, functions: &Functions, candidate: Candidate, status: &LuaStatus) -> Option<CallbackResult> {
        let (machine, functions_of_machine) = functions.of(candidate)?;
        let function = functions_of_machine.score.as_ref().or(functions.pool.score.as_ref())?;
        let values = self.values(function, machine, Some(status)).ok()?;
        match values.front().unwrap_or(&Value::Nil) {
            Value::Boolean(false) => Some(CallbackResult::No(reason(values.get(1), "score returned false"))),
            value => match values::number(value) {
                Some(number) if !number.is_nan() => Some(CallbackResult::Number(number)),
                _ => {
                    let found = describe(value);
                    self.warn(function, &format!("expected a number or false, found {found}; the default applies"));
                    None
                }
            },
        }
    }

    fn fallback(&mut self, function: Option<&Function>) -> Option<CallbackResult> {
        self.of_request(function, "\"wait\" or \"local\"", |value| {
            values::string(value).and_then(|name| Fallback::from_name(&name)).map(CallbackResult::Fallback)
        })
    }

    fn attempts(&mut self, function: Option<&Function>) -> Option<CallbackResult> {
        self.of_request(function, ATTEMPTS_EXPECTED, |value| attempts_from_lua(value).map(CallbackResult::Attempts))
    }

    fn wait(&mut self, function: Option<&Function>) -> Option<CallbackResult> {
        self.of_request(function, &format!("{WAIT_EXPECTED}, or nil"), |value| match value {
            Value::Nil => Some(CallbackResult::Wait(None)),
            value => wait_from_lua(value).map(|wait| CallbackResult::Wait(Some(wait))),
        })
    }

    /// Calls a function of the request alone. `read` converts its result, or returns `None` if it is invalid.
    fn of_request(
        &mut self,
        function: Option<&Function>,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<CallbackResult>,
    ) -> Option<CallbackResult> {
        let function = function?;
        let values = self.invoke(function, |request| Ok((request.clone(), Value::Nil, Value::Nil))).ok()?;
        let value = values.front().unwrap_or(&Value::Nil);
        let result = read(value);
        if result.is_none() {
            self.warn(function, &format!("expected {expected}, found {}; the default applies", describe(value)));
        }
        result
    }

    /// Calls a function. The error is the message of the function that failed; the warning is already recorded.
    fn values(
        &mut self,
        function: &Function,
        machine: &Table,
        status: Option<&LuaStatus>,
    ) -> Result<MultiValue, String> {
        let runtime = &self.file.runtime;
        self.invoke(function, |request| {
            let status = status.map(|status| status.to_lua(&runtime.lua, &runtime.context)).transpose()?;
            Ok((request.clone(), Value::Table(machine.clone()), status.map_or(Value::Nil, Value::Table)))
        })
    }

    fn invoke(
        &mut self,
        function: &Function,
        arguments: impl FnOnce(&Table) -> mlua::Result<(Table, Value, Value)>,
    ) -> Result<MultiValue, String> {
        let (file, request) = (self.file, self.request);
        let context = &file.runtime.context;
        let defined = context.definition_of(function);
        let location = defined.map(|position| SourceLocation { file: context.path_of(&position), line: position.line });
        context.cancel_state.calling(location);
        let result = file.runtime.limited(|_| {
            let request = file.request(request)?;
            function.call(arguments(&request)?)
        });
        match result {
            Ok(values) => Ok(values),
            Err(error) => {
                let lua_error = LuaError::new(&error, context);
                let position = lua_error.position.clone().or_else(|| context.definition_of(function));
                let cause = lua_error.message.clone();
                let lua_error = LuaError { position, message: format!("{}: {cause}", self.field), ..lua_error };
                let warning = Diagnostic {
                    severity: Severity::Error,
                    field: Some(self.field.to_owned()),
                    ..Diagnostic::of_lua_error(lua_error, context)
                };
                let consequence = if self.field == "accepts" { "it counts as false" } else { "the default applies" };
                let message = format!("{}; {consequence}", warning.message);
                self.warnings.push(Diagnostic { message, ..warning });
                Err(cause)
            }
        }
    }

    fn warn(&mut self, function: &Function, message: &str) {
        self.report(Severity::Error, function, message);
    }

    fn report(&mut self, severity: Severity, function: &Function, message: &str) {
        let context = &self.file.runtime.context;
        let (file, line) = match context.definition_of(function) {
            Some(position) => (context.path_of(&position), Some(position.line)),
            None => (context.file.display().to_string(), None),
        };
        let warning = Diagnostic::warning(file, format!("{}: {message}", self.field)).at(line);
        self.warnings.push(Diagnostic { severity, field: Some(self.field.to_owned()), ..warning });
    }
}

/// Returns the reason of a refusal.
fn reason(value: Option<&Value>, default: &str) -> String {
    let text = match value {
        Some(Value::String(text)) => text.to_string_lossy(),
        Some(Value::Nil) | None => return default.to_owned(),
        Some(other) => describe(other),
    };
    shorten(&text)
}

/// Returns the text as one line, shortened.
fn shorten(text: &str) -> String {
    text.chars().take(MAX_REASON).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
