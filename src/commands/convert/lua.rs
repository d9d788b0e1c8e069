//! The machine file that `convert` writes: its machines, and their form in Lua.
//!
//! Names and comments come from the converted file, so only letters, digits and printable ASCII characters are written unchanged.
//! Any other character becomes `\u{…}`, which Lua reads in a string and which cannot end a line in a comment.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use crate::machine::canonical_name;

/// A `local base` must make the file shorter by this many lines.
const MIN_SHARED_FIELDS: usize = 4;

/// The fields that concern the host and not the build. Entries for one host must agree on them.
const HOST_FIELDS: [&str; 4] = ["user", "host_key", "daemon_socket", "parallel_builds"];

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    List(Vec<String>),
    Whole(u64),
    Number(f64),
    Boolean(bool),
    /// A function that refuses builds which do not require all of these features.
    OnlyFor(Vec<String>),
    /// A required value that is not known. It is written as a comment.
    Missing,
}

/// A comment about a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub text: String,
    /// Whether `convert` also prints it as a warning.
    pub warning: bool,
}

/// A machine. Without fields it is left out of the result, and only its notes are written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// The file that has the machine, if it is not the converted file itself.
    pub file: Option<String>,
    pub line: Option<u32>,
    /// The fields, in the order in which they are written.
    pub fields: Vec<(&'static str, Value)>,
    pub notes: Vec<Note>,
    /// Comments of the converted file about it, a line each.
    pub comments: Vec<String>,
}

impl Entry {
    pub fn set(&mut self, field: &'static str, value: Value) {
        self.fields.push((field, value));
    }

    pub fn get(&self, field: &str) -> Option<&Value> {
        self.fields.iter().find(|(name, _)| *name == field).map(|(_, value)| value)
    }

    /// Adds a comment.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(Note { text: text.into(), warning: false });
    }

    /// Adds a comment that `convert` also prints as a warning.
    pub fn warn(&mut self, text: impl Into<String>) {
        self.notes.push(Note { text: text.into(), warning: true });
    }

    /// Sets `parallel_builds`. Another system disables a machine with 0.
    pub fn set_parallel_builds(&mut self, builds: u64) {
        match builds {
            0 => {
                self.note("it takes no builds at the same time: it is never chosen");
                self.set("enabled", Value::Boolean(false));
            }
            1 => {}
            _ => self.set("parallel_builds", Value::Whole(builds)),
        }
    }

    pub fn place(&self, converted: &str) -> String {
        let file = plain(self.file.as_deref().unwrap_or(converted));
        match self.line {
            Some(line) => format!("{file}:{line}"),
            None => file,
        }
    }
}

/// A machine file in Lua; `Display` writes it.
#[derive(Debug)]
pub struct Document {
    /// The file that was converted.
    pub file: String,
    /// The lines of the comment at the top.
    pub header: Vec<String>,
    /// Comments of the converted file at its top, a line each.
    pub comments: Vec<String>,
    pub entries: Vec<Entry>,
    /// The lines of comments of the converted file that are not in the result.
    pub lost_comments: Vec<u32>,
}

impl Document {
    /// Completes the notes of `entries` with those that concern several of them.
    pub fn new(file: String, header: &[&str], mut entries: Vec<Entry>) -> Document {
        note_differences(&mut entries);
        let header = header.iter().map(|&line| line.to_owned()).collect();
        Document { file, header, comments: Vec::new(), entries, lost_comments: Vec::new() }
    }

    /// Returns the warnings, each a line `FILE:LINE: warning: …`.
    pub fn warnings(&self) -> Vec<String> {
        let of_entry = |entry: &Entry| {
            let place = entry.place(&self.file);
            let warnings = entry.notes.iter().filter(|note| note.warning);
            warnings.map(|note| format!("{place}: warning: {}", plain(&note.text))).collect::<Vec<_>>()
        };
        let mut warnings: Vec<String> = self.entries.iter().flat_map(of_entry).collect();
        if !self.lost_comments.is_empty() {
            let lines = self.lost_comments.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
            let noun = if self.lost_comments.len() == 1 { "line" } else { "lines" };
            warnings.push(format!("{}: warning: the comments of {noun} {lines} are not kept", plain(&self.file)));
        }
        warnings
    }

    /// Returns the fields that all machines have in common, if a `local base` with them makes the file shorter.
    fn base(&self) -> Vec<(&'static str, Value)> {
        let machines: Vec<&Entry> = self.entries.iter().filter(|entry| !entry.fields.is_empty()).collect();
        let Some((first, others)) = machines.split_first() else { return Vec::new() };
        let shared = |(field, value): &&(&'static str, Value)| {
            *field != "name" && *value != Value::Missing && others.iter().all(|other| other.get(field) == Some(value))
        };
        let base: Vec<_> = first.fields.iter().filter(shared).cloned().collect();
        // Each machine loses those lines and gains "inherit"; the base itself has a first, a last and an empty line.
        let before = machines.len() * base.len();
        let after = base.len() + 3 + machines.len();
        if before >= after + MIN_SHARED_FIELDS { base } else { Vec::new() }
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "-- Converted from {} by 'offload convert'.", plain(&self.file))?;
        for line in &self.header {
            writeln!(f, "-- {line}")?;
        }
        writeln!(f)?;
        for comment in &self.comments {
            writeln!(f, "-- {}", plain(comment))?;
        }
        if !self.comments.is_empty() {
            writeln!(f)?;
        }
        let only_for = |(_, value): &(&str, Value)| matches!(value, Value::OnlyFor(_));
        if self.entries.iter().any(|entry| entry.fields.iter().any(only_for)) {
            writeln!(f, "{MANDATORY_FEATURES_FUNCTION}")?;
        }
        let base = self.base();
        if !base.is_empty() {
            writeln!(f, "local base = {{")?;
            fields(f, "  ", &base)?;
            writeln!(f, "}}\n")?;
        }
        writeln!(f, "return {{")?;
        for (index, entry) in self.entries.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            writeln!(f, "  -- {}", entry.place(&self.file))?;
            let notes = entry.notes.iter().map(|note| &note.text);
            for comment in entry.comments.iter().chain(notes) {
                writeln!(f, "  -- {}", plain(comment))?;
            }
            if entry.fields.is_empty() {
                continue;
            }
            writeln!(f, "  build_machine {{")?;
            if !base.is_empty() {
                writeln!(f, "    inherit = base,")?;
            }
            let own: Vec<_> = entry.fields.iter().filter(|field| !base.contains(field)).cloned().collect();
            fields(f, "    ", &own)?;
            writeln!(f, "  }},")?;
        }
        writeln!(f, "}}")
    }
}

/// The Lua function that machines with `Value::OnlyFor` call.
const MANDATORY_FEATURES_FUNCTION: &str = "\
-- For 'accepts': refuses the builds that do not require all of these features.
local function only_for(features)
  return function(request)
    local required = {}
    for _, feature in ipairs(request.features) do
      required[feature] = true
    end
    for _, feature in ipairs(features) do
      if not required[feature] then
        return false, \"only for builds that require \" .. feature
      end
    end
    return true
  end
end
";

fn fields(f: &mut fmt::Formatter<'_>, indent: &str, fields: &[(&'static str, Value)]) -> fmt::Result {
    for (field, value) in fields {
        match value {
            Value::Missing => writeln!(f, "{indent}-- {field} = \"…\",")?,
            value => writeln!(f, "{indent}{field} = {},", literal(value))?,
        }
    }
    Ok(())
}

fn literal(value: &Value) -> String {
    let list = |items: &[String]| match items {
        [] => "{}".to_owned(),
        items => format!("{{ {} }}", items.iter().map(|item| quote(item)).collect::<Vec<_>>().join(", ")),
    };
    match value {
        Value::Text(text) => quote(text),
        Value::List(items) => list(items),
        Value::Whole(number) => number.to_string(),
        // Lua has no literal for the infinities and NaN.
        Value::Number(number) if !number.is_finite() => "0/0".to_owned(),
        Value::Number(number) => format!("{number:?}"),
        Value::Boolean(boolean) => boolean.to_string(),
        Value::OnlyFor(features) => format!("only_for {}", list(features)),
        Value::Missing => "nil".to_owned(),
    }
}

/// Returns `text` as a string literal of Lua 5.4.
pub fn quote(text: &str) -> String {
    format!("\"{}\"", plain(&text.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// Returns `text` with an escape for each character that could end a line, or hide text from the reader.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            ' '..='~' => plain.push(character),
            // Our messages have an ellipsis for what was cut.
            _ if !character.is_ascii() && (character.is_alphanumeric() || character == '…') => plain.push(character),
            // A write to a string does not fail.
            _ => drop(write!(plain, "{}", character.escape_unicode())),
        }
    }
    plain
}

/// Adds a warning to each entry that differs from an earlier one for the same name and port. Such entries share slots and
/// connection, so `offload eval` requires that they agree.
fn note_differences(entries: &mut [Entry]) {
    let mut first_of: BTreeMap<String, usize> = BTreeMap::new();
    for index in 0..entries.len() {
        let Some(Value::Text(name)) = entries[index].get("name") else { continue };
        let address = format!("{} {:?}", canonical_name(name), entries[index].get("port"));
        let first = *first_of.entry(address).or_insert(index);
        let differing: Vec<&str> = HOST_FIELDS
            .into_iter()
            .filter(|field| host_value(&entries[first], field) != host_value(&entries[index], field))
            .collect();
        if !differing.is_empty() {
            let line = entries[first].line.map_or(String::new(), |line| format!(" of line {line}"));
            let text = format!("not the same {} as in the entry{line} for the same machine", differing.join(", "));
            entries[index].warn(format!("{text}: 'offload eval' wants them to agree"));
        }
    }
}

/// Returns the value of a field, a host key without its comment.
fn host_value(entry: &Entry, field: &str) -> Option<Value> {
    match entry.get(field) {
        Some(Value::Text(text)) if field == "host_key" => {
            Some(Value::Text(text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")))
        }
        value => value.cloned(),
    }
}
