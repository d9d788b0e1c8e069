//! Decoding of those fields of `build_machine` and `local_machine` that are not a plain number, boolean or text.

use super::fields::Fields;
use crate::lua::nearest;
use crate::lua::values::{self, describe};
use crate::machine::{Compression, HostKey, NameFault, Substitutes, check_name, is_feature_name};
use mlua::Value;
use serde_json::Value as Json;
use std::path::PathBuf;
use std::time::Duration;

/// The system types that Guix has builds for.
const KNOWN_SYSTEMS: [&str; 12] = [
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
/// The longest time that a connection persists, in seconds (`remote::persist`).
const MAX_KEEP_CONNECTION_SECONDS: f64 = 600.0;
/// The limit of the bytes of names and texts in `tags`.
const MAX_TAGS_BYTES: usize = 64 << 10;
/// The limit of nested tables in `tags`.
const MAX_TAGS_DEPTH: usize = 8;

/// Converts to seconds in JSON, without a zero fraction.
pub(super) fn seconds_to_json(time: Duration) -> serde_json::Value {
    match time.subsec_nanos() {
        0 => time.as_secs().into(),
        _ => time.as_secs_f64().into(),
    }
}

pub(super) fn speed(fields: &mut Fields) -> Option<f64> {
    fields.positive("a number", f64::INFINITY)
}

/// Reads a threshold for the load; `Some(None)` ignores it.
pub(super) fn load(fields: &mut Fields) -> Option<Option<f64>> {
    fields.read("a number, 0 or above, or false to ignore the load", |value| match value {
        Value::Boolean(false) => Some(None),
        value => values::number(value).filter(|load| *load >= 0.0 && load.is_finite()).map(Some),
    })
}

pub(super) fn socket(fields: &mut Fields) -> Option<PathBuf> {
    fields.read("an absolute file name of no more than 107 bytes", |value| {
        values::string(value).filter(|path| path.starts_with('/') && path.len() <= 107).map(PathBuf::from)
    })
}

pub(super) fn name(fields: &mut Fields) -> Option<String> {
    const EXPECTED: &str = "a host name or address";
    let name = fields.string(EXPECTED)?;
    let hint = match check_name(&name) {
        Ok(()) => return Some(name),
        Err(NameFault::Port(port)) => Some(match port.parse::<u16>() {
            Ok(1..) => format!("give the port in its own field: port = {port}"),
            _ => "leave out the colon and what follows it".to_owned(),
        }),
        Err(NameFault::Account(user)) => {
            Some(format!("give the account in its own field: user = {}", values::quote(user)))
        }
        Err(NameFault::Brackets) => Some(without_brackets(&name)),
        Err(NameFault::Other) => None,
    };
    fields.error(format!("expected {EXPECTED}, found {}", values::quote(&name)), hint);
    None
}

/// The hint for an IPv6 address in brackets. A port behind them would become part of the address without them.
fn without_brackets(name: &str) -> String {
    let (address, port) = name.trim_start_matches('[').split_once(']').unwrap_or((name, ""));
    let port = port.strip_prefix(':').filter(|port| matches!(port.parse::<u16>(), Ok(1..)));
    match (check_name(address), port) {
        (Ok(()), Some(port)) => format!("write name = {}, port = {port}", values::quote(address)),
        (Ok(()), None) => format!("write an IPv6 address without brackets: name = {}", values::quote(address)),
        _ => "write an IPv6 address without brackets".to_owned(),
    }
}

pub(super) fn user(fields: &mut Fields) -> Option<String> {
    let fits = |user: &String| {
        let is_bare = !user.contains(|c: char| c.is_whitespace() || c.is_control());
        // The name appears in commands to copy, where it must not be taken for an option.
        !user.is_empty() && user.len() <= 255 && !user.starts_with('-') && is_bare
    };
    fields.read("the name of an account on the build machine", |value| values::string(value).filter(fits))
}

pub(super) fn host_keys(fields: &mut Fields) -> Option<Vec<HostKey>> {
    const EXPECTED: &str = "a host key in OpenSSH form, \"ssh-ed25519 AAAA…\"";
    if fields.is_missing(EXPECTED) {
        return None;
    }
    let texts = match values::string(&fields.value()) {
        Some(text) => vec![text],
        None => fields.strings(&format!("{EXPECTED}, or a list of them"), |_| Ok(()))?,
    };
    if texts.is_empty() {
        fields.error(format!("expected {EXPECTED}, found an empty list"), None);
        return None;
    }
    let mut keys = Vec::with_capacity(texts.len());
    for text in &texts {
        match HostKey::parse(text) {
            Ok(key) => keys.push(key),
            Err(error) => fields.error(error.to_string(), error.hint()),
        }
    }
    (keys.len() == texts.len()).then_some(keys)
}

/// Warns of `system`, which the constructor has converted to `systems`.
pub(super) fn system(fields: &mut Fields) -> Option<()> {
    let value = fields.value();
    if values::string(&value).is_some() {
        fields.warning("deprecated", Some(format!("write systems = {{ {} }}", describe(&value))));
    } else if !value.is_nil() {
        let message = format!("expected a system type, such as \"x86_64-linux\", found {}", describe(&value));
        fields.error(message, Some("the field is now called 'systems'".to_owned()));
    }
    None
}

pub(super) fn systems(fields: &mut Fields) -> Option<Vec<String>> {
    const EXPECTED: &str = "a list of system types, such as { \"x86_64-linux\" }";
    if fields.value().is_nil() && !fields.get("system").is_nil() {
        return None;
    }
    let systems = fields.strings(EXPECTED, |system| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
        match !system.is_empty() && system.bytes().all(plain) {
            true => Ok(()),
            false => Err("a system type, such as \"x86_64-linux\"".to_owned()),
        }
    })?;
    if systems.is_empty() {
        fields.error(format!("expected {EXPECTED}, found an empty list"), None);
        return None;
    }
    for system in systems.iter().filter(|system| !KNOWN_SYSTEMS.contains(&system.as_str())) {
        if let Some(meant) = nearest(system, KNOWN_SYSTEMS) {
            let hint = Some(format!("did you mean \"{meant}\"?"));
            fields.warning(format!("{} is not a system type of Guix", values::quote(system)), hint);
        }
    }
    Some(systems)
}

pub(super) fn features(fields: &mut Fields) -> Option<Vec<String>> {
    fields.strings("a list of strings, such as { \"kvm\" }", |feature| match is_feature_name(feature) {
        true => Ok(()),
        false => Err("the name of a feature (letters, digits and + - . _ ? =)".to_owned()),
    })
}

pub(super) fn private_key(fields: &mut Fields) -> Option<PathBuf> {
    if values::string(&fields.value()).is_some_and(|text| text.contains("PRIVATE KEY-----")) {
        fields.error("expected the name of a file, found a private key itself", None);
        return None;
    }
    file_name(fields)
}

pub(super) fn file_name(fields: &mut Fields) -> Option<PathBuf> {
    const EXPECTED: &str = "an absolute file name, or one that begins with ~/";
    let text = fields.string(EXPECTED)?;
    match (text.strip_prefix("~/"), fields.home) {
        (Some(rest), Some(home)) => Some(home.join(rest)),
        (Some(_), None) => {
            fields.error(format!("{text}: the home directory of this account is not known"), None);
            None
        }
        (None, _) if text.starts_with('/') => Some(PathBuf::from(text)),
        (None, _) => {
            fields.error(format!("expected {EXPECTED}, found {}", values::quote(&text)), None);
            None
        }
    }
}

/// Reads the spellings of Guix, which are those of libssh: method names in order of preference, or yes and no.
pub(super) fn compression(fields: &mut Fields) -> Option<Compression> {
    fields.read("\"auto\", \"zlib\" or \"none\"", |value| {
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

pub(super) fn compression_level(fields: &mut Fields) -> Option<()> {
    if !fields.value().is_nil() {
        fields.whole::<u64>(0, 9);
        fields.warning("it has no effect: libssh2 has one level only", None);
    }
    None
}

pub(super) fn keep_connection(fields: &mut Fields) -> Option<Option<Duration>> {
    let expected = format!("a number of seconds above 0, up to {MAX_KEEP_CONNECTION_SECONDS}, or false for none");
    fields.read(&expected, |value| match value {
        Value::Boolean(false) => Some(None),
        value => {
            let seconds =
                values::number(value).filter(|seconds| *seconds > 0.0 && *seconds <= MAX_KEEP_CONNECTION_SECONDS)?;
            Some(Some(Duration::from_secs_f64(seconds)))
        }
    })
}

/// Reads when to fetch substitutes. `builders-use-substitutes` of Nix is a boolean.
pub(super) fn substitutes(fields: &mut Fields) -> Option<Substitutes> {
    const EXPECTED: &str = "\"auto\", \"always\" or \"never\"";
    if let Value::Boolean(is_used) = fields.value() {
        let hint = format!("write \"{}\"", if is_used { "always" } else { "never" });
        fields.error(format!("expected {EXPECTED}, found {is_used}"), Some(hint));
        return None;
    }
    fields.read(EXPECTED, |value| {
        let text = values::string(value)?;
        [Substitutes::Auto, Substitutes::Always, Substitutes::Never].into_iter().find(|one| one.name() == text)
    })
}

/// Reads URLs of substitute servers. They are sent to the daemon as one text with blanks between them.
pub(super) fn substitute_urls(fields: &mut Fields) -> Option<Vec<String>> {
    const EXPECTED: &str = "a list of URLs, such as { \"https://ci.guix.gnu.org\" }";
    fields.strings(EXPECTED, |url| {
        let rest = ["https://", "http://", "file://"].iter().find_map(|scheme| url.strip_prefix(scheme));
        match rest.is_some_and(|rest| !rest.is_empty()) && url.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(()),
            false => Err("a URL that begins with https://, http:// or file://".to_owned()),
        }
    })
}

pub(super) fn proxy_command(fields: &mut Fields) -> Option<Vec<String>> {
    const EXPECTED: &str = "a list of arguments, such as { \"ssh\", \"-W\", \"%h:%p\", \"bastion\" }";
    let command = fields.strings(EXPECTED, |_| Ok(()))?;
    if command.first().is_none_or(String::is_empty) {
        fields.error(format!("expected {EXPECTED}, found no program to run"), None);
        return None;
    }
    Some(command)
}

pub(super) fn tags(fields: &mut Fields) -> Option<serde_json::Map<String, Json>> {
    let tags = Value::Table(fields.table()?);
    match to_json(&tags, MAX_TAGS_DEPTH, &mut { MAX_TAGS_BYTES }) {
        Ok(Json::Object(tags)) => return Some(tags),
        Ok(_) => fields.error("expected values with names, such as { rack = \"B3\" }, found a list", None),
        Err(message) => fields.error(message, None),
    }
    None
}

/// Converts a Lua value to JSON. The error has the names of the tables that contain the fault, and the fault. `levels`
/// limits the nesting of tables. `room` is the rest of the limit of bytes for names and texts; each value takes one
/// byte, so that tables which are used in many places cannot grow without a limit.
fn to_json(value: &Value, levels: usize, room: &mut usize) -> Result<Json, String> {
    let text = values::string(value);
    let size = 1 + text.as_ref().map_or(0, String::len);
    *room = room.checked_sub(size).ok_or_else(|| format!("expected no more than {} KiB", MAX_TAGS_BYTES >> 10))?;
    match value {
        Value::Boolean(value) => Ok((*value).into()),
        Value::Integer(value) => Ok((*value).into()),
        Value::Number(value) if value.is_finite() => Ok((*value).into()),
        Value::Table(_) if levels == 0 => Err(format!("expected no more than {MAX_TAGS_DEPTH} levels of tables")),
        Value::Table(table) => match values::list(value) {
            Ok(Ok(items)) if !items.is_empty() => {
                let items = (1..).zip(&items).map(|(index, item)| {
                    to_json(item, levels - 1, room).map_err(|message| format!("item {index}: {message}"))
                });
                items.collect()
            }
            _ => {
                table.pairs::<Value, Value>().filter_map(Result::ok).map(|pair| named(pair, levels - 1, room)).collect()
            }
        },
        other => {
            let found = describe(other);
            text.map(Json::String)
                .ok_or(format!("expected a string in UTF-8, a number, true, false or a table, found {found}"))
        }
    }
}

fn named((name, value): (Value, Value), levels: usize, room: &mut usize) -> Result<(String, Json), String> {
    let Json::String(name) = to_json(&name, 0, room)? else {
        return Err(format!("expected names, or a list without holes, found the index {}", describe(&name)));
    };
    let value = to_json(&value, levels, room).map_err(|message| format!("{}: {message}", name.escape_debug()))?;
    Ok((name, value))
}
