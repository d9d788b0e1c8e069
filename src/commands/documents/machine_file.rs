//! The manual page of the machine file, made from the annotations for editors (`lua/offload.lua`), which the tests hold
//! against the code.

use super::page::Page;
use crate::machine_file::ANNOTATIONS;

/// The name of the page's file.
pub const NAME: &str = "offload-machines.lua.5";

const EXAMPLE: &str = include_str!("../../../examples/features.lua");

/// A class of the annotations: what it is, and its fields.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Class {
    pub name: String,
    pub about: String,
    pub fields: Vec<Field>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub is_optional: bool,
    pub kind: String,
    pub about: String,
}

/// The classes in annotations for LuaLS: `---@class NAME`, `---@field NAME TYPE`, with the comment lines before each.
pub fn classes(annotations: &str) -> Vec<Class> {
    let mut classes: Vec<Class> = Vec::new();
    let mut about = String::new();
    for line in annotations.lines() {
        let Some(line) = line.strip_prefix("---") else {
            about.clear();
            continue;
        };
        if let Some(name) = line.strip_prefix("@class ") {
            classes.push(Class { name: name.to_owned(), about: std::mem::take(&mut about), fields: Vec::new() });
        } else if let Some(rest) = line.strip_prefix("@field ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
            let field = Field {
                name: name.trim_end_matches('?').to_owned(),
                is_optional: name.ends_with('?'),
                kind: kind.to_owned(),
                about: std::mem::take(&mut about),
            };
            if let Some(class) = classes.last_mut() {
                class.fields.push(field);
            }
        } else if line.starts_with('@') {
            about.clear();
        } else {
            about.push_str(if about.is_empty() { "" } else { " " });
            about.push_str(line.trim());
        }
    }
    classes
}

/// The sections about tables: heading, class, text before its fields.
const SECTIONS: &[(&str, &str, &str)] = &[
    ("BUILD MACHINES", "offload.BuildMachine", "The fields of `build_machine { … }`:"),
    (
        "THE HEAD",
        "offload.LocalMachine",
        "With a `local_machine { … }` in the list the head takes part in the choice; when it has the best score, the daemon is \
         told to build locally. Its fields:",
    ),
    ("THE POOL", "offload.Pool", "The named fields of the table that the file returns:"),
    ("LIMITS", "offload.Limits", "The fields of `limits`:"),
    ("REQUESTS", "offload.Request", "What `accepts` and `score` get as their first argument, `request`:"),
    ("STATUS", "offload.Status", "What `score` gets as its third argument, `status`. All of it may be nil:"),
];

/// The page in roff.
pub fn page() -> String {
    let classes = classes(ANNOTATIONS);
    let mut page = Page::default();
    page.title("offload-machines.lua", "5");
    page.section("NAME");
    page.paragraph("offload-machines.lua - the machine file of offload");
    page.section("DESCRIPTION");
    page.paragraph(
        "The machine file says which build machines there are and which of them builds what. It is a program in Lua 5.4, \
         */etc/guix/machines.lua* unless `OFFLOAD_MACHINE_FILE` names another, that returns a table: the machines as a list, the \
         policy of the pool as named fields. It is evaluated anew for each request of the daemon, within limits of time and \
         memory. A file that does not exist means that there are no machines. `offload eval` says what is wrong with a file, \
         `offload test` what is wrong with its machines, `offload explain` what it does with a build.",
    );
    for (heading, class, about) in SECTIONS {
        page.section(heading);
        page.paragraph(about);
        for field in classes.iter().filter(|known| known.name == *class).flat_map(|class| &class.fields) {
            if field.name.starts_with('[') {
                continue;
            }
            // Functions have long types, which the text explains.
            let kind = if field.kind.starts_with("offload.") || field.kind.starts_with("fun(") {
                "function"
            } else {
                &field.kind
            };
            let required = if *class == "offload.BuildMachine" && !field.is_optional { ", required" } else { "" };
            page.item(&format!("`{}` ({kind}{required})", field.name), &field.about);
        }
    }
    page.section("EXAMPLE");
    page.example(EXAMPLE);
    page.section("SEE ALSO");
    page.paragraph("`offload`(1), `offload-eval`(1), `offload-explain`(1), `offload-test`(1)");
    page.whole()
}
