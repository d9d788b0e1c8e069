//! `offload.json.encode(value)` and `offload.json.decode(text)`.
//!
//! Objects and arrays become tables, and null becomes nil. A table with the keys 1 to n is an array. An empty one is an
//! object, unless it was decoded from an array.

use super::super::context::Context;
use mlua::serde::{DeserializeOptions, SerializeOptions};
use mlua::{Lua, LuaSerdeExt as _, LuaString, Table, Value};
use std::rc::Rc;

/// The size limit of a text; a longer one is an error.
const MAX_JSON_TEXT: usize = 8 << 20;
/// Deeper nesting is an error.
const MAX_JSON_DEPTH: usize = 100;
/// The limit of values, keys included, in one JSON text.
const MAX_JSON_VALUES: usize = 1_000_000;

pub(super) fn register(lua: &Lua, module: &Table, context: &Rc<Context>) -> mlua::Result<()> {
    let json = lua.create_table()?;
    let context = Rc::clone(context);
    let encode = move |lua: &Lua, value: Value| match encode(lua, &context, value) {
        Ok(text) => Ok((Some(text), None)),
        Err(error) => Ok((None, Some(format!("json.encode: {error}")))),
    };
    json.raw_set("encode", lua.create_function(encode)?)?;
    let decode = |lua: &Lua, text: LuaString| match decode(lua, &text.as_bytes()) {
        Ok(value) => Ok((value, None)),
        Err(error) => Ok((Value::Nil, Some(format!("json.decode: {error}")))),
    };
    json.raw_set("decode", lua.create_function(decode)?)?;
    module.raw_set("json", json)
}

fn encode(lua: &Lua, context: &Context, value: Value) -> Result<String, String> {
    let mut text = Vec::new();
    serde_json::to_writer(Bounded(&mut text), &from_lua(lua, context, value)?).map_err(|error| error.to_string())?;
    String::from_utf8(text).map_err(|error| error.to_string())
}

fn decode(lua: &Lua, text: &[u8]) -> Result<Value, String> {
    if text.len() > MAX_JSON_TEXT {
        return Err(format!("the text has more than {} MiB", MAX_JSON_TEXT >> 20));
    }
    let value: serde_json::Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    to_lua(lua, &value)
}

/// Converts a Lua value to JSON; the error is a message about a value that JSON does not have.
pub(super) fn from_lua(lua: &Lua, context: &Context, value: Value) -> Result<serde_json::Value, String> {
    let mut size = Size { lua, context, values: 0, bytes: 0 };
    size.add(&value, 0)?;
    let options = DeserializeOptions::new().deny_recursive_tables(true).recursion_limit(MAX_JSON_DEPTH);
    lua.from_value_with(value, options).map_err(|error| message(&error))
}

/// Converts JSON to a Lua value.
pub(super) fn to_lua(lua: &Lua, value: &serde_json::Value) -> Result<Value, String> {
    let options = SerializeOptions::new()
        .serialize_none_to_null(false)
        .serialize_unit_to_null(false)
        .recursion_limit(MAX_JSON_DEPTH);
    lua.to_value_with(value, options).map_err(|error| message(&error))
}

fn message(error: &mlua::Error) -> String {
    match error {
        mlua::Error::DeserializeError(message) | mlua::Error::SerializeError(message) => message.clone(),
        other => other.to_string(),
    }
}

/// Counts the JSON of a value. A table counts each time it is found: a few tables that contain each other twice become
/// more JSON than any memory holds.
struct Size<'a> {
    lua: &'a Lua,
    context: &'a Context,
    values: usize,
    bytes: usize,
}

impl Size<'_> {
    fn add(&mut self, value: &Value, depth: usize) -> Result<(), String> {
        self.values += 1;
        if self.values > MAX_JSON_VALUES {
            return Err(format!("more than {MAX_JSON_VALUES} values"));
        }
        if self.values.is_multiple_of(1000) {
            self.context.park_if_cancelled(self.lua);
        }
        match value {
            Value::String(text) => self.bytes += text.as_bytes().len(),
            // A table that is deeper, or inside itself, is an error anyway.
            Value::Table(table) if depth <= MAX_JSON_DEPTH => {
                for pair in table.pairs::<Value, Value>() {
                    let (key, value) = pair.map_err(|error| message(&error))?;
                    self.add(&key, depth + 1)?;
                    self.add(&value, depth + 1)?;
                }
            }
            _ => {}
        }
        match self.bytes > MAX_JSON_TEXT {
            true => Err(format!("the text would have more than {} MiB", MAX_JSON_TEXT >> 20)),
            false => Ok(()),
        }
    }
}

/// A writer that accepts at most `MAX_JSON_TEXT` bytes.
struct Bounded<'a>(&'a mut Vec<u8>);

impl std::io::Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_JSON_TEXT {
            return Err(std::io::Error::other(format!("the text would have more than {} MiB", MAX_JSON_TEXT >> 20)));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
