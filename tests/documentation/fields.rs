//! What the documentation says of fields is written from their declarations: the classes in `lua/offload.lua`, and the
//! tables in `doc/manual/machine-file.md`. `OFFLOAD_WRITE_FIELDS=1 cargo test --test documentation fields` writes them;
//! without the variable the tests fail where a file differs.

use crate::page::{manual, quoted, top};
use offload::internals::machine_file::{
    ANNOTATIONS, BUILD_MACHINE_FIELDS, DERIVATION_FIELDS, EVENT_FIELDS, Field, LIMITS_FIELDS, LOCAL_MACHINE_FIELDS,
    ON_DEMAND_FIELDS, ON_DEMAND_LIMITS_FIELDS, OUTPUT_FIELDS, POOL_FIELDS, REQUEST_FIELDS, SHARED_FIELDS,
    STATUS_FIELDS,
};
use std::fs;

/// The longest line of the annotations.
const WIDTH: usize = 120;

/// The fields of a class of the annotations; `is_given`: each of them has a value.
fn class<T: Default>(schema: &[Field<T>], is_given: bool) -> String {
    let mut text = String::new();
    for field in schema {
        let mut about = field.about.to_owned();
        if !field.unit.is_empty() {
            about += &format!(" In {}.", field.unit);
        }
        if let Some(default) = field.default_text() {
            about += &format!(" Default: {default}.");
        }
        text += &comment(&about);
        let mark = if field.required || is_given { "" } else { "?" };
        text += &format!("---@field {}{mark} {}\n", field.name, field.lua);
    }
    text
}

/// The fields of a class of what functions are given; those after the first `given` may be nil.
fn class_of_given<T>(schema: &[Field<T>], given: usize) -> String {
    let mut text = String::new();
    for (number, field) in schema.iter().enumerate() {
        let unit = if field.unit.is_empty() { String::new() } else { format!(" In {}.", field.unit) };
        text += &comment(&format!("{}{unit}", field.about));
        text += &format!("---@field {}{} {}\n", field.name, if number < given { "" } else { "?" }, field.lua);
    }
    text
}

/// Text in lines of a comment.
fn comment(text: &str) -> String {
    let mut lines = vec![String::from("---")];
    for word in text.split(' ') {
        let line = lines.last_mut().unwrap();
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(format!("---{word}"));
        } else {
            *line += if line.len() > 3 { " " } else { "" };
            *line += word;
        }
    }
    lines.join("\n") + "\n"
}

/// A table of the manual with the defaults of fields.
fn table<T: Default>(schema: &[Field<T>]) -> String {
    let mut text = "| field | type | default | meaning |\n|---|---|---|---|\n".to_owned();
    for field in schema {
        let default = match field.default_text() {
            Some(default) => format!("`{default}`"),
            None if field.required => "required".to_owned(),
            None => "none".to_owned(),
        };
        text += &format!("| `{}` | {} | {default} | {} |\n", field.name, field.kind(), field.about);
    }
    text
}

/// A table of the manual for what functions are given.
fn table_of_given<T>(schema: &[Field<T>]) -> String {
    let mut text = "| field | type | meaning |\n|---|---|---|\n".to_owned();
    for field in schema {
        text += &format!("| `{}` | {} | {} |\n", field.name, field.kind(), field.about);
    }
    text
}

/// Holds `file` against the same with the text between the end of `start` and `end` exchanged, for each of `parts`.
fn check(file: &str, end: &str, parts: &[(String, String)]) {
    let path = top().join(file);
    let known = fs::read_to_string(&path).unwrap();
    let mut made = known.clone();
    for (start, part) in parts {
        let start = made.find(start.as_str()).unwrap_or_else(|| panic!("{file}: no {start}")) + start.len();
        let length = made[start..].find(end).unwrap_or_else(|| panic!("{file}: no end after {}", &made[..start]));
        made.replace_range(start..start + length, part.trim_end());
    }
    if std::env::var_os("OFFLOAD_WRITE_FIELDS").is_some() {
        fs::write(&path, made).unwrap();
    } else if made != known {
        let line = made.lines().zip(known.lines()).find(|(made, known)| made != known).map(|(made, _)| made);
        panic!("{file} is not what the fields say; OFFLOAD_WRITE_FIELDS=1 writes it anew. Expected: {line:?}");
    }
}

#[test]
fn the_annotations_are_those_of_the_fields() {
    let class = |name: &str, fields| (format!("---@class offload.{name}\n"), fields);
    let parts = [
        class("BuildMachine", self::class(BUILD_MACHINE_FIELDS, false)),
        class("LocalMachine", self::class(LOCAL_MACHINE_FIELDS, false)),
        class(
            "Pool",
            "---@field [integer] offload.BuildMachine|offload.LocalMachine\n".to_owned()
                + &self::class(POOL_FIELDS, false),
        ),
        class("Limits", self::class(LIMITS_FIELDS, false)),
        class("OnDemand", self::class(ON_DEMAND_FIELDS, false)),
        class("OnDemandLimits", self::class(ON_DEMAND_LIMITS_FIELDS, false)),
        class("SharedPool", self::class(SHARED_FIELDS, false)),
        class("Request", self::class(REQUEST_FIELDS, true)),
        class("Status", self::class(STATUS_FIELDS, false)),
        class("Event", class_of_given(EVENT_FIELDS, 3)),
    ];
    check("lua/offload.lua", "\n\n", &parts);
}

#[test]
fn the_tables_of_the_manual_are_those_of_the_fields() {
    let parts = [
        ("build_machine", table(BUILD_MACHINE_FIELDS)),
        ("local_machine", table(LOCAL_MACHINE_FIELDS)),
        ("the pool", table(POOL_FIELDS)),
        ("limits", table(LIMITS_FIELDS)),
        ("on_demand", table(ON_DEMAND_FIELDS)),
        ("on_demand of the pool", table(ON_DEMAND_LIMITS_FIELDS)),
        ("shared", table(SHARED_FIELDS)),
        ("request", table_of_given(REQUEST_FIELDS)),
        ("status", table_of_given(STATUS_FIELDS)),
        ("event", table_of_given(EVENT_FIELDS)),
    ];
    let parts = parts.map(|(name, table)| (format!("<!-- fields of {name} -->\n\n"), table));
    check("doc/manual/machine-file.md", "\n\n<!-- end -->", &parts);
}

/// Of a derivation, which is not read, there are names only.
#[test]
fn the_fields_of_a_derivation_are_those_of_the_manual() {
    let page = manual("machine-file.md").section("A derivation");
    let named: Vec<String> = page.rows().iter().map(|row| quoted(&row[0]).remove(0)).collect();
    assert_eq!(named, DERIVATION_FIELDS);
    for (class, names) in [("Derivation", &DERIVATION_FIELDS[..]), ("Output", &OUTPUT_FIELDS[..])] {
        let class = ANNOTATIONS.split(&format!("---@class offload.{class}\n")).nth(1).unwrap();
        let lines = class.lines().take_while(|line| !line.is_empty());
        let fields: Vec<&str> =
            lines.filter_map(|line| line.strip_prefix("---@field ")?.split([' ', '?']).next()).collect();
        assert_eq!(fields, names);
    }
    for field in OUTPUT_FIELDS {
        assert!(page.text.contains(&format!("`{field}`")), "{field} of an output");
    }
}
