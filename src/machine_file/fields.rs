//! Decoding of the fields of one table of the machine file, with a finding for each fault.

use super::diagnostic::Severity;
use super::suggest;
use crate::lua::values::{self, ListError, describe};
use mlua::{Function, Table, Value};
use std::path::Path;
use std::time::Duration;

/// The subject of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FindingLocation {
    /// A call of a constructor, by its number.
    Constructed(usize),
    /// An item of the returned list, by its index from 1.
    Item(usize),
    /// The pool itself.
    Pool,
    /// A table of the pool with this name.
    PoolTable(&'static str),
}

/// An error or a warning; its line is found later.
#[derive(Debug)]
pub(super) struct Finding {
    pub severity: Severity,
    pub place: FindingLocation,
    pub field: Option<String>,
    pub message: String,
    pub hint: Option<String>,
    /// Whether it is about a required field without a value.
    pub missing: bool,
}

/// The name of a table in messages.
#[derive(Debug)]
pub(super) enum Subject {
    Pool,
    Table(String),
    /// `KIND<NAME>`, with the name in the table.
    Machine(&'static str),
}

/// Reads the fields of one table, one after the other.
pub(super) struct Fields<'a> {
    pub table: &'a Table,
    pub place: FindingLocation,
    subject: Subject,
    pub findings: &'a mut Vec<Finding>,
    /// The directory that `~` means.
    pub home: Option<&'a Path>,
    /// The current field.
    field: &'static str,
    /// Its value.
    value: Value,
    /// Whether the file is invalid without that field.
    is_required: bool,
}

impl<'a> Fields<'a> {
    pub fn new(
        table: &'a Table,
        place: FindingLocation,
        subject: Subject,
        findings: &'a mut Vec<Finding>,
    ) -> Fields<'a> {
        Fields { table, place, subject, findings, home: None, field: "", value: Value::Nil, is_required: false }
    }

    /// Moves to a field with this value.
    pub fn begin(&mut self, field: &'static str, is_required: bool, value: Value) {
        (self.field, self.is_required, self.value) = (field, is_required, value);
    }

    /// Returns the name of the table in messages, empty for the pool.
    pub fn subject(&self) -> String {
        match &self.subject {
            Subject::Pool => String::new(),
            Subject::Table(name) => name.clone(),
            Subject::Machine(kind) => values::label(kind, self.table, "name"),
        }
    }

    /// Returns the value of this field.
    pub fn value(&self) -> Value {
        self.value.clone()
    }

    /// Returns the value of any field.
    pub fn get(&self, field: &str) -> Value {
        self.table.raw_get(field).unwrap_or(Value::Nil)
    }

    /// Records an error in this field.
    pub fn error(&mut self, message: impl Into<String>, hint: Option<String>) {
        self.record(Severity::Error, message.into(), hint);
    }

    pub fn warning(&mut self, message: impl Into<String>, hint: Option<String>) {
        self.record(Severity::Warning, message.into(), hint);
    }

    fn record(&mut self, severity: Severity, message: String, hint: Option<String>) {
        let subject = match self.subject() {
            subject if subject.is_empty() => subject,
            subject => format!("{subject}: "),
        };
        let field = self.field;
        self.push(severity, Some(field.to_owned()), format!("{subject}{field}: {message}"), hint);
    }

    /// Records an error in the table as a whole; `field` is one that it must not have.
    fn error_in_table(&mut self, field: Option<String>, message: String, hint: Option<String>) {
        let subject = match self.subject() {
            subject if subject.is_empty() => "the pool".to_owned(),
            subject => subject,
        };
        self.push(Severity::Error, field, format!("{subject}: {message}"), hint);
    }

    fn push(&mut self, severity: Severity, field: Option<String>, message: String, hint: Option<String>) {
        self.findings.push(Finding { severity, place: self.place, field, message, hint, missing: false });
    }

    /// Converts the value with `read`. A value for which `read` returns `None` is an error, and so is a missing
    /// required value.
    pub fn read<T>(&mut self, expected: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        if self.is_missing(expected) {
            return None;
        }
        let value = self.value();
        let result = read(&value);
        if result.is_none() {
            let hint = (is_quoted(&value) && !expected.contains('"')).then(|| "leave out the quotes".to_owned());
            self.error(format!("expected {expected}, found {}", describe(&value)), hint);
        }
        result
    }

    /// Returns whether the field is missing, which is an error if it is required.
    pub fn is_missing(&mut self, expected: &str) -> bool {
        let is_missing = self.value.is_nil();
        if is_missing && self.is_required {
            self.error(format!("missing: expected {expected}"), None);
            if let Some(finding) = self.findings.last_mut() {
                finding.missing = true;
            }
        }
        is_missing
    }

    pub fn string(&mut self, expected: &str) -> Option<String> {
        self.read(expected, |value| values::string(value).filter(|text| !text.is_empty()))
    }

    pub fn boolean(&mut self) -> Option<bool> {
        self.read("true or false", Value::as_boolean)
    }

    pub fn function(&mut self) -> Option<Function> {
        self.read("a function", |value| value.as_function().cloned())
    }

    pub fn table(&mut self) -> Option<Table> {
        self.read("a table", |value| value.as_table().cloned())
    }

    pub fn seconds(&mut self, most: f64) -> Option<Duration> {
        self.positive("a number of seconds", most).map(Duration::from_secs_f64)
    }

    pub fn seconds_from(&mut self, least: f64, most: f64) -> Option<Duration> {
        let fits = |seconds: &f64| (least..=most).contains(seconds);
        self.read(&format!("a number of seconds from {least} to {most}"), |value| values::number(value).filter(fits))
            .map(Duration::from_secs_f64)
    }

    /// Reads an integer from `least` to `most`.
    pub fn whole<T: TryFrom<u64>>(&mut self, least: u64, most: u64) -> Option<T> {
        let expected = match most {
            u64::MAX => format!("a whole number, {least} or above"),
            _ => format!("a whole number from {least} to {most}"),
        };
        self.read(&expected, |value| {
            let number = values::whole(value).filter(|number| (least..=most).contains(number))?;
            T::try_from(number).ok()
        })
    }

    /// Reads a number above 0, up to `most`.
    pub fn positive(&mut self, what: &str, most: f64) -> Option<f64> {
        let expected = match most.is_finite() {
            true => format!("{what} above 0, up to {most}"),
            false => format!("{what} above 0"),
        };
        let fits = |number: &f64| *number > 0.0 && *number <= most && number.is_finite();
        self.read(&expected, |value| values::number(value).filter(fits))
    }

    /// Reads a list of strings. `check` accepts a string, or returns what it expected instead.
    pub fn strings(&mut self, expected: &str, check: impl Fn(&str) -> Result<(), String>) -> Option<Vec<String>> {
        if self.is_missing(expected) {
            return None;
        }
        let value = self.value();
        let found = match values::list(&value).unwrap_or(Err(ListError::NotATable)) {
            Ok(items) => return self.items(&items, check),
            Err(ListError::NotATable) => describe(&value),
            Err(ListError::Field(name)) => format!("a table with the field {name}"),
            Err(ListError::Hole(index)) => format!("nothing at index {index}"),
            Err(ListError::TooLong) => "a list that is far too long".to_owned(),
        };
        let hint = values::string(&value).map(|text| {
            let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
            format!("write {{ {} }}", words.map(values::quote).collect::<Vec<_>>().join(", "))
        });
        self.error(format!("expected {expected}, found {found}"), hint);
        None
    }

    fn items(&mut self, items: &[Value], check: impl Fn(&str) -> Result<(), String>) -> Option<Vec<String>> {
        let mut strings = Vec::with_capacity(items.len());
        for (index, item) in (1..).zip(items) {
            let checked = match values::string(item) {
                Some(text) => check(&text).map(|()| text),
                None => Err("a string".to_owned()),
            };
            match checked {
                Ok(text) => strings.push(text),
                Err(expected) => {
                    let message = format!("item {index}: expected {expected}, found {}", describe(item));
                    self.error(message, None);
                }
            }
        }
        (strings.len() == items.len()).then_some(strings)
    }

    /// Returns the value of each of the `known` fields, nil where none is given. All others are errors. The pool may
    /// have items without a name.
    pub fn given(&mut self, known: &[&str]) -> Vec<Value> {
        let list = self.place == FindingLocation::Pool;
        let mut given = vec![Value::Nil; known.len()];
        let mut unknown: Vec<(String, Value)> = Vec::new();
        let table = self.table;
        let sort = |key: Value, value: Value| {
            match &key {
                Value::Integer(_) if list => {}
                Value::String(name) => {
                    let bytes = name.as_bytes();
                    match known.iter().position(|known| known.as_bytes() == &*bytes) {
                        Some(number) => given[number] = value,
                        None => unknown.push((name.to_string_lossy(), value)),
                    }
                }
                Value::Integer(_) => {
                    let found = describe(&value);
                    self.error_in_table(None, format!("expected fields with names, found {found} without one"), None);
                }
                other => {
                    let found = describe(other);
                    self.error_in_table(None, format!("expected a name of a field, found {found}"), None);
                }
            }
            Ok(())
        };
        // Only a lack of memory ends it early, and that fails the evaluation.
        let _ = table.for_each(sort);
        unknown.sort_by(|one, other| one.0.cmp(&other.0));
        for (name, value) in unknown {
            let shown = name.escape_debug().to_string();
            let hint = match &value {
                Value::Table(table) if list && table.metatable().is_some() => {
                    Some("write machines without a name in the list".to_owned())
                }
                _ => suggest::field(&name, known.iter().copied()).map(|meant| format!("did you mean '{meant}'?")),
            };
            self.error_in_table(Some(name), format!("unknown field '{shown}'"), hint);
        }
        given
    }
}

/// Returns whether this is a number or a boolean within quotes.
fn is_quoted(value: &Value) -> bool {
    let Value::String(text) = value else { return false };
    let text = text.to_string_lossy();
    matches!(text.trim(), "true" | "false") || text.trim().parse::<f64>().is_ok()
}
