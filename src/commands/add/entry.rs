//! The text of an entry for the machine file.

use super::login::Facts;
use crate::commands::machines::own_system;
use crate::machine::{HostKey, Machine};

/// Returns the entry. Unknown values are left for the administrator.
pub fn entry(machine: &Machine, key: &HostKey, facts: Option<&Facts>) -> String {
    let mut lines = vec![format!("name = {},", lua(&machine.name))];
    if machine.port != 22 {
        lines.push(format!("port = {},", machine.port));
    }
    lines.push(format!("user = {},", lua(&machine.user)));
    if let Some(path) = &machine.private_key {
        lines.push(format!("private_key = {},", lua(&path.to_string_lossy())));
    }
    lines.push(format!("host_key = {},", lua(&key.to_openssh())));
    match facts.and_then(|facts| facts.system.as_deref()) {
        Some(system) => lines.push(format!("systems = {{ {} }},", lua(system))),
        None => {
            let own = own_system();
            lines.push(format!("systems = {{ {} }},  -- a guess: the machine did not report it", lua(&own)));
        }
    }
    if let Some(cores) = facts.and_then(|facts| facts.cores) {
        let noun = if cores == 1 { "processor" } else { "processors" };
        lines.push(format!("parallel_builds = 1,  -- it has {cores} {noun}"));
    }
    let lines: String = lines.iter().map(|line| format!("  {line}\n")).collect();
    format!("build_machine {{\n{lines}}},\n")
}

/// Quotes a string for Lua.
fn lua(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_ascii_control() => format!("\\{:03}", u32::from(c)),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

    #[test]
    fn the_entry_has_the_known_values() {
        let key = HostKey::parse(KEY).unwrap();
        let facts = Facts { system: Some("aarch64-linux".to_owned()), cores: Some(8) };
        let plain = Machine::new("b1", "offload", Vec::new(), Vec::new());
        let given = Machine { port: 2022, private_key: Some("/a \"b\"".into()), ..plain.clone() };
        let expected = format!(
            "build_machine {{\n  name = \"b1\",\n  port = 2022,\n  user = \"offload\",\n  private_key = \"/a \\\"b\\\"\",\n  \
             host_key = \"{KEY}\",\n  systems = {{ \"aarch64-linux\" }},\n  parallel_builds = 1,  -- it has 8 processors\n}},\n"
        );
        assert_eq!(entry(&given, &key, Some(&facts)), expected);
        assert!(entry(&plain, &key, None).contains("-- a guess"));
    }

    /// The user pastes the entry into a program: no text of it may end early or run code.
    #[test]
    fn every_text_of_the_entry_is_escaped() {
        let key = HostKey::parse(KEY).unwrap();
        let odd = "a\" .. ran .. \"\\\n\r\0]]--[[ü";
        let plain =
            Machine { private_key: Some("/key".into()), ..Machine::new("b1", "offload", Vec::new(), Vec::new()) };
        for (field, machine, system) in [
            ("name", Machine { name: odd.to_owned(), ..plain.clone() }, "x86_64-linux"),
            ("user", Machine { user: odd.to_owned(), ..plain.clone() }, "x86_64-linux"),
            ("private_key", Machine { private_key: Some(odd.into()), ..plain.clone() }, "x86_64-linux"),
            ("systems", plain.clone(), odd),
        ] {
            let facts = Facts { system: Some(system.to_owned()), cores: None };
            let text = entry(&machine, &key, Some(&facts));
            let lua = mlua::Lua::new();
            let list: mlua::Table = lua
                .load(format!("local function build_machine(t) return t end\nreturn {{ {text} }}"))
                .eval()
                .unwrap_or_else(|error| panic!("{field}: {error}\n{text}"));
            let found: mlua::Table = list.get(1).unwrap();
            let value = match found.get(field).unwrap() {
                mlua::Value::Table(list) => list.get(1).unwrap(),
                other => other,
            };
            assert!(value.as_string().is_some_and(|text| *text.as_bytes() == *odd.as_bytes()), "{field}\n{text}");
            assert_eq!(found.get::<String>("host_key").unwrap(), KEY, "{field}");
        }
    }
}
