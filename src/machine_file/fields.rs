//! The fields of the machine file: their names, and reading them with a finding for each that is wrong.

use super::diagnostic::Severity;
use super::suggest;
use super::values::{self, ListError, describe};
use mlua::{Function, Table, Value};

/// A field of `build_machine`, of `local_machine` or of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    /// The file is in error without it.
    pub required: bool,
}

const fn required(name: &'static str) -> Field {
    Field { name, required: true }
}

const fn optional(name: &'static str) -> Field {
    Field { name, required: false }
}

/// The fields of `build_machine`.
pub const BUILD_MACHINE: &[Field] = &[
    required("name"),
    required("user"),
    required("host_key"),
    required("systems"),
    optional("system"),
    optional("port"),
    optional("private_key"),
    optional("daemon_socket"),
    optional("compression"),
    optional("compression_level"),
    optional("parallel_builds"),
    optional("speed"),
    optional("features"),
    optional("overload_threshold"),
    optional("minimum_disk_space"),
    optional("connect_timeout"),
    optional("stall_timeout"),
    optional("keepalive_interval"),
    optional("keep_connection"),
    optional("max_transfers"),
    optional("enabled"),
    optional("proxy_command"),
    optional("use_substitutes"),
    optional("accepts"),
    optional("score"),
    optional("inherit"),
];

/// The fields of `local_machine`.
pub const LOCAL_MACHINE: &[Field] = &[
    optional("name"),
    optional("systems"),
    optional("speed"),
    optional("features"),
    optional("overload_threshold"),
    optional("enabled"),
    optional("accepts"),
    optional("score"),
    optional("inherit"),
];

/// The named fields of the table that a machine file returns.
pub const POOL: &[Field] = &[
    optional("accepts"),
    optional("score"),
    optional("when_busy"),
    optional("when_unreachable"),
    optional("max_attempts"),
    optional("wait_for_slot"),
    optional("limits"),
];

/// The fields of `limits`.
pub const LIMITS: &[Field] = &[optional("evaluate"), optional("decide"), optional("memory")];

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FindingLocation {
    /// A call of a constructor, by its number.
    Constructed(usize),
    /// An item of the returned list, by its index from 1.
    Item(usize),
    /// The pool itself.
    Pool,
    /// The table `limits` of the pool.
    Limits,
}

/// One thing that is wrong or doubtful; its line is found later.
#[derive(Debug)]
pub(super) struct Finding {
    pub severity: Severity,
    pub place: FindingLocation,
    pub field: Option<String>,
    pub message: String,
    pub hint: Option<String>,
    /// It is about a required field that has no value.
    pub missing: bool,
}

/// Reads the fields of one table.
pub(super) struct Fields<'a> {
    pub table: &'a Table,
    pub place: FindingLocation,
    /// What the table is called in messages: `build_machine<NAME>`, empty for the pool.
    pub subject: String,
    pub findings: &'a mut Vec<Finding>,
}

impl Fields<'_> {
    pub fn get(&self, field: &str) -> Value {
        self.table.raw_get(field).unwrap_or(Value::Nil)
    }

    /// Records an error in `field`.
    pub fn error(&mut self, field: &str, message: impl Into<String>, hint: Option<String>) {
        self.record(Severity::Error, field, message.into(), hint);
    }

    pub fn warning(&mut self, field: &str, message: impl Into<String>, hint: Option<String>) {
        self.record(Severity::Warning, field, message.into(), hint);
    }

    fn record(&mut self, severity: Severity, field: &str, message: String, hint: Option<String>) {
        let subject = if self.subject.is_empty() { String::new() } else { format!("{}: ", self.subject) };
        self.push(severity, Some(field.to_owned()), format!("{subject}{field}: {message}"), hint);
    }

    /// Records an error about the table as a whole; `field` is one that it should not have.
    fn error_in_table(&mut self, field: Option<String>, message: String, hint: Option<String>) {
        let subject = if self.subject.is_empty() { "the pool" } else { &self.subject };
        self.push(Severity::Error, field, format!("{subject}: {message}"), hint);
    }

    fn push(&mut self, severity: Severity, field: Option<String>, message: String, hint: Option<String>) {
        self.findings.push(Finding { severity, place: self.place, field, message, hint, missing: false });
    }

    /// The value of `field` as `read` understands it; an error if it is there and `read` gives nothing.
    pub fn read<T>(&mut self, field: &str, expected: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let value = self.get(field);
        if value.is_nil() {
            return None;
        }
        let result = read(&value);
        if result.is_none() {
            let hint = (is_quoted(&value) && !expected.contains('"')).then(|| "leave out the quotes".to_owned());
            self.error(field, format!("expected {expected}, found {}", describe(&value)), hint);
        }
        result
    }

    /// As `read`, and an error if the field is not there.
    pub fn required<T>(&mut self, field: &str, expected: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        self.missing(field, expected);
        self.read(field, expected, read)
    }

    /// An error if the required `field` is not there.
    pub fn missing(&mut self, field: &str, expected: &str) -> bool {
        let missing = self.get(field).is_nil();
        if missing {
            self.error(field, format!("missing: expected {expected}"), None);
            if let Some(finding) = self.findings.last_mut() {
                finding.missing = true;
            }
        }
        missing
    }

    pub fn string(&mut self, field: &str, expected: &str) -> Option<String> {
        self.read(field, expected, |value| values::string(value).filter(|text| !text.is_empty()))
    }

    pub fn boolean(&mut self, field: &str) -> Option<bool> {
        self.read(field, "true or false", Value::as_boolean)
    }

    pub fn function(&mut self, field: &str) -> Option<Function> {
        self.read(field, "a function", |value| value.as_function().cloned())
    }

    /// A whole number from `least` to `most`.
    pub fn whole(&mut self, field: &str, least: u64, most: u64) -> Option<u64> {
        let expected = match most {
            u64::MAX => format!("a whole number, {least} or above"),
            _ => format!("a whole number from {least} to {most}"),
        };
        self.read(field, &expected, |value| values::whole(value).filter(|number| (least..=most).contains(number)))
    }

    /// A number above 0 and no more than `most`.
    pub fn positive(&mut self, field: &str, what: &str, most: f64) -> Option<f64> {
        let expected = match most.is_finite() {
            true => format!("{what} above 0, up to {most}"),
            false => format!("{what} above 0"),
        };
        let fits = |number: &f64| *number > 0.0 && *number <= most && number.is_finite();
        self.read(field, &expected, |value| values::number(value).filter(fits))
    }

    /// A list of strings, each of which `check` agrees to or says what it expected instead.
    pub fn strings(
        &mut self,
        field: &str,
        expected: &str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Option<Vec<String>> {
        let value = self.get(field);
        if value.is_nil() {
            return None;
        }
        let found = match values::list(&value).unwrap_or(Err(ListError::NotATable)) {
            Ok(items) => return self.items(field, &items, check),
            Err(ListError::NotATable) => describe(&value),
            Err(ListError::Field(name)) => format!("a table with the field {name}"),
            Err(ListError::Hole(index)) => format!("nothing at index {index}"),
            Err(ListError::TooLong) => "a list that is far too long".to_owned(),
        };
        let hint = values::string(&value).map(|text| {
            let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
            format!("write {{ {} }}", words.map(values::quote).collect::<Vec<_>>().join(", "))
        });
        self.error(field, format!("expected {expected}, found {found}"), hint);
        None
    }

    fn items(
        &mut self,
        field: &str,
        items: &[Value],
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Option<Vec<String>> {
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
                    self.error(field, message, None);
                }
            }
        }
        (strings.len() == items.len()).then_some(strings)
    }

    /// An error for each field that is not one of `known`; `list` allows items without a name.
    pub fn unknown(&mut self, known: &[Field], list: bool) {
        let pairs = self.table.pairs::<Value, Value>().filter_map(Result::ok);
        let pairs: Vec<(Value, Value)> = pairs.filter(|(key, _)| !is_one_of(key, known)).collect();
        let names = known.iter().map(|field| field.name);
        let mut unknown: Vec<(String, Value)> = Vec::new();
        for (key, value) in pairs {
            match &key {
                Value::Integer(_) if list => {}
                Value::String(name) => unknown.push((name.to_string_lossy(), value)),
                Value::Integer(_) => {
                    let found = describe(&value);
                    self.error_in_table(None, format!("expected fields with names, found {found} without one"), None);
                }
                other => {
                    let found = describe(other);
                    self.error_in_table(None, format!("expected a name of a field, found {found}"), None);
                }
            }
        }
        unknown.sort_by(|one, other| one.0.cmp(&other.0));
        for (name, value) in unknown {
            let shown = name.escape_debug().to_string();
            let hint = match &value {
                Value::Table(table) if list && table.metatable().is_some() => {
                    Some("machines stand in the list without a name".to_owned())
                }
                _ => suggest::field(&name, names.clone()).map(|meant| format!("did you mean '{meant}'?")),
            };
            self.error_in_table(Some(name), format!("unknown field '{shown}'"), hint);
        }
    }
}

fn is_one_of(key: &Value, known: &[Field]) -> bool {
    let Value::String(key) = key else { return false };
    let key = key.as_bytes();
    known.iter().any(|field| field.name.as_bytes() == &*key)
}

/// Whether this is a number or a boolean within quotes.
fn is_quoted(value: &Value) -> bool {
    let Value::String(text) = value else { return false };
    let text = text.to_string_lossy();
    matches!(text.trim(), "true" | "false") || text.trim().parse::<f64>().is_ok()
}
