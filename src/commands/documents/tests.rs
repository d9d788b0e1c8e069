//! The documents match the code. `tests/documents.rs` tests whether other programs can read them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::machine_file;
use super::*;
use crate::commands::help::definition;
use crate::machine_file::{BUILD_MACHINE_FIELDS, Field, LIMITS_FIELDS, LOCAL_MACHINE_FIELDS, POOL_FIELDS};

fn all() -> Vec<Document> {
    documents(definition())
}

fn text(name: &str) -> String {
    let document = all().into_iter().find(|document| document.path.ends_with(name));
    String::from_utf8(document.unwrap_or_else(|| panic!("no {name}")).contents).unwrap()
}

#[test]
fn each_command_has_a_page() {
    let names: BTreeSet<String> =
        all().iter().map(|document| document.path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    for command in definition().get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = format!("offload-{}.1", command.get_name());
        assert!(names.contains(&name), "{names:?}");
        // The manual has its forms, its statuses, and each option with an explanation.
        let section = command_page::section(command.get_name()).unwrap_or_default();
        assert!(!section.synopsis.is_empty(), "doc/manual/commands.md has no form of {}", command.get_name());
        for heading in ["DESCRIPTION", "OPTIONS", "\"EXIT STATUS\""] {
            assert!(text(&name).contains(&format!("\n.SH {heading}")), "{name}: {heading}");
        }
        for option in command.get_opts().filter(|option| !option.is_hide_set()) {
            let long = option.get_long().unwrap().replace('-', "\\-");
            assert!(text(&name).contains(&format!("\\-\\-{long}")), "{name}: {long}");
            assert!(option.get_help().is_some(), "{name}: {long} is not explained");
        }
        assert!(
            text("offload.1").contains(&format!("offload\\-{}\\fR(1)", command.get_name().replace('-', "\\-"))),
            "{}",
            text("offload.1")
        );
    }
}

#[test]
fn the_page_about_the_machine_file_has_every_field() {
    fn check<T>(page: &str, schema: &[Field<T>]) {
        for Field { name, .. } in schema {
            assert!(page.contains(&format!("\\fB{name}\\fR")), "{name} is not in the page");
        }
    }
    let page = text(machine_file::NAME);
    check(&page, BUILD_MACHINE_FIELDS);
    check(&page, LOCAL_MACHINE_FIELDS);
    check(&page, POOL_FIELDS);
    check(&page, LIMITS_FIELDS);
    assert!(page.contains("\\fBhost_key\\fR (string or list of strings, required)"), "{page}");
}

/// The manual page has every variable that the code names.
#[test]
fn the_environment_is_complete() {
    const INTERNAL: &[&str] = &[
        "OFFLOAD_WRAPPER",
        "OFFLOAD_VERSION",
        "OFFLOAD_COMPILER",
        "OFFLOAD_C_CODE",
        "OFFLOAD_COMMIT",
        "OFFLOAD_TEST_OUTPUT",
        "OFFLOAD_FAILPOINT_FILE",
    ];
    fn variables(directory: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                variables(&path, found);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for (start, _) in text.match_indices("\"OFFLOAD_").chain(text.match_indices("\"GUIX_")) {
                let rest = &text[start + 1..];
                let end = rest.find(|c: char| !c.is_ascii_uppercase() && c != '_').unwrap();
                if rest[end..].starts_with('"') && !rest[..end].ends_with('_') {
                    found.insert(rest[..end].to_owned());
                }
            }
        }
    }
    let mut found = BTreeSet::new();
    variables(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 5, "{found:?}");
    for name in found.iter().filter(|name| !INTERNAL.contains(&name.as_str())) {
        assert!(ENVIRONMENT.iter().any(|(known, _)| known == name), "{name} is in no manual page");
    }
}
