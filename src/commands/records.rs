//! Records for GNU recutils, in the style of `guix processes`: a line for each field, an empty line after each record.
//! Unknown values are omitted.
//!
//! A value is one line; line breaks in the text of other machines are replaced.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Map, Value};

use super::terminal::plain;

/// Begins the records of a type. Each program that reads them can select one, with `recsel -t TYPE`.
pub fn write_type(name: &str, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "%rec: {name}\n")
}

/// Writes a record.
pub fn write_record(fields: &[(String, String)], out: &mut impl Write) -> io::Result<()> {
    for (name, value) in fields {
        writeln!(out, "{name}: {}", plain(value))?;
    }
    writeln!(out)
}

/// Returns the names of the fields of a JSON object and their values, in the order of the names. A field of a nested object has the
/// names of both. Arrays are omitted.
pub fn fields(object: &impl Serialize) -> serde_json::Result<Vec<(String, String)>> {
    let mut fields = Vec::new();
    if let Value::Object(object) = serde_json::to_value(object)? {
        flatten("", object, &mut fields);
    }
    Ok(fields)
}

fn flatten(prefix: &str, object: Map<String, Value>, fields: &mut Vec<(String, String)>) {
    for (name, value) in object {
        let name = format!("{prefix}{}", field_name(&name));
        match value {
            Value::Null | Value::Array(_) => {}
            Value::Bool(is) => fields.push((name, if is { "yes" } else { "no" }.to_owned())),
            Value::String(text) => fields.push((name, text)),
            Value::Number(number) => fields.push((name, number.to_string())),
            Value::Object(object) => flatten(&name, object, fields),
        }
    }
}

/// Returns a name in the style of recutils: `FreeDisk` for `free_disk`.
fn field_name(name: &str) -> String {
    let capitalized = |word: &str| word.get(..1).unwrap_or_default().to_uppercase() + word.get(1..).unwrap_or_default();
    name.split('_').map(capitalized).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_a_line_for_each_known_value() {
        let object = serde_json::json!({ "free_disk": 7, "is_up": true, "none": null, "list": [1], "text": "a\nb\u{1b}[2J",
            "failures": { "count": 2 } });
        let mut out = Vec::new();
        write_record(&fields(&object).unwrap(), &mut out).unwrap();
        let mut lines: Vec<&str> = str::from_utf8(&out).unwrap().lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["", "FailuresCount: 2", "FreeDisk: 7", "IsUp: yes", "Text: a; b?[2J"]);
    }
}
