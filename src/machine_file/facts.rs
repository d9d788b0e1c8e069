//! Facts that cost something to find: they are found when a function of the machine file reads them first, on the
//! interpreter's thread, and then belong to the table.

use mlua::{Function, Lua, LuaSerdeExt as _, Table, Value};
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

/// Facts about a request.
#[derive(Clone)]
pub struct RequestFacts(pub Arc<dyn Fn() -> FoundRequestFacts + Send + Sync>);

/// Facts about a request; `None`: unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FoundRequestFacts {
    pub input_bytes: Option<u64>,
    pub expected_seconds: Option<f64>,
    pub expected_output_bytes: Option<u64>,
}

/// Facts about a machine that may build it.
#[derive(Clone)]
pub struct MachineFacts(pub Arc<dyn Fn() -> FoundFacts + Send + Sync>);

/// Facts about a machine; `None`: unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FoundFacts {
    /// The result of `offload.soonest`.
    pub soonest: f64,
    pub missing_inputs: Option<u64>,
    pub missing_bytes: Option<u64>,
}

/// The values of some fields, by their names.
pub(super) type Values = Vec<(&'static str, serde_json::Value)>;

impl RequestFacts {
    pub(super) fn values(&self) -> Values {
        let FoundRequestFacts { input_bytes, expected_seconds, expected_output_bytes } = (self.0)();
        vec![
            ("input_bytes", input_bytes.into()),
            ("expected_seconds", expected_seconds.into()),
            ("expected_output_bytes", expected_output_bytes.into()),
        ]
    }
}

impl MachineFacts {
    pub(super) fn values(&self) -> Values {
        let FoundFacts { missing_inputs, missing_bytes, .. } = (self.0)();
        vec![("missing_inputs", missing_inputs.into()), ("missing_bytes", missing_bytes.into())]
    }
}

impl fmt::Debug for RequestFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestFacts")
    }
}

impl fmt::Debug for MachineFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MachineFacts")
    }
}

impl PartialEq for MachineFacts {
    fn eq(&self, other: &MachineFacts) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The fields that have such values.
const FIELDS: [&str; 5] =
    ["input_bytes", "expected_seconds", "expected_output_bytes", "missing_inputs", "missing_bytes"];

/// Returns a function for `__index`: on the first reading of such a field, the values of all are found and stored in the table.
/// Other names go to `strict`.
pub(super) fn index(
    lua: &Lua,
    strict: Function,
    values: impl Fn() -> Option<Values> + Send + 'static,
) -> mlua::Result<Function> {
    let is_found = Cell::new(false);
    lua.create_function(move |lua, (table, name): (Table, Value)| {
        let is_fact = name.as_string().is_some_and(|name| FIELDS.iter().any(|field| *name == **field));
        if is_fact && !is_found.replace(true) {
            for (field, value) in values().unwrap_or_default() {
                if !value.is_null() {
                    table.raw_set(field, lua.to_value(&value)?)?;
                }
            }
            let value: Value = table.raw_get(&name)?;
            if !value.is_nil() {
                return Ok(value);
            }
        }
        strict.call((table, name))
    })
}
