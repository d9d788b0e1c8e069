//! Calls of the functions `start` and `stop` of a machine on demand.
//!
//! Each call has a time limit of its own, the machine's `boot_timeout` or `stop_timeout`, since it may run programs that
//! take minutes. Only a process that starts or stops a machine calls these functions, never one that decides.

use super::loaded_file::LoadedFile;
use super::on_demand::started_as;
use super::pool::{Pool, load_text};
use crate::lua::{LuaError, SourceLocation, Stopped};
use crate::machine::{Machine, StartedAs};
use mlua::{Function, Table, Value};
use std::time::Duration;

/// A function of `on_demand`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionFunction {
    Start,
    Stop,
}

impl ActionFunction {
    /// Returns the name of its field.
    pub fn field(self) -> &'static str {
        match self {
            ActionFunction::Start => "start",
            ActionFunction::Stop => "stop",
        }
    }
}

impl Pool {
    /// Calls a function of `on_demand` of a machine, and returns what `start` has returned. It must return within
    /// `timeout`. The error names the file and the line, if they are known.
    ///
    /// The file is evaluated again for each call: a function that does not return in time spoils its interpreter.
    pub fn call_on_demand(
        &self,
        machine: &Machine,
        function: ActionFunction,
        timeout: Duration,
    ) -> Result<StartedAs, String> {
        let name = function.field();
        let (text, context) = self.source.as_ref().ok_or_else(|| format!("{name}: there is no machine file"))?;
        let pool = load_text(&self.path, text.clone(), context).map_err(|report| report.to_string())?;
        let index = pool.machines.iter().position(|entry| entry.machine.address() == machine.address());
        let index = index.ok_or_else(|| format!("{name}: the machine file has no {} any more", machine.address()))?;
        let gone = || format!("{name}: the Lua interpreter has ended");
        let interpreter = pool.interpreter.as_ref().ok_or_else(gone)?;
        let mut budget = timeout;
        match interpreter.run(&mut budget, move |file| call(file, index, function)) {
            Ok(result) => result,
            Err(Stopped::Late(location)) => {
                let location = location.map_or(String::new(), |place| format!("{}:{}: ", place.file, place.line));
                Err(format!("{location}{name}: it did not return within {} s", timeout.as_secs_f64()))
            }
            Err(Stopped::Cancelled) => Err(format!("{name}: it was cancelled")),
            Err(Stopped::Before | Stopped::Gone) => Err(gone()),
        }
    }
}

/// Calls the function on the interpreter's thread.
fn call(file: &LoadedFile, machine: usize, function: ActionFunction) -> Result<StartedAs, String> {
    let field = function.field();
    let machine = file.functions.as_ref().and_then(|functions| functions.machines.get(machine));
    let action = machine.and_then(|(table, _)| {
        let on_demand = table.raw_get::<Table>("on_demand").ok()?;
        Some((table, on_demand.raw_get::<Function>(field).ok()?))
    });
    let Some((table, action)) = action else { return Err(format!("on_demand.{field} is not a function")) };
    let context = &file.runtime.context;
    let defined = context.definition_of(&action);
    let location = defined.map(|position| SourceLocation { file: context.path_of(&position), line: position.line });
    context.cancel_state.calling(location);
    match file.runtime.limited(|_| action.call::<Value>(table)) {
        Ok(_) if function == ActionFunction::Stop => Ok(StartedAs::default()),
        Ok(value) => started_as(&value),
        Err(error) => {
            let lua_error = LuaError::new(&error, context);
            let position = lua_error.position.clone().or_else(|| context.definition_of(&action));
            let location = position
                .map_or(String::new(), |position| format!("{}:{}: ", context.path_of(&position), position.line));
            Err(format!("{location}on_demand.{field}: {}", lua_error.message))
        }
    }
}
