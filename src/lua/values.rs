//! Conversion of Lua values to Rust, and their names in messages.

use mlua::{Table, Value};

/// The limit of the items of a list.
const MAX_ITEMS: usize = 10_000;
/// The number of characters of a string that a message quotes.
const MAX_QUOTED_CHARS: usize = 60;
/// The number of bytes of a name in a label.
const MAX_LABEL: usize = 255;
/// The field of a metatable that names the field by which messages label its tables.
pub(crate) const LABELLED_BY: &str = "__labelled_by";

/// Describes a value that was found instead of an expected one, for a message.
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

/// Returns the label of a table whose metatable has a name and, in `LABELLED_BY`, the field that identifies such
/// tables.
fn table_label(table: &Table) -> Option<String> {
    let metatable = table.metatable()?;
    let text = |key: &str| Some(metatable.raw_get::<Value>(key).ok()?.as_string()?.to_string_lossy());
    Some(label(&text("__name")?, table, &text(LABELLED_BY)?))
}

/// Returns `KIND<NAME>`, with the name in the field; `KIND<?>` without one.
pub(crate) fn label(kind: &str, table: &Table, field: &str) -> String {
    match table.raw_get::<Value>(field) {
        Ok(Value::String(name)) if name.as_bytes().len() <= MAX_LABEL => {
            format!("{kind}<{}>", name.to_string_lossy().escape_debug())
        }
        _ => format!("{kind}<?>"),
    }
}

/// Quotes a string for a message: escaped, and cut if it is long.
pub(crate) fn quote(text: &str) -> String {
    let cut: String = text.chars().take(MAX_QUOTED_CHARS).collect();
    let dots = if cut.len() < text.len() { "…" } else { "" };
    format!("\"{}{dots}\"", cut.escape_debug())
}

/// Returns a string without NUL bytes.
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

/// Returns an integer of at least 0. `2^20` is a float in Lua, and is accepted.
pub(crate) fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Integer(value) => u64::try_from(*value).ok(),
        Value::Number(value) if value.fract() == 0.0 && (0.0..9.0e18).contains(value) => Some(*value as u64),
        _ => None,
    }
}

/// A fault of a list.
#[derive(Debug, PartialEq)]
pub(crate) enum ListError {
    NotATable,
    /// It has this named field.
    Field(String),
    /// There is no item at this index, but one after it.
    Hole(i64),
    TooLong,
}

/// Returns the items of a list without holes.
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

/// Sorts the items of a list by their indices.
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
