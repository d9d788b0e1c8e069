//! `build_machine { … }` and `local_machine { … }`.
//!
//! Both copy their table, and take missing fields from its `inherit`. The defaults are supplied when they are read, and by
//! `pairs`, because pools may have thousands of machines: `next` and `rawget` do not find a default before. The fields
//! are not checked yet. The call is recorded with its location, so that errors can be reported together once the file has
//! been evaluated.

use super::defaults::Defaults;
use super::machine_fields::{BUILD_MACHINE_FIELDS, LOCAL_MACHINE_FIELDS};
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

/// Copies a table without its metatable. In Lua, since each step from Rust costs as much as ten of these.
const COPY: &str = "
    local next = next
    return function(given)
        local copy = {}
        for field, value in next, given do
            copy[field] = value
        end
        return copy
    end";

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
    let defaults = match constructor {
        Constructor::Build => Defaults::new(lua, BUILD_MACHINE_FIELDS)?,
        Constructor::Local => Defaults::new(lua, LOCAL_MACHINE_FIELDS)?,
    };
    metatable.raw_set("__pairs", defaults.pairs(lua)?)?;
    let of_head = (constructor == Constructor::Local).then(|| Rc::clone(&defaults));
    let get = move |lua: &Lua, machine: &Table, field: &Value| defaults.get(lua, machine, field);
    metatable.raw_set("__index", strict_index(lua, "machine", known, get, Rc::clone(&context))?)?;
    let copy: Function = lua.load(COPY).set_name("=copy").eval()?;
    lua.create_function(move |lua, given: Value| {
        let mut made = ConstructorCall {
            constructor,
            position: context.position(lua, 1),
            table: match &given {
                Value::Table(given) => copy.call(given)?,
                _ => lua.create_table()?,
            },
            instead: None,
            inherit: None,
        };
        made.table.set_metatable(Some(metatable.clone()))?;
        match given {
            Value::Table(given) => fill(lua, &mut made, &given)?,
            other => made.instead = Some(other),
        }
        // There is only one head, and messages show its name.
        of_head.iter().try_for_each(|defaults| defaults.fill(lua, &made.table))?;
        let table = made.table.clone();
        if context.runs_main_file() {
            calls.borrow_mut().push(made);
        }
        Ok(table)
    })
}

/// Returns a function for `__index`, which is called for a field without a value: what `get` returns for it, nil for one
/// of `known`; an error for a name that is not a field.
pub(super) fn strict_index(
    lua: &Lua,
    subject: &'static str,
    known: Vec<&'static str>,
    get: impl Fn(&Lua, &Table, &Value) -> mlua::Result<Value> + 'static,
    context: Rc<Context>,
) -> mlua::Result<Function> {
    lua.create_function(move |lua, (table, name): (Table, Value)| {
        let value = get(lua, &table, &name)?;
        if !value.is_nil() {
            return Ok(value);
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

fn fill(lua: &Lua, made: &mut ConstructorCall, given: &Table) -> mlua::Result<()> {
    let table = &made.table;
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
    Ok(())
}

/// Returns `build_machine<NAME>`, as in Guix.
pub(super) fn label(constructor: Constructor, machine: &Table) -> String {
    values::label(constructor.name(), machine, "name")
}
