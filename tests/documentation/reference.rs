//! Tables of the manual against the code: fields and defaults, functions, exit statuses, variables, files, tests.

use crate::page::{Page, manual, quoted, top};
use offload::exit::ExitStatus as Exit;
use offload::machine::Machine;
use offload::machine_file::{
    ANNOTATIONS, BUILD_MACHINE, DERIVATION_FIELDS, Field, LIMITS, LOCAL_MACHINE, Limits, LocalMachine, LuaRequest,
    LuaStatus, OUTPUT_FIELDS, POOL, Settings,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The first cells of a table, each one a name in back-quotes, and the second ones.
fn table(page: &Page) -> BTreeMap<String, String> {
    let mut table = BTreeMap::new();
    for row in page.rows() {
        let default = row.get(1).cloned().unwrap_or_default();
        for name in quoted(&row[0]) {
            let name = name.split('(').next().unwrap().to_owned();
            assert!(table.insert(name.clone(), default.clone()).is_none(), "{}: {name} twice", page.name);
        }
    }
    table
}

fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    names.into_iter().collect()
}

/// Defaults as the manual writes them. Fields that have none of their own are not here.
type Defaults = BTreeMap<&'static str, String>;

fn build_machine() -> Defaults {
    let machine = Machine::new("", "", Vec::new(), Vec::new());
    let mebibytes = |bytes: u64| format!("{} MiB", bytes >> 20);
    BTreeMap::from([
        ("port", machine.port.to_string()),
        ("daemon_socket", format!("{:?}", machine.daemon_socket)),
        ("compression", format!("{:?}", machine.compression.name())),
        ("parallel_builds", machine.parallel_builds.to_string()),
        ("speed", format!("{:?}", machine.speed)),
        ("overload_threshold", format!("{:?}", machine.overload_threshold.unwrap())),
        ("minimum_disk_space", mebibytes(machine.minimum_disk_space)),
        ("connect_timeout", machine.connect_timeout.as_secs().to_string()),
        ("stall_timeout", machine.stall_timeout.as_secs().to_string()),
        ("keepalive_interval", machine.keepalive_interval.as_secs().to_string()),
        ("keep_connection", machine.keep_connection.unwrap().as_secs().to_string()),
        ("max_transfers", machine.max_transfers.to_string()),
        ("enabled", machine.enabled.to_string()),
        ("use_substitutes", machine.use_substitutes.to_string()),
        ("features", none(machine.features.is_empty())),
    ])
}

fn none(is_none: bool) -> String {
    assert!(is_none);
    "none".to_owned()
}

fn local_machine() -> Defaults {
    let machine = LocalMachine::default();
    BTreeMap::from([
        ("speed", format!("{:?}", machine.speed)),
        ("features", none(machine.features.is_empty())),
        ("overload_threshold", format!("{:?}", machine.overload_threshold.unwrap())),
        ("enabled", machine.enabled.to_string()),
    ])
}

fn word(value: impl serde::Serialize) -> String {
    serde_json::to_string(&value).unwrap()
}

fn pool() -> Defaults {
    let settings = Settings::default();
    BTreeMap::from([
        ("when_busy", word(settings.when_busy)),
        ("when_unreachable", word(settings.when_unreachable)),
        ("max_attempts", settings.max_attempts.to_string()),
        ("wait_for_slot", settings.wait_for_slot.as_secs().to_string()),
    ])
}

fn limits() -> Defaults {
    let limits = Limits::default();
    BTreeMap::from([
        ("evaluate", limits.evaluate.as_secs_f64().to_string()),
        ("decide", limits.decide.as_secs_f64().to_string()),
        ("memory", format!("{} MiB", limits.memory >> 20)),
    ])
}

/// What the annotations say before each field of a class.
fn annotated(class: &str) -> BTreeMap<&'static str, String> {
    let mut lines = ANNOTATIONS.lines().skip_while(|line| *line != format!("---@class {class}")).skip(1);
    let (mut fields, mut comment) = (BTreeMap::new(), String::new());
    for line in lines.by_ref().map_while(|line| line.strip_prefix("---")) {
        match line.strip_prefix("@field ") {
            Some(field) => {
                let name = field.split([' ', '?']).next().unwrap();
                fields.insert(name, std::mem::take(&mut comment));
            }
            None => comment += &format!("{line} "),
        }
    }
    fields
}

#[test]
fn fields_and_defaults_of_the_machine_file() {
    let page = manual("machine-file.md");
    for (section, fields, defaults, class) in [
        ("`build_machine`", BUILD_MACHINE, build_machine(), "offload.BuildMachine"),
        ("`local_machine`", LOCAL_MACHINE, local_machine(), "offload.LocalMachine"),
        ("The pool", POOL, pool(), "offload.Pool"),
        ("`limits`", LIMITS, limits(), "offload.Limits"),
    ] {
        let table = table(&page.section(section));
        assert_eq!(names(table.keys().map(String::as_str)), names(fields.iter().map(|field| field.name)), "{section}");
        let annotated = annotated(class);
        for &Field { name, required } in fields {
            let cell = table[name].replace('`', "");
            assert_eq!(required, cell == "required", "{section}: {name}");
            let Some(default) = defaults.get(name) else { continue };
            assert_eq!(&cell, default, "{section}: default of {name}");
            let said = annotated[name].replace('`', "");
            let says = [". ", ": "].iter().any(|end| said.contains(&format!("Default {default}{end}")));
            assert!(says, "lua/offload.lua: default of {name}, which is {default}: {said}");
        }
    }
}

#[test]
fn what_functions_are_given() {
    let page = manual("machine-file.md");
    let section = |name: &str| table(&page.section(name)).into_keys().collect::<BTreeSet<_>>();
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
    let mut request = owned(&LuaRequest::FIELDS);
    request.insert("read_derivation".to_owned());
    assert_eq!(section("The request"), request);
    assert_eq!(section("The status of a machine"), owned(&LuaStatus::FIELDS));
    assert_eq!(section("A derivation"), owned(&DERIVATION_FIELDS));
    let outputs = page.section("A derivation").text;
    for field in OUTPUT_FIELDS {
        assert!(outputs.contains(&format!("`{field}`")), "{field} of an output");
    }
}

#[test]
fn functions_of_the_module() {
    let functions = ANNOTATIONS.lines().filter_map(|line| line.strip_prefix("function ")?.split('(').next());
    let functions = names(functions.filter_map(|name| name.strip_prefix("offload.")));
    let table = table(&manual("machine-file.md").section("The module `offload`"));
    assert_eq!(names(table.keys().map(String::as_str)), functions);
}

#[test]
fn exit_statuses() {
    let text = fs::read_to_string(top().join("src/exit.rs")).unwrap();
    let code = text.lines().filter_map(|line| line.trim().strip_prefix("/// ")?.split_once(": "));
    let code: BTreeSet<&str> = code.map(|(number, _)| number).filter(|n| n.parse::<u8>().is_ok()).collect();
    assert!(code.len() >= 8 && code.contains(Exit::TimedOut.code().to_string().as_str()), "{code:?}");
    let rows = manual("hook.md").section("Exit statuses").rows();
    let page: BTreeSet<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(page, code);
}

/// The texts between double quotes in `text` that `fits`, tests at its end left out.
fn literals(text: &str, fits: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.split('"').skip(1).filter(|text| fits(text)).map(str::to_owned).collect()
}

pub fn sources(directory: &Path) -> Vec<(String, String)> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources.extend(self::sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(top()).unwrap().display().to_string();
            sources.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    sources.sort();
    sources
}

/// Every variable of the environment that the code reads has its row, and no other.
#[test]
fn variables_of_the_environment() {
    let is_variable = |text: &str| {
        ["OFFLOAD_", "GUIX_", "NIX_"].iter().any(|start| text.starts_with(start))
            && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
    };
    let code = sources(&top().join("src"));
    // What a usual build does not have is not for users.
    let code = code.iter().filter(|(file, _)| !file.contains("/tests") && !file.ends_with("failpoints.rs"));
    let mut read: BTreeSet<String> = code.flat_map(|(_, text)| literals(text, is_variable)).collect();
    // From build.rs, and read by the compiler.
    read.remove("OFFLOAD_VERSION");
    read.remove("OFFLOAD_BUILT");
    let rows = table(&manual("hook.md").section("Variables of the environment"));
    let page: BTreeSet<String> = rows.into_keys().filter(|name| is_variable(name)).collect();
    assert_eq!(page, read);
}

/// Every file below the state directory has its row.
#[test]
fn files_in_the_state_directory() {
    let page = manual("hook.md").section("Files in the state directory");
    let rows: Vec<String> = page.rows().iter().flat_map(|row| quoted(&row[0])).collect();
    let code = sources(&top().join("src/state"));
    let mut found = 0;
    for (file, text) in code.iter().filter(|(file, _)| !file.contains("/tests")) {
        // Without the tests at the end of a file.
        let text = text.split("#[cfg(test)]").next().unwrap();
        let after = |start| text.split(start).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
        let records =
            after("Record::of(state, machine, \"").flat_map(|name| ["json", "lock"].map(|end| format!("{name}.{end}")));
        for name in after("join(\"").chain(after("with_file_name(\"")).chain(records) {
            found += 1;
            let is_there = rows.iter().any(|row| row.rsplit('/').next() == Some(&name));
            assert!(is_there, "{file}: no row for {name} in {rows:?}");
        }
    }
    assert!(found > 12, "only {found} files found");
}

/// Tests that pages name, as `tests/FILE.rs: NAME` or `src/FILE.rs: NAME`, exist.
#[test]
fn tests_that_are_named_exist() {
    let mut found = 0;
    for page in crate::page::pages() {
        for code in quoted(&page.prose()) {
            let Some((file, name)) = code.split_once(".rs: ") else { continue };
            found += 1;
            let file = format!("{file}.rs");
            let text =
                fs::read_to_string(top().join(&file)).unwrap_or_else(|error| panic!("{}: {file}: {error}", page.name));
            assert!(text.contains(&format!("fn {name}(")), "{}: {file} has no test {name}", page.name);
        }
    }
    assert!(found > 20, "only {found} tests are named");
}
