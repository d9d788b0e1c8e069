//! `build_machine { … }` and `local_machine { … }`.
//!
//! Both copy the table they are given, take what is missing from its `inherit`, then from the defaults, and return a
//! plain table: `pairs` and copying work. Nothing is checked yet; the call is remembered with its place, so that what
//! is wrong can be reported with all the rest once the file has been evaluated.

use super::context::{Context, Position};
use crate::machine::Machine;
use mlua::{Function, Lua, Table, Value};
use std::rc::Rc;

/// The two constructors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Constructor {
    Build,
    Local,
}

impl Constructor {
    pub fn name(self) -> &'static str {
        match self {
            Constructor::Build => "build_machine",
            Constructor::Local => "local_machine",
        }
    }
}

/// One call of a constructor.
#[derive(Clone, Debug)]
pub(super) struct ConstructorCall {
    pub constructor: Constructor,
    /// Where it was called.
    pub position: Option<Position>,
    /// What it returned.
    pub table: Table,
    /// What it was given, if that was not a table.
    pub instead: Option<Value>,
    /// The value of `inherit`.
    pub inherit: Option<Value>,
}

/// Adds the constructors to the global variables and to the module.
pub(super) fn register(lua: &Lua, module: &Table, context: &Rc<Context>) -> mlua::Result<()> {
    for constructor in [Constructor::Build, Constructor::Local] {
        let function = function(lua, constructor, Rc::clone(context))?;
        lua.globals().raw_set(constructor.name(), &function)?;
        module.raw_set(constructor.name(), function)?;
    }
    Ok(())
}

fn function(lua: &Lua, constructor: Constructor, context: Rc<Context>) -> mlua::Result<Function> {
    let metatable = lua.create_table()?;
    metatable.raw_set("__name", constructor.name())?;
    let label = move |_: &Lua, machine: Table| Ok(label(constructor, &machine));
    metatable.raw_set("__tostring", lua.create_function(label)?)?;
    let defaults = defaults(lua, constructor)?;
    lua.create_function(move |lua, given: Value| {
        let mut made = ConstructorCall {
            constructor,
            position: context.position(lua, 1),
            table: lua.create_table()?,
            instead: None,
            inherit: None,
        };
        made.table.set_metatable(Some(metatable.clone()))?;
        match given {
            Value::Table(given) => fill(lua, &mut made, &given, &defaults)?,
            other => made.instead = Some(other),
        }
        let table = made.table.clone();
        if context.deferred.borrow().is_some() {
            context.made.borrow_mut().push(made);
        }
        Ok(table)
    })
}

fn fill(lua: &Lua, made: &mut ConstructorCall, given: &Table, defaults: &Table) -> mlua::Result<()> {
    let table = &made.table;
    for pair in given.pairs::<Value, Value>() {
        let (field, value) = pair?;
        table.raw_set(field, value)?;
    }
    let inherit: Value = table.raw_get("inherit")?;
    table.raw_set("inherit", Value::Nil)?;
    if let Value::Table(base) = &inherit {
        for pair in base.pairs::<Value, Value>() {
            let (field, value) = pair?;
            // `system` and `systems` are two spellings of one field.
            let spelt = |name: &str| matches!(&field, Value::String(field) if *field == name);
            let given = |name: &str| given.raw_get(name).map(|value: Value| !value.is_nil());
            let overridden = (spelt("system") || spelt("systems")) && (given("system")? || given("systems")?);
            if !overridden && !spelt("inherit") && table.raw_get::<Value>(&field)?.is_nil() {
                table.raw_set(field, value)?;
            }
        }
    }
    made.inherit = (!inherit.is_nil()).then_some(inherit);
    if let Value::String(system) = table.raw_get("system")?
        && table.raw_get::<Value>("systems")?.is_nil()
    {
        table.raw_set("systems", lua.create_sequence_from([system])?)?;
    }
    for pair in defaults.pairs::<Value, Value>() {
        let (field, value) = pair?;
        if table.raw_get::<Value>(&field)?.is_nil() {
            table.raw_set(field, value)?;
        }
    }
    if table.raw_get::<Value>("features")?.is_nil() {
        table.raw_set("features", lua.create_table()?)?;
    }
    Ok(())
}

fn defaults(lua: &Lua, constructor: Constructor) -> mlua::Result<Table> {
    let defaults = lua.create_table()?;
    let machine = Machine::new("localhost", "", Vec::new(), Vec::new());
    defaults.raw_set("speed", machine.speed)?;
    defaults.raw_set("overload_threshold", machine.overload_threshold)?;
    defaults.raw_set("enabled", machine.enabled)?;
    if constructor == Constructor::Local {
        defaults.raw_set("name", machine.name)?;
        return Ok(defaults);
    }
    defaults.raw_set("port", machine.port)?;
    defaults.raw_set("daemon_socket", machine.daemon_socket.display().to_string())?;
    defaults.raw_set("compression", "auto")?;
    defaults.raw_set("parallel_builds", machine.parallel_builds)?;
    defaults.raw_set("minimum_disk_space", machine.minimum_disk_space)?;
    defaults.raw_set("connect_timeout", machine.connect_timeout.as_secs())?;
    defaults.raw_set("stall_timeout", machine.stall_timeout.as_secs())?;
    defaults.raw_set("keepalive_interval", machine.keepalive_interval.as_secs())?;
    defaults.raw_set("keep_connection", machine.keep_connection.map(|time| time.as_secs()))?;
    defaults.raw_set("max_transfers", machine.max_transfers)?;
    defaults.raw_set("use_substitutes", machine.use_substitutes)?;
    Ok(defaults)
}

/// `build_machine<NAME>`, as in Guix.
pub(super) fn label(constructor: Constructor, machine: &Table) -> String {
    match machine.raw_get::<Value>("name") {
        Ok(Value::String(name)) if name.as_bytes().len() <= 255 => {
            format!("{}<{}>", constructor.name(), name.to_string_lossy().escape_debug())
        }
        _ => format!("{}<?>", constructor.name()),
    }
}
