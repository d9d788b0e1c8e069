//! The annotations for editors name the functions of the module. Their fields: `tests/documentation/fields.rs`.

use super::*;
use std::collections::BTreeSet;

#[test]
fn every_function_of_the_module_is_annotated() {
    let annotated: BTreeSet<String> = ANNOTATIONS
        .lines()
        .filter_map(|line| line.strip_prefix("function ")?.split('(').next())
        .filter_map(|name| Some(name.strip_prefix("offload.")?.to_owned()))
        .collect();
    let site = Site::new(
        r#"
        local names = {}
        local function collect(prefix, table)
          for name, value in pairs(table) do
            if type(value) == "table" then collect(prefix .. name .. ".", value) else names[#names + 1] = prefix .. name end
          end
        end
        collect("", require "offload")
        table.sort(names)
        io.open(FILE, "w"):write(table.concat(names, "\n"))
        return {}"#,
    );
    let list = site.directory.path().join("names");
    let text = std::fs::read_to_string(site.path()).unwrap();
    std::fs::write(site.path(), text.replace("FILE", &format!("{:?}", list.display().to_string()))).unwrap();
    site.load().unwrap();
    let names: BTreeSet<String> = std::fs::read_to_string(list).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(annotated, names);
    for constructor in ["build_machine", "local_machine"] {
        assert!(ANNOTATIONS.contains(&format!("\nfunction {constructor}(")), "{constructor}");
    }
}

#[test]
fn the_annotations_are_lua() {
    mlua::Lua::new().load(ANNOTATIONS).into_function().unwrap();
    assert!(ANNOTATIONS.starts_with("---@meta offload\n"));
}
