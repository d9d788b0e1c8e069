//! Adding an entry to the text of a machine file.
//!
//! Comments and code stay. The text before and the text after are both evaluated: the new pool must be the old one with
//! one more machine, so a file that computes its list in some other way is not changed by mistake.

use std::path::Path;

use serde_json::{Value, json};

use super::constructors::Constructor;
use super::diagnostic::Report;
use super::machine_fields::{BUILD_MACHINE_FIELDS, Entry, LOCAL_MACHINE_FIELDS};
use super::pool::{LoadContext, Pool, load_text};
use super::schema::FieldValues;
use super::settings::POOL_FIELDS;
use crate::lua::with_item;
use crate::machine::Machine;

/// The text of a new machine file, without machines.
const EMPTY_FILE: &str = "-- The machine file of offload: see offload-machines.lua(5).\nreturn {\n}\n";

/// The marks before the first line, as some editors write it.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// The reason why no entry was added.
#[derive(Debug, thiserror::Error)]
pub enum InsertError {
    /// The file has errors already.
    #[error("{0}")]
    Broken(Report),
    #[error("it does not end in `return {{ … }}`")]
    Shape,
    #[error("its text is not UTF-8")]
    NotText,
    /// The file has the machine already, with other host keys.
    #[error("it has an entry for {address} already, with another host key")]
    OtherHostKey { address: String },
    /// The errors of the file with the entry.
    #[error("with the entry it would have errors: {0}")]
    Refused(Report),
    #[error("the entry would change other machines or settings in it")]
    Changes,
}

/// Returns the text of the machine file `path` with `entry`, which describes `machine`. `text` is its text now; `None`
/// if there is no such file. `Ok(None)`: it has the machine already, with the same host key.
pub fn insert(
    path: &Path,
    text: Option<&[u8]>,
    entry: &str,
    machine: &Machine,
    context: &LoadContext,
) -> Result<Option<String>, InsertError> {
    let text = std::str::from_utf8(text.unwrap_or(EMPTY_FILE.as_bytes())).map_err(|_| InsertError::NotText)?;
    let (head, code) = text.split_at(code_start(text));
    let load = |code: &str| load_text(path, code.as_bytes().to_vec(), context);
    let before = load(code).map_err(InsertError::Broken)?;
    let known = before.machines.iter().map(|entry| &entry.machine).find(|known| known.address() == machine.address());
    if let Some(known) = known {
        return match machine.host_keys.iter().all(|key| known.host_keys.contains(key)) {
            true => Ok(None),
            false => Err(InsertError::OtherHostKey { address: machine.address() }),
        };
    }
    let constructors = [Constructor::Build.name(), Constructor::Local.name()];
    let code = with_item(code, &constructors, entry).ok_or(InsertError::Shape)?;
    let after = load(&code).map_err(InsertError::Refused)?;
    match has_one_more(&before, &after, machine) {
        true => Ok(Some(format!("{head}{code}"))),
        false => Err(InsertError::Changes),
    }
}

/// Returns where the Lua code begins: after a byte order mark, and a first line with `#` (Lua 5.4 manual, section 7).
fn code_start(text: &str) -> usize {
    let mark = if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    let rest = &text[mark..];
    let line = if rest.starts_with('#') { rest.find('\n').unwrap_or(rest.len()) } else { 0 };
    mark + line
}

/// Returns whether `after` is `before` with `machine` added, apart from the lines of the entries.
fn has_one_more(before: &Pool, after: &Pool, machine: &Machine) -> bool {
    let entry = |entry: &Entry| json!(FieldValues(BUILD_MACHINE_FIELDS, entry));
    let rest = |pool: &Pool| {
        let local = pool.local.as_ref().map(|local| json!(FieldValues(LOCAL_MACHINE_FIELDS, local)));
        json!([local, FieldValues(POOL_FIELDS, &pool.settings)])
    };
    let is_new = |entry: &&Entry| entry.machine.address() == machine.address();
    let others: Vec<Value> = after.machines.iter().filter(|entry| !is_new(entry)).map(entry).collect();
    after.machines.iter().filter(is_new).count() == 1
        && others == before.machines.iter().map(entry).collect::<Vec<_>>()
        && rest(before) == rest(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::HostKey;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
    const OTHER_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL7IXUOk4UGVgqdIPoSuBaIAMeKniSBTCBBJ3SWoyb2u";

    fn machine(name: &str, key: &str) -> Machine {
        Machine::new(name, "u", vec!["x86_64-linux".to_owned()], vec![HostKey::parse(key).unwrap()])
    }

    fn entry(name: &str, key: &str) -> String {
        format!(
            "build_machine {{\n  name = \"{name}\", user = \"u\", system = \"x86_64-linux\", host_key = \"{key}\",\n}},\n"
        )
    }

    fn inserted(text: Option<&str>) -> Result<Option<String>, InsertError> {
        let text = text.map(|text| text.replace("KEY", KEY));
        let (path, machine) = (Path::new("machines.lua"), machine("new", KEY));
        insert(path, text.as_deref().map(str::as_bytes), &entry("new", KEY), &machine, &LoadContext::default())
    }

    #[test]
    fn a_new_file_has_the_machine_alone() {
        let text = inserted(None).unwrap().unwrap();
        assert!(text.starts_with("-- The machine file of offload"), "{text}");
        let pool = load_text(Path::new("x"), text.into_bytes(), &LoadContext::default()).unwrap();
        assert_eq!(pool.machines.len(), 1);
    }

    #[test]
    fn everything_else_in_the_file_stays() {
        let old = "\u{feff}#!/usr/bin/lua\n-- fast ones\nlocal key = \"KEY\"\nreturn {\n  build_machine { name = \"old\", \
                   user = \"u\", systems = { \"i686-linux\" }, host_key = key },  -- here\n  max_attempts = 2,\n}\n";
        let new = inserted(Some(old)).unwrap().unwrap();
        let before = "  -- here\n";
        let (start, end) = old.split_once(before).unwrap();
        assert!(new.starts_with(&format!("{}{before}  build_machine {{", start.replace("KEY", KEY))), "{new}");
        assert!(new.ends_with(&format!("  }},\n{end}")), "{new}");
    }

    /// Each is a valid file, and none can be extended.
    #[test]
    fn a_file_whose_list_is_computed_stays_as_it_is() {
        for text in [
            "local list = { }\nreturn list",
            "return setmetatable({ }, { })",
            // Its length decides about the others.
            "local function tail(t) if #t > 0 then t.max_attempts = 2 end return t end\nreturn (tail { })",
        ] {
            assert!(matches!(inserted(Some(text)), Err(InsertError::Shape)), "{text}");
        }
        // The item is found, and the constructor is another one.
        let text =
            "local real = build_machine\nlocal build_machine = function(t) t.port = 23 return real(t) end\nreturn { }";
        assert!(matches!(inserted(Some(text)), Err(InsertError::Changes)));
        let text = "local count = 0\nlocal real = build_machine\nlocal function build_machine(t) count = count + 1\n\
                    return real(t) end\nreturn { max_attempts = 1 + count, x = nil }";
        assert!(matches!(inserted(Some(text)), Err(InsertError::Changes)));
    }

    #[test]
    fn a_broken_file_is_reported_and_a_known_machine_is_not_added_again() {
        assert!(matches!(inserted(Some("return { x = 1 }")), Err(InsertError::Broken(_))));
        let text = |name: &str, key: &str| format!("return {{ {} {} }}", entry("old", KEY), entry(name, key));
        assert!(matches!(inserted(Some(&text("New.", KEY))), Ok(None)));
        assert!(matches!(inserted(Some(&text("new", OTHER_KEY))), Err(InsertError::OtherHostKey { .. })));
        assert!(matches!(inserted(Some(&text("other", OTHER_KEY))), Ok(Some(_))));
    }
}
