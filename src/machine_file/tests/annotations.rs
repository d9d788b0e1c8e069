//! The annotations for editors say the same as the code: names of fields, which are optional, names of functions.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

/// The fields of each class, and whether they are required.
fn classes() -> BTreeMap<&'static str, BTreeMap<&'static str, bool>> {
    let mut classes: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    let mut class = "";
    for line in ANNOTATIONS.lines() {
        if let Some(name) = line.strip_prefix("---@class ") {
            class = name;
            classes.insert(class, BTreeMap::new());
        } else if let Some(field) = line.strip_prefix("---@field ") {
            let name = field.split(' ').next().unwrap();
            let required = !name.ends_with('?');
            let known = classes.get_mut(class).unwrap().insert(name.trim_end_matches('?'), required);
            assert_eq!(known, None, "{class}: {name} twice");
        }
    }
    classes
}

fn of(fields: &[Field]) -> BTreeMap<&'static str, bool> {
    fields.iter().map(|field| (field.name, field.required)).collect()
}

fn all(names: &[&'static str], required: bool) -> BTreeMap<&'static str, bool> {
    names.iter().map(|name| (*name, required)).collect()
}

#[test]
fn classes_have_the_fields_of_the_code() {
    let mut classes = classes();
    let mut class = |name| classes.remove(name).unwrap_or_default();
    assert_eq!(class("offload.BuildMachine"), of(BUILD_MACHINE));
    assert_eq!(class("offload.LocalMachine"), of(LOCAL_MACHINE));
    assert_eq!(class("offload.Limits"), of(LIMITS));
    let mut pool = of(POOL);
    pool.insert("[integer]", true);
    assert_eq!(class("offload.Pool"), pool);
    let mut request = all(&LuaRequest::FIELDS, true);
    request.insert("read_derivation", true);
    assert_eq!(class("offload.Request"), request);
    assert_eq!(class("offload.Status"), all(&LuaStatus::FIELDS, false));
    assert_eq!(class("offload.Derivation"), all(&DERIVATION_FIELDS, true));
    let mut output = all(&OUTPUT_FIELDS, false);
    output.insert("path", true);
    assert_eq!(class("offload.Output"), output);
    assert_eq!(classes, BTreeMap::new(), "classes that the code does not know");
}

/// The lists of names are those of the tables that Lua code sees.
#[test]
fn tables_have_the_fields_of_the_lists() {
    let lua = mlua::Lua::new();
    let keys = |table: &mlua::Table| -> BTreeSet<String> {
        table.pairs::<String, mlua::Value>().map(|pair| pair.unwrap().0).collect()
    };
    let status = LuaStatus {
        load: Some(0.0),
        loadavg: Some([0.0; 3]),
        cores: Some(1),
        pressure: Some(0.0),
        free_memory: Some(0),
        free_disk: Some(0),
        free_inodes: Some(0),
        running: Some(0),
        clock_skew: Some(0.0),
        age: Some(0.0),
        reachable: Some(true),
    };
    assert_eq!(keys(&status.to_lua(&lua).unwrap()), LuaStatus::FIELDS.map(str::to_owned).into());
    let request = LuaRequest::default().to_lua(&lua).unwrap();
    assert_eq!(keys(&request), LuaRequest::FIELDS.map(str::to_owned).into());
}

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
