//! From Lua values to Rust ones, and how they are called in messages.

use mlua::{Table, Value};

/// A list may have this many items.
const MAX_ITEMS: usize = 10_000;
/// Characters of a string that a message quotes.
const QUOTED: usize = 60;
/// Bytes of a name in a label.
const MAX_LABEL: usize = 255;
/// The field of a metatable that has messages call its tables by a label.
pub(crate) const LABELLED_BY: &str = "__labelled_by";

/// How a message calls a value that was found where another was expected.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Nil => "nothing".to_owned(),
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Number(value) => format!("{value:?}"),
        Value::String(text) => quote(&text.to_string_lossy()),
        Value::Table(table) => table_label(table).unwrap_or_else(|| "a table".to_owned()),
        other => format!("a {}", other.type_name()),
    }
}

/// The label of a table whose metatable has a name and says, in `LABELLED_BY`, which field tells such tables apart.
fn table_label(table: &Table) -> Option<String> {
    let metatable = table.metatable()?;
    let text = |key: &str| Some(metatable.raw_get::<Value>(key).ok()?.as_string()?.to_string_lossy());
    Some(label(&text("__name")?, table, &text(LABELLED_BY)?))
}

/// `KIND<NAME>`, where the name is that of the field; `KIND<?>` without one.
pub(crate) fn label(kind: &str, table: &Table, field: &str) -> String {
    match table.raw_get::<Value>(field) {
        Ok(Value::String(name)) if name.as_bytes().len() <= MAX_LABEL => {
            format!("{kind}<{}>", name.to_string_lossy().escape_debug())
        }
        _ => format!("{kind}<?>"),
    }
}

/// A string as a message quotes it: escaped, and cut when it is long.
pub(crate) fn quote(text: &str) -> String {
    let cut: String = text.chars().take(QUOTED).collect();
    let dots = if cut.len() < text.len() { "…" } else { "" };
    format!("\"{}{dots}\"", cut.escape_debug())
}

/// A string without NUL bytes.
pub(crate) fn string(value: &Value) -> Option<String> {
    let text = value.as_string()?.to_str().ok()?.to_owned();
    (!text.contains('\0')).then_some(text)
}

pub(crate) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(value) => Some(*value as f64),
        Value::Number(value) => Some(*value),
        _ => None,
    }
}

/// A whole number, 0 or above. `2^20` is a float in Lua, and welcome.
pub(crate) fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Integer(value) => u64::try_from(*value).ok(),
        Value::Number(value) if value.fract() == 0.0 && (0.0..9.0e18).contains(value) => Some(*value as u64),
        _ => None,
    }
}

/// What is wrong with a list.
#[derive(Debug, PartialEq)]
pub(crate) enum ListError {
    NotATable,
    /// It has this field besides.
    Field(String),
    /// Nothing at this index, but something behind it.
    Hole(i64),
    TooLong,
}

/// The items of a list, if it is one without holes.
pub(crate) fn list(value: &Value) -> mlua::Result<Result<Vec<Value>, ListError>> {
    let Value::Table(table) = value else { return Ok(Err(ListError::NotATable)) };
    let mut items = Vec::new();
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair?;
        let Value::Integer(index) = key else { return Ok(Err(ListError::Field(describe(&key)))) };
        if items.len() >= MAX_ITEMS {
            return Ok(Err(ListError::TooLong));
        }
        items.push((index, value));
    }
    Ok(in_order(items))
}

/// Puts the items of a list in order, given with their indices.
pub(crate) fn in_order(mut items: Vec<(i64, Value)>) -> Result<Vec<Value>, ListError> {
    items.sort_by_key(|(index, _)| *index);
    for (expected, (index, _)) in (1_i64..).zip(&items) {
        match index {
            index if *index == expected => {}
            index if *index < 1 => return Err(ListError::Field(index.to_string())),
            _ => return Err(ListError::Hole(expected)),
        }
    }
    Ok(items.into_iter().map(|(_, value)| value).collect())
}
