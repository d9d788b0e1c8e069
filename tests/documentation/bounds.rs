//! `doc/bounds.md` lists every bound of the program: each constant of `src/` that is a duration, or whose name says that it is a
//! limit. The page is written from the constants and their doc comments. `OFFLOAD_WRITE_BOUNDS=1 cargo test --test documentation
//! bounds` writes it; without the variable the test fails where it differs.
//!
//! Not read: constants of tests, and constants of other types that have no such name.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::page::top;

const PAGE: &str = "doc/bounds.md";

const HEAD: &str = "# Bounds

Every timeout, interval and limit of the program, as `src/` declares it. A test writes this page from the constants. The rules that
combine them, one for each phase of a build, are in the head of `src/remote/timeouts.rs`. The bounds that an administrator sets are
fields of the machine file: see [its page](manual/machine-file.md).
";

/// Parts of the names of numbers that are limits.
const LIMIT_WORDS: [&str; 6] = ["MAX", "MIN", "LIMIT", "LEAST", "RESERVE", "RESERVED"];

/// A constant.
#[derive(Debug, PartialEq)]
struct Bound {
    name: String,
    value: String,
    about: String,
}

/// The bounds that a source file declares, up to its tests. The error names a constant that has no doc comment.
fn bounds(text: &str) -> Result<Vec<Bound>, String> {
    let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let mut found = Vec::new();
    let mut about = String::new();
    for line in code.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("///") {
            about = format!("{about} {}", comment.trim());
            continue;
        }
        if let Some((name, value)) = constant(line) {
            let sentence =
                about.trim().split_inclusive(". ").next().unwrap_or_default().trim().trim_end_matches(['.', ':']);
            if sentence.is_empty() {
                return Err(name);
            }
            found.push(Bound { name, value, about: sentence.to_owned() });
        }
        about.clear();
    }
    Ok(found)
}

/// The name and the value of a constant that is a bound.
fn constant(line: &str) -> Option<(String, String)> {
    let (visibility, rest) = line.split_once("const ")?;
    let is_item = visibility.is_empty() || visibility.starts_with("pub");
    let (name, rest) = rest.split_once(": ")?;
    let (kind, value) = rest.strip_suffix(';')?.split_once(" = ")?;
    let is_limit =
        || ["u64", "u32", "usize", "f64"].contains(&kind) && name.split('_').any(|word| LIMIT_WORDS.contains(&word));
    (is_item && (kind == "Duration" || is_limit())).then(|| (name.to_owned(), shown(value)))
}

/// A value as people write it.
fn shown(value: &str) -> String {
    let duration = value.strip_prefix("Duration::from_").and_then(|rest| rest.strip_suffix(')')?.split_once('('));
    let Some((unit, number)) = duration else { return format!("`{value}`") };
    let unit = match unit {
        "secs" => "s",
        "millis" => "ms",
        "micros" => "µs",
        other => other,
    };
    format!("{} {unit}", number.replace(" * ", " × "))
}

fn sources(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let is_test = path.file_name().is_some_and(|name| name == "tests" || name == "tests.rs");
        if path.is_dir() && !is_test {
            sources(&path, files);
        } else if !is_test && path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn page() -> String {
    let mut files = Vec::new();
    sources(&top().join("src"), &mut files);
    files.sort();
    let mut text = HEAD.to_owned();
    for file in files {
        let name = file.strip_prefix(top().join("src")).unwrap().display().to_string();
        let found = bounds(&fs::read_to_string(&file).unwrap()).unwrap_or_else(|constant| {
            panic!("src/{name}: '{constant}' needs a doc comment of its own: it is a bound")
        });
        if found.is_empty() {
            continue;
        }
        write!(text, "\n## `{name}`\n\n| constant | value | bounds |\n|---|---|---|\n").unwrap();
        for Bound { name, value, about } in found {
            writeln!(text, "| `{name}` | {value} | {} |", about.replace('|', "\\|")).unwrap();
        }
    }
    text
}

#[test]
fn every_bound_is_on_its_page() {
    let (path, wanted) = (top().join(PAGE), page());
    if std::env::var_os("OFFLOAD_WRITE_BOUNDS").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    let is = fs::read_to_string(&path).unwrap_or_default();
    let differs = wanted.lines().zip(is.lines().chain(std::iter::repeat(""))).find(|(wanted, is)| wanted != is);
    assert!(
        wanted == is,
        "{PAGE} is not what the sources say: {differs:?}; `OFFLOAD_WRITE_BOUNDS=1 cargo test --test documentation bounds` writes it"
    );
}

#[test]
fn bounds_are_found_with_what_they_bound() {
    let bound =
        |name: &str, value: &str, about: &str| Bound { name: name.into(), value: value.into(), about: about.into() };
    let text = "/// How long it takes. Not long.\npub(super) const WAIT: Duration = Duration::from_secs(24 * 3600);\n\
                /// Bytes of a\n/// line.\nconst MAX_LINE: usize = 64 << 10;\nconst STDIN: u32 = 0;\n\
                let x: const MAX: u64 = 1;\n#[cfg(test)]\nmod tests {\n    const LONG: Duration = Duration::MAX;\n}\n";
    let expected =
        [bound("WAIT", "24 × 3600 s", "How long it takes"), bound("MAX_LINE", "`64 << 10`", "Bytes of a line")];
    assert_eq!(bounds(text), Ok(expected.into()));
    assert_eq!(bounds("/// One.\nconst MAX: u64 = 1;\nconst MIN: u64 = 0;"), Err("MIN".into()));
    assert_eq!(shown("Duration::from_millis(250)"), "250 ms");
}
