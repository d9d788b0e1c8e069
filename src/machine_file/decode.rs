//! From the table of a `build_machine` or `local_machine` to a value of Rust, checked.

use super::fields::{BUILD_MACHINE, Fields, LOCAL_MACHINE};
use super::suggest;
use super::values::{self, describe};
use crate::machine::{Compression, HostKey, Machine, NameFault, check_name};
use mlua::{Function, Value};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The system types that Guix has builds for.
const SYSTEMS: [&str; 12] = [
    "x86_64-linux",
    "i686-linux",
    "aarch64-linux",
    "armhf-linux",
    "powerpc64le-linux",
    "powerpc-linux",
    "riscv64-linux",
    "mips64el-linux",
    "loongarch64-linux",
    "i586-gnu",
    "x86_64-gnu",
    "x86_64-linux-gnux32",
];
/// No wait on a link to a build machine is longer than a day.
const MAX_SECONDS: f64 = 86400.0;
/// No connection is kept for longer than ten minutes (`remote::kept`).
const MAX_KEPT_SECONDS: f64 = 600.0;

/// The head itself, as a candidate.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalMachine {
    /// System types it builds for; `None`: its own.
    pub systems: Option<Vec<String>>,
    /// Relative speed, above 0. Default 1.0.
    pub speed: f64,
    /// Features it offers. Default none.
    pub features: Vec<String>,
    /// One-minute load over cores above which it is passed over; `None` ignores the load. Default 0.8.
    pub overload_threshold: Option<f64>,
    /// False: never chosen. Default true.
    pub enabled: bool,
}

impl Default for LocalMachine {
    fn default() -> LocalMachine {
        LocalMachine { systems: None, speed: 1.0, features: Vec::new(), overload_threshold: Some(0.8), enabled: true }
    }
}

/// The functions of a machine or of the pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct MachineFunctions {
    pub accepts: Option<Function>,
    pub score: Option<Function>,
}

impl MachineFunctions {
    pub fn read(fields: &mut Fields) -> MachineFunctions {
        MachineFunctions { accepts: fields.function("accepts"), score: fields.function("score") }
    }
}

/// A build machine, if nothing that it cannot do without is wrong. `home` is what `~` stands for.
pub(super) fn build_machine(fields: &mut Fields, home: Option<&Path>) -> Option<(Machine, MachineFunctions)> {
    fields.unknown(BUILD_MACHINE, false);
    let name = name(fields);
    let user = user(fields);
    let host_keys = host_keys(fields);
    let systems = systems(fields);
    let mut machine =
        Machine::new(&name.clone().unwrap_or_default(), &user.clone().unwrap_or_default(), Vec::new(), Vec::new());
    if let Some(port) = fields.whole("port", 1, u64::from(u16::MAX)).and_then(|port| u16::try_from(port).ok()) {
        machine.port = port;
    }
    machine.private_key = private_key(fields, home);
    let absolute = "an absolute file name of no more than 107 bytes";
    let socket = |value: &Value| values::string(value).filter(|path| path.starts_with('/') && path.len() <= 107);
    if let Some(socket) = fields.read("daemon_socket", absolute, socket) {
        machine.daemon_socket = PathBuf::from(socket);
    }
    if let Some(compression) = compression(fields) {
        machine.compression = compression;
    }
    if let Some(slots) = fields.whole("parallel_builds", 1, 1000) {
        machine.parallel_builds = slots as u32;
    }
    common(fields, &mut machine.speed, &mut machine.overload_threshold, &mut machine.enabled);
    machine.features = features(fields);
    if let Some(bytes) = fields.whole("minimum_disk_space", 0, u64::MAX) {
        machine.minimum_disk_space = bytes;
    }
    for (field, value) in [
        ("connect_timeout", &mut machine.connect_timeout),
        ("stall_timeout", &mut machine.stall_timeout),
        ("keepalive_interval", &mut machine.keepalive_interval),
    ] {
        if let Some(seconds) = fields.positive(field, "a number of seconds", MAX_SECONDS) {
            *value = Duration::from_secs_f64(seconds);
        }
    }
    if let Some(keep) = keep_connection(fields) {
        machine.keep_connection = keep;
    }
    if let Some(transfers) = fields.whole("max_transfers", 1, 1000) {
        machine.max_transfers = transfers as u32;
    }
    machine.proxy_command = proxy_command(fields);
    if let Some(use_substitutes) = fields.boolean("use_substitutes") {
        machine.use_substitutes = use_substitutes;
    }
    let functions_of_machine = MachineFunctions::read(fields);
    name.and(user)?;
    Some((Machine { host_keys: host_keys?, systems: systems?, ..machine }, functions_of_machine))
}

/// The head itself.
pub(super) fn local_machine(fields: &mut Fields) -> (LocalMachine, MachineFunctions) {
    fields.unknown(LOCAL_MACHINE, false);
    fields.string("name", "a name to show in messages");
    let systems = if fields.get("systems").is_nil() { None } else { systems(fields) };
    let mut machine = LocalMachine { systems, features: features(fields), ..LocalMachine::default() };
    common(fields, &mut machine.speed, &mut machine.overload_threshold, &mut machine.enabled);
    (machine, MachineFunctions::read(fields))
}

fn common(fields: &mut Fields, speed: &mut f64, threshold: &mut Option<f64>, enabled: &mut bool) {
    if let Some(number) = fields.positive("speed", "a number", f64::INFINITY) {
        *speed = number;
    }
    let load = |value: &Value| match value {
        Value::Boolean(false) => Some(None),
        value => values::number(value).filter(|load| *load >= 0.0 && load.is_finite()).map(Some),
    };
    if let Some(load) = fields.read("overload_threshold", "a number, 0 or above, or false to ignore the load", load) {
        *threshold = load;
    }
    if let Some(given) = fields.boolean("enabled") {
        *enabled = given;
    }
}

fn name(fields: &mut Fields) -> Option<String> {
    const EXPECTED: &str = "a host name or address";
    let name = fields.required("name", EXPECTED, |value| values::string(value).filter(|name| !name.is_empty()))?;
    let hint = match check_name(&name) {
        Ok(()) => return Some(name),
        Err(NameFault::Port(port)) => Some(format!("give the port in its own field: port = {port}")),
        Err(NameFault::Account(user)) => {
            Some(format!("give the account in its own field: user = {}", values::quote(user)))
        }
        Err(NameFault::Brackets) => Some("write an IPv6 address without brackets".to_owned()),
        Err(NameFault::Other) => None,
    };
    fields.error("name", format!("expected {EXPECTED}, found {}", values::quote(&name)), hint);
    None
}

fn user(fields: &mut Fields) -> Option<String> {
    let fits = |user: &String| {
        let is_bare = !user.contains(|c: char| c.is_whitespace() || c.is_control());
        // What is offered to be pasted must not be taken for an option.
        !user.is_empty() && user.len() <= 255 && !user.starts_with('-') && is_bare
    };
    fields.required("user", "the name of an account on the build machine", |value| values::string(value).filter(fits))
}

fn host_keys(fields: &mut Fields) -> Option<Vec<HostKey>> {
    const EXPECTED: &str = "a host key in OpenSSH form, \"ssh-ed25519 AAAA…\"";
    if fields.missing("host_key", EXPECTED) {
        return None;
    }
    let value = fields.get("host_key");
    let texts = match values::string(&value) {
        Some(text) => vec![text],
        None => fields.strings("host_key", &format!("{EXPECTED}, or a list of them"), |_| Ok(()))?,
    };
    if texts.is_empty() {
        fields.error("host_key", format!("expected {EXPECTED}, found an empty list"), None);
        return None;
    }
    let mut keys = Vec::with_capacity(texts.len());
    for text in &texts {
        match HostKey::parse(text) {
            Ok(key) => keys.push(key),
            Err(error) => fields.error("host_key", error.to_string(), error.hint().map(str::to_owned)),
        }
    }
    (keys.len() == texts.len()).then_some(keys)
}

fn systems(fields: &mut Fields) -> Option<Vec<String>> {
    const EXPECTED: &str = "a list of system types, such as { \"x86_64-linux\" }";
    let deprecated = fields.get("system");
    if !deprecated.is_nil() {
        if values::string(&deprecated).is_none() {
            let message = format!("expected a system type, such as \"x86_64-linux\", found {}", describe(&deprecated));
            fields.error("system", message, Some("the field is now called 'systems'".to_owned()));
            return None;
        }
        let hint = describe(&deprecated);
        fields.warning("system", "deprecated", Some(format!("write systems = {{ {hint} }}")));
    }
    if fields.missing("systems", EXPECTED) {
        return None;
    }
    let systems = fields.strings("systems", EXPECTED, |system| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
        match !system.is_empty() && system.bytes().all(plain) {
            true => Ok(()),
            false => Err("a system type, such as \"x86_64-linux\"".to_owned()),
        }
    })?;
    if systems.is_empty() {
        fields.error("systems", format!("expected {EXPECTED}, found an empty list"), None);
        return None;
    }
    for system in systems.iter().filter(|system| !SYSTEMS.contains(&system.as_str())) {
        if let Some(meant) = suggest::nearest(system, SYSTEMS) {
            let hint = Some(format!("did you mean \"{meant}\"?"));
            fields.warning("systems", format!("{} is no system type of Guix", values::quote(system)), hint);
        }
    }
    Some(systems)
}

fn features(fields: &mut Fields) -> Vec<String> {
    let features = fields.strings("features", "a list of strings, such as { \"kvm\" }", |feature| {
        // The daemon hands them over separated by commas, after checking them as it checks names of store items.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte);
        match !feature.is_empty() && feature.bytes().all(plain) {
            true => Ok(()),
            false => Err("the name of a feature (letters, digits and + - . _ ? =)".to_owned()),
        }
    });
    features.unwrap_or_default()
}

fn private_key(fields: &mut Fields, home: Option<&Path>) -> Option<PathBuf> {
    const EXPECTED: &str = "an absolute file name, or one that begins with ~/";
    let text = fields.string("private_key", EXPECTED)?;
    if text.contains("PRIVATE KEY-----") {
        fields.error("private_key", "expected the name of a file, found a private key itself", None);
        return None;
    }
    match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => Some(home.join(rest)),
        (Some(_), None) => {
            fields.error("private_key", format!("{text}: the home directory of this account is not known"), None);
            None
        }
        (None, _) if text.starts_with('/') => Some(PathBuf::from(text)),
        (None, _) => {
            fields.error("private_key", format!("expected {EXPECTED}, found {}", values::quote(&text)), None);
            None
        }
    }
}

/// The spellings of Guix are those of libssh: method names in order of preference, or yes and no.
fn compression(fields: &mut Fields) -> Option<Compression> {
    if !fields.get("compression_level").is_nil() {
        fields.whole("compression_level", 0, 9);
        fields.warning("compression_level", "it has no effect: libssh2 has one level only", None);
    }
    fields.read("compression", "\"auto\", \"zlib\" or \"none\"", |value| {
        let text = values::string(value)?;
        let mut methods = text.split(',').map(|method| match method.trim() {
            "auto" => Some(Compression::Auto),
            "zlib" | "zlib@openssh.com" | "yes" => Some(Compression::Zlib),
            "none" | "no" => Some(Compression::None),
            _ => None,
        });
        let first = methods.next()??;
        methods.all(|method| method.is_some()).then_some(first)
    })
}

fn keep_connection(fields: &mut Fields) -> Option<Option<Duration>> {
    let expected = format!("a number of seconds above 0, up to {MAX_KEPT_SECONDS}, or false to keep none");
    fields.read("keep_connection", &expected, |value| match value {
        Value::Boolean(false) => Some(None),
        value => {
            let seconds = values::number(value).filter(|seconds| *seconds > 0.0 && *seconds <= MAX_KEPT_SECONDS)?;
            Some(Some(Duration::from_secs_f64(seconds)))
        }
    })
}

fn proxy_command(fields: &mut Fields) -> Option<Vec<String>> {
    const EXPECTED: &str = "a list of arguments, such as { \"ssh\", \"-W\", \"%h:%p\", \"bastion\" }";
    let command = fields.strings("proxy_command", EXPECTED, |_| Ok(()))?;
    if command.first().is_none_or(String::is_empty) {
        fields.error("proxy_command", format!("expected {EXPECTED}, found no program to run"), None);
        return None;
    }
    Some(command)
}
