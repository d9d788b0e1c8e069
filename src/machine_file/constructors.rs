//! `build_machine { … }` and `local_machine { … }`.
//!
//! Both copy their table, take missing fields from its `inherit`, then from the defaults, and return a plain table:
//! `pairs` and copying work. The fields are not checked yet. The call is recorded with its location, so that errors can
//! be reported together once the file has been evaluated.

use super::machine_fields::{BUILD_MACHINE_FIELDS, LOCAL_MACHINE_FIELDS};
use super::schema::{Field, json_to_lua};
use super::suggest;
use crate::lua::values::{self, LABELLED_BY};
use crate::lua::{Context, Position};
use mlua::{Function, Lua, Table, Value};
use std::cell::RefCell;
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
    /// The location of the call.
    pub position: Option<Position>,
    /// The table that it returned.
    pub table: Table,
    /// The argument, if it was not a table.
    pub instead: Option<Value>,
    /// The table that it took fields from.
    pub inherit: Option<Table>,
}

/// The calls of constructors while the machine file was evaluated, in order.
pub(super) type ConstructorCalls = Rc<RefCell<Vec<ConstructorCall>>>;

/// Adds the constructors, which record their calls in `made`, to the global variables and to the module.
pub(super) fn register(lua: &Lua, module: &Table, context: &Rc<Context>, made: &ConstructorCalls) -> mlua::Result<()> {
    for constructor in [Constructor::Build, Constructor::Local] {
        let function = function(lua, constructor, Rc::clone(context), Rc::clone(made))?;
        lua.globals().raw_set(constructor.name(), &function)?;
        module.raw_set(constructor.name(), function)?;
    }
    Ok(())
}

fn function(
    lua: &Lua,
    constructor: Constructor,
    context: Rc<Context>,
    calls: ConstructorCalls,
) -> mlua::Result<Function> {
    let metatable = lua.create_table()?;
    metatable.raw_set("__name", constructor.name())?;
    metatable.raw_set(LABELLED_BY, "name")?;
    let label = move |_: &Lua, machine: Table| Ok(label(constructor, &machine));
    metatable.raw_set("__tostring", lua.create_function(label)?)?;
    let known = match constructor {
        Constructor::Build => BUILD_MACHINE_FIELDS.iter().map(|field| field.name).collect(),
        Constructor::Local => LOCAL_MACHINE_FIELDS.iter().map(|field| field.name).collect(),
    };
    metatable.raw_set("__index", strict_index(lua, "machine", known, None, Rc::clone(&context))?)?;
    let defaults = match constructor {
        Constructor::Build => defaults(BUILD_MACHINE_FIELDS),
        Constructor::Local => defaults(LOCAL_MACHINE_FIELDS),
    };
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
        if context.runs_main_file() {
            calls.borrow_mut().push(made);
        }
        Ok(table)
    })
}

/// Returns a function for `__index`, which is called for a field without a value: nil for one of `known`, or a method;
/// an error for a name that is not a field.
pub(super) fn strict_index(
    lua: &Lua,
    subject: &'static str,
    known: Vec<&'static str>,
    methods: Option<Table>,
    context: Rc<Context>,
) -> mlua::Result<Function> {
    lua.create_function(move |lua, (_, name): (Value, Value)| {
        if let Some(method) = methods.as_ref().map(|methods| methods.raw_get::<Value>(&name)).transpose()?
            && !method.is_nil()
        {
            return Ok(method);
        }
        let Value::String(name) = name else { return Ok(Value::Nil) };
        let name = name.to_string_lossy();
        if known.contains(&name.as_str()) {
            return Ok(Value::Nil);
        }
        let meant = suggest::field(&name, known.iter().copied());
        let meant = meant.map_or(String::new(), |meant| format!("; did you mean '{meant}'?"));
        let message = format!("{subject} has no field '{}'{meant}", name.escape_debug());
        context.defer(lua, message, None)?;
        Ok(Value::Nil)
    })
}

fn fill(
    lua: &Lua,
    made: &mut ConstructorCall,
    given: &Table,
    defaults: &[(&str, serde_json::Value)],
) -> mlua::Result<()> {
    let table = &made.table;
    for pair in given.pairs::<Value, Value>() {
        let (field, value) = pair?;
        table.raw_set(field, value)?;
    }
    if let Value::Table(base) = table.raw_get("inherit")? {
        table.raw_set("inherit", Value::Nil)?;
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
        made.inherit = Some(base);
    }
    if let Value::String(system) = table.raw_get("system")?
        && table.raw_get::<Value>("systems")?.is_nil()
    {
        table.raw_set("systems", lua.create_sequence_from([system])?)?;
    }
    for (field, value) in defaults {
        if table.raw_get::<Value>(*field)?.is_nil() {
            table.raw_set(*field, json_to_lua(lua, value)?)?;
        }
    }
    Ok(())
}

/// Returns the fields that have defaults, with these.
fn defaults<T: Default>(schema: &[Field<T>]) -> Vec<(&'static str, serde_json::Value)> {
    schema.iter().filter_map(|field| Some((field.name, field.default_value()?))).collect()
}

/// Returns `build_machine<NAME>`, as in Guix.
pub(super) fn label(constructor: Constructor, machine: &Table) -> String {
    values::label(constructor.name(), machine, "name")
}
