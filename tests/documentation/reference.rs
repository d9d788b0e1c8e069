//! Tables of the manual against the code: functions, exit statuses, variables, files, tests.

use crate::page::{Page, manual, quoted, top};
use offload::internals::exit::ExitStatus as Exit;
use offload::internals::machine_file::ANNOTATIONS;
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

#[test]
fn every_function_of_the_module_has_its_row() {
    let functions = ANNOTATIONS.lines().filter_map(|line| line.strip_prefix("function ")?.split('(').next());
    let functions = names(functions.filter_map(|name| name.strip_prefix("offload.")));
    let table = table(&manual("machine-file.md").section("The module `offload`"));
    assert_eq!(names(table.keys().map(String::as_str)), functions);
}

#[test]
fn every_exit_status_has_its_row() {
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
fn every_variable_of_the_environment_has_its_row() {
    let is_variable = |text: &str| {
        ["OFFLOAD_", "GUIX_", "NIX_"].iter().any(|start| text.starts_with(start))
            && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
    };
    let code = sources(&top().join("src"));
    // A usual build does not have this file.
    let code = code.iter().filter(|(file, _)| !file.contains("/tests") && !file.ends_with("failpoints.rs"));
    let mut read: BTreeSet<String> = code.flat_map(|(_, text)| literals(text, is_variable)).collect();
    // From build.rs, and read by the compiler.
    read.remove("OFFLOAD_VERSION");
    read.remove("OFFLOAD_COMPILER");
    read.remove("OFFLOAD_C_CODE");
    let rows = table(&manual("hook.md").section("Environment variables"));
    let page: BTreeSet<String> = rows.into_keys().filter(|name| is_variable(name)).collect();
    assert_eq!(page, read);
}

/// Every file below the state directory has its row.
#[test]
fn every_file_of_the_state_has_its_row() {
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
        let files = after("join(\"").chain(after("self.file(\"")).chain(after("with_file_name(\""));
        // Other texts are joined, too.
        for name in files.filter(|name| !name.contains(' ')).chain(records) {
            found += 1;
            let is_there = rows.iter().any(|row| row.rsplit('/').next() == Some(&name));
            assert!(is_there, "{file}: no row for {name} in {rows:?}");
        }
    }
    assert!(found > 12, "only {found} files found");
}

/// `tests/mutants` has a table from folders to the tests of their topic.
#[test]
fn tests_of_each_topic_exist() {
    let script = std::fs::read_to_string(top().join("tests/mutants")).unwrap();
    let table = script.split_once("<<'TABLE'\n").and_then(|(_, rest)| rest.split_once("\nTABLE\n")).unwrap().0;
    assert!(table.lines().count() > 10, "{table}");
    for (folder, line) in table.lines().map(|line| (line.split(' ').next().unwrap(), line)) {
        let (_, tests) = line.split_once('|').unwrap_or_else(|| panic!("{line}"));
        let source = top().join("src").join(folder);
        assert!(source.is_dir() || source.with_extension("rs").is_file(), "there is no src/{folder}");
        for test in tests.split_whitespace() {
            let path = top().join("tests").join(test);
            assert!(path.join("main.rs").is_file() || path.with_extension("rs").is_file(), "there is no test {test}");
        }
    }
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
