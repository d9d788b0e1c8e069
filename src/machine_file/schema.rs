//! A field of the machine file. Each is declared once, in the table of its owner: `BUILD_MACHINE` and `LOCAL_MACHINE`
//! in `machine_fields`, `POOL` and `LIMITS` in `settings`; and the arguments of functions, `REQUEST` and `STATUS`, in
//! `request`.
//!
//! The tables determine decoding, the set of known names, the defaults that functions see, the JSON of `offload eval`
//! and the manual page. `tests/documentation/fields.rs` writes the classes in `lua/offload.lua` and the tables in
//! `doc/manual/machine-file.md` from them, in their order, and checks them.

use super::fields::Fields;
use mlua::serde::SerializeOptions;
use mlua::{Lua, LuaSerdeExt as _, Table};
use serde::{Serialize, Serializer};
use serde_json::Value;

/// A field of a table in the machine file, which is read into a `T`.
pub struct Field<T> {
    pub name: &'static str,
    /// Its type, in the notation of the annotations for editors.
    pub lua: &'static str,
    /// `seconds`, `bytes`, or empty.
    pub unit: &'static str,
    /// Its meaning, in sentences; code is in back-quotes.
    pub about: &'static str,
    /// Whether the file is invalid without it.
    pub required: bool,
    read: Option<Read<T>>,
    /// The value in JSON; null if there is none. For a function: whether it is given.
    json: Option<fn(&T) -> Value>,
}

/// Reads a value. `None`: it is not given, or an error was recorded.
type Read<T> = fn(&mut Fields, &mut T) -> Option<()>;

impl<T> Field<T> {
    pub(super) const fn new(name: &'static str, lua: &'static str, about: &'static str) -> Field<T> {
        Field { name, lua, unit: "", about, required: false, read: None, json: None }
    }

    pub(super) const fn required(mut self) -> Field<T> {
        self.required = true;
        self
    }

    pub(super) const fn unit(mut self, unit: &'static str) -> Field<T> {
        self.unit = unit;
        self
    }

    pub(super) const fn read(mut self, read: Read<T>) -> Field<T> {
        self.read = Some(read);
        self
    }

    pub(super) const fn json(mut self, json: fn(&T) -> Value) -> Field<T> {
        self.json = Some(json);
        self
    }
}

impl<T: Default> Field<T> {
    /// Returns the default value, if there is one. A function has none.
    pub(super) fn default_value(&self) -> Option<Value> {
        let is_optional = self.read.is_some() && !self.required && self.kind() != "function";
        self.value(&T::default()).filter(|value| is_optional && !value.is_null())
    }

    /// Returns the default value as documentation writes it.
    pub fn default_text(&self) -> Option<String> {
        match self.default_value()? {
            Value::Number(number) if self.unit == "bytes" => Some(format!("{} MiB", number.as_u64()? >> 20)),
            // The defaults of `limits` are listed with its own fields.
            Value::Object(fields) if !fields.is_empty() => None,
            Value::Array(items) if items.is_empty() => Some("{}".to_owned()),
            value => Some(value.to_string()),
        }
    }
}

impl<T> Field<T> {
    /// Returns its type in words, such as `seconds or false`.
    pub fn kind(&self) -> String {
        let word = |part: &str| match part {
            "number" | "integer" if !self.unit.is_empty() => self.unit.to_owned(),
            "offload.Limits" | "offload.OnDemand" | "offload.OnDemandLimits" | "offload.SharedPool" => {
                "table".to_owned()
            }
            part if part.starts_with("table") => "table".to_owned(),
            part if part.starts_with("offload.") || part.starts_with("fun(") => "function".to_owned(),
            part => part.strip_suffix("[]").map_or(part.to_owned(), |items| format!("list of {items}s")),
        };
        self.lua.split('|').map(word).collect::<Vec<_>>().join(" or ")
    }

    /// Returns the value in JSON, if the field has one.
    pub(super) fn value(&self, of: &T) -> Option<Value> {
        self.json.map(|json| json(of))
    }
}

/// Makes a Lua table of the values of all fields.
pub(super) fn to_lua<T>(schema: &[Field<T>], lua: &Lua, of: &T) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    for field in schema {
        if let Some(value) = field.value(of) {
            table.raw_set(field.name, json_to_lua(lua, &value)?)?;
        }
    }
    Ok(table)
}

/// Makes a Lua value; null is nil.
pub(super) fn json_to_lua(lua: &Lua, value: &Value) -> mlua::Result<mlua::Value> {
    let options = SerializeOptions::new().set_array_metatable(false).serialize_unit_to_null(false);
    lua.to_value_with(value, options)
}

/// Reads the fields that a table has into `value`; the others keep their defaults. Returns false if a required one is
/// missing or invalid.
pub(super) fn read<T>(schema: &[Field<T>], fields: &mut Fields, value: &mut T) -> bool {
    let given = fields.given(&schema.iter().map(|field| field.name).collect::<Vec<_>>());
    let mut usable = true;
    for (field, given) in schema.iter().zip(given).filter(|(field, given)| field.required || !given.is_nil()) {
        fields.begin(field.name, field.required, given);
        usable &= field.read.is_some_and(|read| read(fields, value).is_some()) || !field.required;
    }
    usable
}

/// The values of fields in JSON: an object, in the order of the table.
pub struct FieldValues<'a, T: 'static>(pub &'static [Field<T>], pub &'a T);

impl<T> Serialize for FieldValues<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let FieldValues(schema, value) = self;
        serializer.collect_map(schema.iter().filter_map(|field| Some((field.name, field.value(value)?))))
    }
}
