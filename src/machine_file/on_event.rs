//! Calls of the function `on_event` of the pool.
//!
//! A call may run programs that take seconds, so it has a time limit of its own ([`super::Limits::on_event`]). Only a
//! process that does nothing else makes such calls, never one that decides or builds.

use super::constructors::strict_index;
use super::loaded_file::LoadedFile;
use super::pool::Pool;
use super::schema::{self, Field};
use crate::events::pool::PoolEvent;
use crate::lua::{LuaError, SourceLocation, Stopped};
use mlua::{Function, Lua, Table, Value};
use serde_json::json;
use std::rc::Rc;

type EventField = Field<PoolEvent>;

/// The fields of `event`.
pub const EVENT_FIELDS: &[Field<PoolEvent>] = &[
    EventField::new(
        "type",
        "string",
        "`\"build_failed\"`: an accepted build has failed: its builder, a time limit, or all attempts. \
         `\"attempt_failed\"`: an attempt has failed because of the machine; another attempt follows, if one is left. \
         `\"machine_down\"`: a machine cannot be reached or fails builds, since now. `\"machine_up\"`: it responds again. \
         `\"machine_started\"`, `\"machine_stopped\"`, `\"start_failed\"`, `\"stop_failed\"`: about a machine on demand.",
    )
    .json(|e| json!(e.kind.word())),
    EventField::new("time", "number", "When it happened, since 1970.")
        .unit("seconds")
        .json(|e| json!(e.time as f64 / 1000.0)),
    EventField::new("text", "string", "The event as a sentence.").json(|e| json!(e.to_string())),
    EventField::new("machine", "string", "Name of the machine, with its port if that is not 22; nil: it is about none.")
        .json(|e| json!(e.machine)),
    EventField::new("reason", "string", "Why, in words; nil: nothing has failed.").json(|e| json!(e.reason)),
    EventField::new("derivation", "string", "File name of the derivation in the store; nil: it is about no build.")
        .json(|e| json!(e.derivation)),
    EventField::new("name", "string", "Name of the derivation, without directory, hash and `.drv`.")
        .json(|e| json!(e.name)),
    EventField::new("system", "string", "System type of the derivation.").json(|e| json!(e.system)),
    EventField::new("user", "string", "Name of the user whose command requests the build; nil: unknown.")
        .json(|e| json!(e.user)),
    EventField::new("attempt", "integer", "Number of the attempt, from 1.").json(|e| json!(e.attempt)),
    EventField::new("seconds", "number", "How long the machine took to start, or was on before it was stopped.")
        .unit("seconds")
        .json(|e| json!(e.seconds)),
];

impl Pool {
    /// Calls `on_event` with an event, if the file has this function. It must return within the limit of the file. The error
    /// names the file and the line, if they are known. After an error of time the pool calls no function any more.
    pub fn call_on_event(&self, event: &PoolEvent) -> Result<(), String> {
        let Some(interpreter) = self.interpreter.as_ref().filter(|_| self.settings.has_on_event) else { return Ok(()) };
        let limit = self.settings.limits.on_event;
        let mut budget = limit;
        let event = event.clone();
        match interpreter.run(&mut budget, move |file| call(file, &event)) {
            Ok(result) => result,
            Err(Stopped::Late(location)) => {
                let location = location.map_or(String::new(), |place| format!("{}:{}: ", place.file, place.line));
                let seconds = limit.as_secs_f64();
                Err(format!("{location}on_event: it did not return within {seconds} s (limits.on_event)"))
            }
            Err(Stopped::Cancelled) => Err("on_event: it was cancelled".to_owned()),
            Err(Stopped::Before | Stopped::Gone) => Err("on_event: the Lua interpreter has ended".to_owned()),
        }
    }
}

/// Calls the function on the interpreter's thread.
fn call(file: &LoadedFile, event: &PoolEvent) -> Result<(), String> {
    let Some(function) = file.functions.as_ref().and_then(|functions| functions.pool.on_event.clone()) else {
        return Ok(());
    };
    let context = &file.runtime.context;
    let defined = context.definition_of(&function);
    let location = defined.map(|position| SourceLocation { file: context.path_of(&position), line: position.line });
    context.cancel_state.calling(location);
    let called = file.runtime.limited(|lua| function.call::<Value>(to_lua(lua, file, event)?));
    called.map(|_| ()).map_err(|error| described(file, &function, &error))
}

fn to_lua(lua: &Lua, file: &LoadedFile, event: &PoolEvent) -> mlua::Result<Table> {
    let table = schema::to_lua(EVENT_FIELDS, lua, event)?;
    let known = EVENT_FIELDS.iter().map(|field| field.name).collect();
    let metatable = lua.create_table()?;
    metatable.raw_set(
        "__index",
        strict_index(lua, "event", known, |_, _, _| Ok(Value::Nil), Rc::clone(&file.runtime.context))?,
    )?;
    metatable.raw_set("__name", "event")?;
    table.set_metatable(Some(metatable))?;
    Ok(table)
}

fn described(file: &LoadedFile, function: &Function, error: &mlua::Error) -> String {
    let context = &file.runtime.context;
    let lua_error = LuaError::new(error, context);
    let position = lua_error.position.clone().or_else(|| context.definition_of(function));
    let location =
        position.map_or(String::new(), |position| format!("{}:{}: ", context.path_of(&position), position.line));
    format!("{location}on_event: {}", lua_error.message)
}
