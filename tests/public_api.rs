//! The public interface of the library is the golden list `tests/golden/public-api.txt`.
//!
//! The list has the names at the root of the crate, and what is public in the files that define them: functions, fields,
//! variants. It is our own: the stable toolchain has neither `cargo public-api` nor rustdoc's JSON. Not seen are traits that
//! are derived. `OFFLOAD_WRITE_API=1` writes a new list.

use std::fs;
use std::path::Path;

/// The files that define what is public.
const FILES: [&str; 15] = [
    "cancel.rs",
    "embed/build.rs",
    "embed/build_error.rs",
    "embed/builder.rs",
    "embed/built.rs",
    "embed/challenge.rs",
    "embed/challenged.rs",
    "embed/explanation.rs",
    "embed/load_error.rs",
    "embed/order.rs",
    "embed/plan.rs",
    "embed/pool.rs",
    "embed/query.rs",
    "events.rs",
    "machine_file/diagnostic.rs",
];

/// Returns the public items of a source text, a line each: indented ones belong to the one before.
fn items(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let (mut items, mut is_enum, mut owner) = (Vec::new(), false, String::new());
    for line in code.lines() {
        let word = line.trim_start();
        let is_inside = line.starts_with("    ");
        if !is_inside && word.starts_with('}') {
            is_enum = false;
        }
        if let Some(of) = line.strip_prefix("impl") {
            owner = of.trim_end_matches([' ', '{']).trim().to_owned();
        }
        let is_variant = is_enum && line.starts_with("    ") && !line.starts_with("     ");
        if word.starts_with("pub ") {
            let item = word.trim_end_matches(['{', ',', ';', ' ']);
            let of = if is_inside && item.contains("fn ") { format!("{owner}: ") } else { String::new() };
            items.push(format!("{}{of}{item}", if is_inside { "    " } else { "" }));
            is_enum |= !is_inside && word.starts_with("pub enum");
        } else if is_variant && word.starts_with(|c: char| c.is_ascii_uppercase()) {
            items.push(format!("    {}", word.trim_end_matches(['{', ',', ' '])));
        }
    }
    items
}

#[test]
fn the_public_interface_is_the_golden_one() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |file: &str| fs::read_to_string(source.join(file)).unwrap();
    let root = read("lib.rs");
    let root = root.split("#[doc(hidden)]").next().unwrap();
    let mut list = String::from("at the root of the crate:\n");
    for line in root.lines().skip_while(|line| !line.starts_with("pub use")) {
        if !line.trim().is_empty() && !line.trim().starts_with("//") {
            list += &format!("    {line}\n");
        }
    }
    for file in FILES {
        list += &format!("\n{file}:\n");
        items(&read(file)).iter().for_each(|item| list += &format!("    {item}\n"));
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/public-api.txt");
    if std::env::var_os("OFFLOAD_WRITE_API").is_some() {
        fs::write(&golden, &list).unwrap();
    }
    assert_eq!(list, fs::read_to_string(&golden).unwrap(), "run again with OFFLOAD_WRITE_API=1 if that is meant");
    // All else is private, or under the module that promises nothing.
    let modules: Vec<&str> = root.lines().filter(|line| line.starts_with("pub mod")).collect();
    assert!(modules.is_empty(), "{modules:?}");
}

#[test]
fn all_kinds_of_items_are_listed() {
    let text = "pub struct A {\n    pub b: u8,\n    c: u8,\n}\nimpl A {\n    pub fn d(&self) -> u8 {\n    fn e() {\n    pub(super) fn f() {\n}\n\
                pub enum G {\n    H { i: u8 },\n    /// Text.\n    J,\n}\n#[cfg(test)]\nmod tests {\n    pub fn k() {}\n";
    let expected =
        ["pub struct A", "    pub b: u8", "    A: pub fn d(&self) -> u8", "pub enum G", "    H { i: u8 }", "    J"];
    assert_eq!(items(text), expected);
}

/// The lab's tests run the example, and the documentation shows it.
#[test]
fn the_front_page_shows_the_example() {
    let read = |file: &str| std::fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let page = read("src/lib.rs");
    let page: Vec<&str> = page.lines().map_while(|line| line.strip_prefix("//!")).collect();
    let begin = page.iter().position(|line| *line == " ```no_run").unwrap();
    let shown = page[begin + 1..].iter().take_while(|line| **line != " ```");
    let shown: Vec<&str> = shown.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    let example = read("examples/thirty_lines.rs");
    let code = example.lines().skip_while(|line| line.starts_with("//!") || line.is_empty());
    assert_eq!(shown, code.collect::<Vec<_>>());
    assert!(shown.len() > 20, "{shown:?}");
}
