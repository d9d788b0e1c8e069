//! Entries of machine files, in Lua and in Scheme.

use std::fmt::Write;

use super::{SYSTEM, USER_KEYS};

/// The entry for a build machine: field names as in the Lua machine file, values as text of either language.
#[derive(Clone, Debug)]
pub struct Entry {
    fields: Vec<(String, Value)>,
}

/// The value of a field.
#[derive(Clone, Debug)]
pub enum Value {
    Text(String),
    Number(f64),
    Boolean(bool),
    List(Vec<String>),
}

impl Entry {
    /// An entry for the host known as `name`: this machine's system type, and the user key of type Ed25519.
    pub fn new(name: &str, port: u16) -> Entry {
        Entry { fields: Vec::new() }
            .set("name", name)
            .set("port", f64::from(port))
            .set("systems", [SYSTEM])
            .set("private_key", format!("{USER_KEYS}/ed25519"))
            .set("overload_threshold", false)
    }

    /// Sets a field.
    pub fn set(mut self, field: &str, value: impl Into<Value>) -> Entry {
        self = self.unset(field);
        self.fields.push((field.to_owned(), value.into()));
        self
    }

    /// Leaves a field out.
    pub fn unset(mut self, field: &str) -> Entry {
        self.fields.retain(|(name, _)| name != field);
        self
    }

    /// Reaches the machine through a proxy.
    pub fn via(self, proxy: &super::Proxy) -> Entry {
        self.set("name", proxy.name()).set("port", f64::from(proxy.address().port()))
    }

    /// `build_machine { … }`
    pub fn lua(&self) -> String {
        let mut text = "build_machine {\n".to_owned();
        for (name, value) in &self.fields {
            writeln!(text, "  {name} = {},", value.lua()).unwrap();
        }
        text + "}"
    }

    /// `(build-machine …)`
    pub fn scheme(&self) -> String {
        let mut text = "(build-machine".to_owned();
        for (name, value) in &self.fields {
            write!(text, "\n  ({} {})", name.replace('_', "-"), value.scheme()).unwrap();
        }
        text + ")"
    }
}

/// A machine file in Lua.
pub fn lua_file(entries: &[Entry]) -> String {
    let entries: String = entries.iter().map(|entry| entry.lua() + ",\n").collect();
    format!("return {{\n{entries}}}\n")
}

/// A machine file in Scheme.
pub fn scheme_file(entries: &[Entry]) -> String {
    let entries: String = entries.iter().map(|entry| entry.scheme() + "\n").collect();
    format!("(list\n{entries})\n")
}

/// Returns a string literal. Texts of tests have the same in Lua and in Scheme.
pub fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

impl Value {
    fn lua(&self) -> String {
        match self {
            Value::Text(text) => quote(text),
            Value::Number(number) => number.to_string(),
            Value::Boolean(value) => value.to_string(),
            Value::List(items) => format!("{{ {} }}", quote_all(items, ", ")),
        }
    }

    fn scheme(&self) -> String {
        match self {
            Value::Boolean(value) => if *value { "#t" } else { "#f" }.to_owned(),
            Value::List(items) => format!("(list {})", quote_all(items, " ")),
            Value::Text(_) | Value::Number(_) => self.lua(),
        }
    }
}

fn quote_all(items: &[String], separator: &str) -> String {
    items.iter().map(|item| quote(item)).collect::<Vec<_>>().join(separator)
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Value {
        Value::Number(number)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Value {
        Value::Number(f64::from(number))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Boolean(value)
    }
}

impl<const N: usize> From<[&str; N]> for Value {
    fn from(items: [&str; N]) -> Value {
        Value::List(items.map(str::to_owned).to_vec())
    }
}
