//! Calling the functions of a machine file: on the interpreter's thread.

use super::decision::Candidate;
use super::diagnostic::{Diagnostic, Severity};
use super::evaluate::Functions;
use super::leash::Spot;
use super::raised::Raised;
use super::request::{Request, Status};
use super::runtime::Runtime;
use super::settings::When;
use super::shared::Position;
use super::values::{self, describe};
use mlua::{Function, MultiValue, Table, Value};
use std::rc::Rc;
use std::sync::Arc;

/// Characters of a reason that are passed on.
const MAX_REASON: usize = 200;

/// What is asked.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    Accepts(Candidate),
    Score(Candidate, Status),
    WhenBusy,
    WhenUnreachable,
}

impl Asked {
    /// The field that gives the function.
    pub fn field(&self) -> &'static str {
        match self {
            Asked::Accepts(_) => "accepts",
            Asked::Score(..) => "score",
            Asked::WhenBusy => "when_busy",
            Asked::WhenUnreachable => "when_unreachable",
        }
    }
}

/// A valid answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reply {
    Yes,
    No(String),
    Number(f64),
    When(When),
}

/// Calls what there is to call. Without a valid answer there is a warning, and the default holds.
pub(super) fn call(runtime: &Runtime, request: &Arc<Request>, asked: &Asked) -> (Option<Reply>, Vec<Diagnostic>) {
    let Some(functions) = &runtime.functions else { return (None, Vec::new()) };
    let mut caller = Caller { runtime, request, field: asked.field(), warnings: Vec::new() };
    let reply = match asked {
        Asked::Accepts(candidate) => caller.accepts(functions, *candidate),
        Asked::Score(candidate, status) => caller.score(functions, *candidate, status),
        Asked::WhenBusy => caller.when(functions.choices.when_busy.as_ref()),
        Asked::WhenUnreachable => caller.when(functions.choices.when_unreachable.as_ref()),
    };
    (reply, caller.warnings)
}

struct Caller<'a> {
    runtime: &'a Runtime,
    request: &'a Arc<Request>,
    field: &'static str,
    warnings: Vec<Diagnostic>,
}

impl Caller<'_> {
    fn accepts(&mut self, functions: &Functions, candidate: Candidate) -> Option<Reply> {
        let (machine, hooks) = functions.of(candidate)?;
        for function in [&functions.pool.accepts, &hooks.accepts].into_iter().flatten() {
            let Some(values) = self.values(function, machine, None) else { continue };
            match values.front().unwrap_or(&Value::Nil) {
                Value::Boolean(true) => {}
                Value::Boolean(false) => return Some(Reply::No(reason(values.get(1), "accepts says no"))),
                Value::Nil => self.warn(function, "expected true or false, found nothing; it counts as true"),
                other => {
                    let found = describe(other);
                    self.warn(function, &format!("expected true or false, found {found}; it counts as true"));
                }
            }
        }
        Some(Reply::Yes)
    }

    fn score(&mut self, functions: &Functions, candidate: Candidate, status: &Status) -> Option<Reply> {
        let (machine, hooks) = functions.of(candidate)?;
        let function = hooks.score.as_ref().or(functions.pool.score.as_ref())?;
        let values = self.values(function, machine, Some(status))?;
        match values.front().unwrap_or(&Value::Nil) {
            Value::Boolean(false) => Some(Reply::No(reason(values.get(1), "score says no"))),
            value => match values::number(value) {
                Some(number) if !number.is_nan() => Some(Reply::Number(number)),
                _ => {
                    let found = describe(value);
                    self.warn(function, &format!("expected a number or false, found {found}; the default holds"));
                    None
                }
            },
        }
    }

    fn when(&mut self, function: Option<&Function>) -> Option<Reply> {
        let function = function?;
        let values = self.invoke(function, |request| Ok((request.clone(), Value::Nil, Value::Nil)))?;
        let value = values.front().unwrap_or(&Value::Nil);
        let when = values::string(value).and_then(|name| When::from_name(&name));
        if when.is_none() {
            let found = describe(value);
            self.warn(function, &format!("expected \"wait\" or \"local\", found {found}; the default holds"));
        }
        when.map(Reply::When)
    }

    fn values(&mut self, function: &Function, machine: &Table, status: Option<&Status>) -> Option<MultiValue> {
        let lua = self.runtime.lua.clone();
        self.invoke(function, |request| {
            let status = status.map(|status| status.to_lua(&lua)).transpose()?;
            Ok((request.clone(), Value::Table(machine.clone()), status.map_or(Value::Nil, Value::Table)))
        })
    }

    fn invoke(
        &mut self,
        function: &Function,
        arguments: impl FnOnce(&Table) -> mlua::Result<(Table, Value, Value)>,
    ) -> Option<MultiValue> {
        let (runtime, request) = (self.runtime, self.request);
        let defined = definition_of(runtime, function);
        let spot = defined.map(|position| Spot { file: runtime.shared.path_of(&position), line: position.line });
        runtime.shared.leash.calling(spot);
        let result = runtime.limited(|_| {
            let request = runtime.request(request)?;
            function.call(arguments(&request)?)
        });
        match result {
            Ok(values) => Some(values),
            Err(error) => {
                let raised = Raised::new(&error, &runtime.shared, runtime.shared.memory());
                let position = raised.position.clone().or_else(|| definition_of(runtime, function));
                let raised = Raised { position, message: format!("{}: {}", self.field, raised.message), ..raised };
                let warning = Diagnostic {
                    severity: Severity::Warning,
                    field: Some(self.field.to_owned()),
                    ..raised.diagnostic(&runtime.shared)
                };
                let message = format!("{}; the default holds", warning.message);
                self.warnings.push(Diagnostic { message, ..warning });
                None
            }
        }
    }

    fn warn(&mut self, function: &Function, message: &str) {
        let shared = Rc::clone(&self.runtime.shared);
        let (file, line) = match definition_of(self.runtime, function) {
            Some(position) => (shared.path_of(&position), Some(position.line)),
            None => (shared.file.display().to_string(), None),
        };
        let warning = Diagnostic::warning(file, format!("{}: {message}", self.field)).at(line);
        self.warnings.push(Diagnostic { field: Some(self.field.to_owned()), ..warning });
    }
}

/// The reason that came with a refusal.
fn reason(value: Option<&Value>, default: &str) -> String {
    let text = match value {
        Some(Value::String(text)) => text.to_string_lossy(),
        Some(Value::Nil) | None => return default.to_owned(),
        Some(other) => describe(other),
    };
    text.chars().take(MAX_REASON).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Where a function was defined, if in one of the user's files.
fn definition_of(runtime: &Runtime, function: &Function) -> Option<Position> {
    let info = function.info();
    let position = Position { chunk: info.short_src?, line: u32::try_from(info.line_defined?).ok()? };
    runtime.shared.file_of(&position.chunk).is_some().then_some(position)
}
