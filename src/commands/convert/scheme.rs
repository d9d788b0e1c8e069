//! Converts the machines that a `machines.scm` of Guix returns (`repl.rs` runs it).
//!
//! Every field of the record `build-machine` of `(guix scripts offload)` up to Guix 1.5 is known here. An unknown field causes a
//! warning that it has no counterpart. A value of the wrong type, which Guix would notice at the first build, is an error here.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::error::{ConvertError, Problem};
use super::lua::{Document, Entry, Value, plain, quote};
use super::repl::{Fields, position};

/// The defaults of Guix that differ from ours.
const DEFAULT_COMPRESSION: &str = "zlib@openssh.com,zlib";
const DEFAULT_COMPRESSION_LEVEL: u64 = 3;

const HEADER_LINES: [&str; 4] = [
    "Fields that have their default are left out. Guix's default compression is zlib, here it is \"auto\"; the",
    "default private key of Guix is ~/.ssh/id_rsa of the account that runs the daemon.",
    "Values that the program computed are fixed now. If its list came from another source, such as an inventory, this",
    "file can read that too: it is a program in Lua. Check it with 'offload eval'.",
];

/// Returns the machine file for `machines`. `home` is the home directory that Guix saw.
pub fn document(file: &Path, machines: Vec<Fields>, home: Option<&Path>) -> Result<Document, ConvertError> {
    let name = file.to_string_lossy().into_owned();
    let default_key = home.map(|home| home.join(".ssh/id_rsa"));
    let mut problems = Vec::new();
    let mut entries = Vec::with_capacity(machines.len());
    for (index, fields) in machines.into_iter().enumerate() {
        let mut machine = Machine::new(&name, index + 1, fields, &mut problems);
        machine.convert(default_key.as_ref());
        entries.push(machine.entry);
    }
    match problems.is_empty() {
        true => Ok(Document::new(name, &HEADER_LINES, entries)),
        false => Err(ConvertError::InFile(problems)),
    }
}

/// Converts the fields of a machine one after the other.
struct Machine<'a> {
    file: &'a str,
    /// The number of the machine in the list, from 1.
    number: usize,
    /// The fields that are not converted yet.
    fields: Fields,
    entry: Entry,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Machine<'a> {
    fn new(file: &'a str, number: usize, mut fields: Fields, problems: &'a mut Vec<Problem>) -> Machine<'a> {
        let mut entry = Entry::default();
        if let Some(Json::Array(location)) = fields.remove("location") {
            entry.line = location.get(1).and_then(position);
            entry.file = location.first().and_then(Json::as_str).filter(|&other| other != file).map(str::to_owned);
        }
        Machine { file, number, fields, entry, problems }
    }

    fn convert(&mut self, default_key: Option<&PathBuf>) {
        if let Some(name) = self.read("name", "a string", text) {
            self.entry.set_name(name);
        }
        if let Some(port) = self.read("port", "a whole number", whole).filter(|&port| port != 22) {
            self.entry.set("port", Value::Whole(port));
        }
        self.required("user");
        self.systems();
        self.required("host-key");
        self.private_key(default_key);
        let socket = self.read("daemon-socket", "a string", text);
        if let Some(socket) = socket {
            self.entry.set_daemon_socket(socket);
        }
        self.compression();
        if let Some(builds) = self.read("parallel-builds", "a whole number", whole) {
            self.entry.set_parallel_builds(builds);
        }
        if let Some(speed) = self.read("speed", "a number", Json::as_f64) {
            self.entry.set_speed(speed);
        }
        if let Some(features) = self.read("features", "a list of strings", texts) {
            self.entry.set_features(features, Vec::new());
        }
        self.overload_threshold();
        let unknown: Vec<String> = self.fields.keys().cloned().collect();
        for field in unknown {
            self.entry.warn(format!("'{field}' has no counterpart"));
        }
    }

    /// Returns the value of a field, `None` if it is not there. An unexpected value adds a problem.
    fn read<T>(&mut self, field: &str, expected: &str, read: impl FnOnce(&Json) -> Option<T>) -> Option<T> {
        let json = self.fields.remove(field)?;
        let value = read(&json);
        if value.is_none() {
            self.problem(format!("'{field}' is {}, not {expected}", written(&json)));
        }
        value
    }

    fn required(&mut self, field: &'static str) {
        let lua_field = if field == "host-key" { "host_key" } else { field };
        if let Some(value) = self.read(field, "a string", text) {
            self.entry.set(lua_field, Value::Text(value));
        }
    }

    fn systems(&mut self) {
        let system = self.fields.remove("system").filter(|system| *system != Json::Bool(false));
        let systems = self.fields.remove("systems").filter(|systems| *systems != Json::Bool(false));
        let systems = match (systems, system) {
            (Some(systems), _) => {
                self.fields.insert("systems".to_owned(), systems);
                self.read("systems", "a list of strings", texts)
            }
            (None, Some(system)) => {
                self.entry.note("its 'system', which is deprecated, has become 'systems'");
                self.fields.insert("system".to_owned(), system);
                self.read("system", "a string", text).map(|system| vec![system])
            }
            (None, None) => {
                self.problem("it has no 'systems'".to_owned());
                None
            }
        };
        if let Some(systems) = systems {
            self.entry.set("systems", Value::List(systems));
        }
    }

    /// Sets the private key. Guix has one default file and `offload` several, so the file is always named.
    fn private_key(&mut self, default: Option<&PathBuf>) {
        if self.fields.get("private-key") == Some(&Json::Bool(false)) {
            // Guix found no home directory here. It can find one when it runs for the daemon.
            self.fields.insert("private-key".to_owned(), Json::from("~/.ssh/id_rsa"));
        }
        let Some(key) = self.read("private-key", "a string", text) else { return };
        let key = match default {
            Some(default) if *default == Path::new(&key) => "~/.ssh/id_rsa".to_owned(),
            _ => key,
        };
        if !key.starts_with('/') && !key.starts_with("~/") {
            self.entry.warn("'private-key' is not an absolute file name, which is needed here");
        }
        self.entry.set("private_key", Value::Text(key));
    }

    /// Sets the compression. libssh reads the names of methods in order of preference, or yes and no. Here the first decides.
    fn compression(&mut self) {
        let level = self.read("compression-level", "a whole number", whole);
        let method = self.read("compression", "a string", |json| match json {
            Json::Bool(on) => Some(if *on { "yes" } else { "no" }.to_owned()),
            json => text(json),
        });
        let Some(method) = method else { return };
        let value = match method.split(',').next().unwrap_or_default().trim() {
            _ if method == DEFAULT_COMPRESSION => None,
            "zlib" | "zlib@openssh.com" | "yes" => Some("zlib"),
            "none" | "no" => Some("none"),
            _ => {
                self.entry.warn(format!("compression {} has no counterpart", quote(&method)));
                None
            }
        };
        if let Some(value) = value {
            self.entry.set("compression", Value::Text(value.to_owned()));
        }
        if let Some(level) = level.filter(|&level| level != DEFAULT_COMPRESSION_LEVEL && value != Some("none")) {
            self.entry.warn(format!("compression-level {level} has no counterpart: libssh2 has one level only"));
        }
    }

    fn overload_threshold(&mut self) {
        let threshold = self.read("overload-threshold", "a number or #f", |json| match json {
            Json::Bool(false) => Some(Value::Boolean(false)),
            json => json.as_f64().map(Value::Number),
        });
        if let Some(threshold) = threshold.filter(|threshold| *threshold != Value::Number(0.8)) {
            self.entry.set("overload_threshold", threshold);
        }
    }

    fn problem(&mut self, message: String) {
        let name = match self.entry.get("name") {
            Some(Value::Text(name)) => format!(" ('{}')", plain(name)),
            _ => String::new(),
        };
        self.problems.push(Problem {
            file: self.entry.file.clone().unwrap_or_else(|| self.file.to_owned()),
            line: self.entry.line,
            column: None,
            message: format!("build machine {}{name}: {message}", self.number),
        });
    }
}

fn text(json: &Json) -> Option<String> {
    json.as_str().map(str::to_owned)
}

fn texts(json: &Json) -> Option<Vec<String>> {
    json.as_array()?.iter().map(text).collect()
}

/// Returns a whole number, which Scheme also writes with a point: `2.`.
fn whole(json: &Json) -> Option<u64> {
    let with_point = || json.as_f64().filter(|number| *number >= 0.0 && *number < 1e15 && number.fract() == 0.0);
    json.as_u64().or_else(|| with_point().map(|number| number as u64))
}

/// Returns a value as Scheme writes it, for messages.
fn written(json: &Json) -> String {
    let all = match json {
        Json::Bool(true) => "#t".to_owned(),
        Json::Bool(false) => "#f".to_owned(),
        Json::Array(items) => format!("({})", items.iter().take(10).map(written).collect::<Vec<_>>().join(" ")),
        Json::String(text) => quote(&text.chars().take(60).collect::<String>()),
        Json::Object(object) => object.get("other").and_then(Json::as_str).map(plain).unwrap_or_default(),
        other => other.to_string(),
    };
    all.chars().take(200).collect()
}
