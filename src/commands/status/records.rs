//! Records for GNU recutils, in the style of `guix processes`: a record for each machine, a line for each field, an
//! empty line after each record. Unknown values are omitted. `Build` may occur more than once: slot, process, seconds
//! since 1970, derivation. So may `Connection`: process, seconds since 1970, streams in use, idle streams, bytes sent,
//! bytes received.
//!
//! A value is one line; line breaks in the text of other machines are replaced.

use std::fmt::Display;
use std::io::{self, Write};

use serde_json::{Map, Value};

use super::snapshot::{MachineSnapshot, OpenConnection};
use crate::commands::terminal::plain;

/// Writes a record for each machine.
pub fn write(machines: &[MachineSnapshot], out: &mut impl Write) -> io::Result<()> {
    for snapshot in machines {
        for (name, value) in fields(snapshot)? {
            writeln!(out, "{name}: {}", plain(&value))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// Returns the names of the fields and their values, those of the JSON object, in its order. A field of a nested object
/// has the names of both.
fn fields(snapshot: &MachineSnapshot) -> serde_json::Result<Vec<(String, String)>> {
    let mut fields = Vec::new();
    if let Value::Object(object) = serde_json::to_value(snapshot)? {
        flatten("", object, &mut fields);
    }
    let builds = snapshot.builds.iter().map(|build| {
        let parts = [Some(build.slot.to_string()), text(&build.pid), text(&build.since), build.derivation.clone()];
        ("Build".to_owned(), parts.map(|part| part.unwrap_or_else(|| "-".to_owned())).join(" "))
    });
    let connections = snapshot.connections.iter().map(|connection| {
        let OpenConnection { pid, since, streams, idle, sent, received } = connection;
        let pid = text(pid).unwrap_or_else(|| "-".to_owned());
        ("Connection".to_owned(), format!("{pid} {since} {streams} {idle} {sent} {received}"))
    });
    fields.extend(builds.chain(connections));
    // The key of the record comes first.
    fields.sort_by_key(|(name, _)| name != "Name");
    Ok(fields)
}

fn text(value: &Option<impl Display>) -> Option<String> {
    value.as_ref().map(ToString::to_string)
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
