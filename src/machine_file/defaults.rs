//! The default values of the fields of a machine, as functions of the machine file see them.
//!
//! A machine's table has only the fields that were given: pools may have thousands of machines, and most fields keep their
//! defaults. A default is supplied when the field is read. `pairs` adds all of them to the table first, so that a copy has
//! them too.

use super::schema::{Field, json_to_lua};
use mlua::{Function, Lua, Table, Value};
use std::rc::Rc;

/// The fields of a machine that have defaults.
pub(super) struct Defaults(Vec<(&'static str, DefaultValue)>);

enum DefaultValue {
    Plain(Value),
    /// Each machine gets a table of its own, which its functions may change.
    Table(serde_json::Value),
}

impl Defaults {
    pub fn new<T: Default>(lua: &Lua, schema: &[Field<T>]) -> mlua::Result<Rc<Defaults>> {
        let defaults = schema.iter().filter_map(|field| Some((field.name, field.default_value()?)));
        let defaults = defaults.map(|(name, default)| match default {
            default if default.is_array() || default.is_object() => Ok((name, DefaultValue::Table(default))),
            default => Ok((name, DefaultValue::Plain(json_to_lua(lua, &default)?))),
        });
        Ok(Rc::new(Defaults(defaults.collect::<mlua::Result<_>>()?)))
    }

    /// Returns the default value of a field, nil if it has none. A table becomes the machine's own.
    pub fn get(&self, lua: &Lua, machine: &Table, field: &Value) -> mlua::Result<Value> {
        let Value::String(field) = field else { return Ok(Value::Nil) };
        let field = field.as_bytes();
        match self.0.iter().find(|(name, _)| name.as_bytes() == &*field) {
            Some((name, default @ DefaultValue::Table(_))) => {
                let value = default.to_lua(lua)?;
                machine.raw_set(*name, &value)?;
                Ok(value)
            }
            Some((_, default)) => default.to_lua(lua),
            None => Ok(Value::Nil),
        }
    }

    /// Adds the defaults of the fields that were not given.
    pub fn fill(&self, lua: &Lua, machine: &Table) -> mlua::Result<()> {
        for (name, default) in &self.0 {
            if machine.raw_get::<Value>(*name)?.is_nil() {
                machine.raw_set(*name, default.to_lua(lua)?)?;
            }
        }
        Ok(())
    }

    /// Returns a function for `__pairs`, which traverses the fields that were given and those with defaults.
    pub fn pairs(self: &Rc<Defaults>, lua: &Lua) -> mlua::Result<Function> {
        let (defaults, next) = (Rc::clone(self), lua.globals().raw_get::<Function>("next")?);
        lua.create_function(move |lua, machine: Table| {
            defaults.fill(lua, &machine)?;
            Ok((next.clone(), machine, Value::Nil))
        })
    }
}

impl DefaultValue {
    fn to_lua(&self, lua: &Lua) -> mlua::Result<Value> {
        match self {
            DefaultValue::Plain(value) => Ok(value.clone()),
            DefaultValue::Table(table) => json_to_lua(lua, table),
        }
    }
}
