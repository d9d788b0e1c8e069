//! The arrows between the folders of the library go one way. This test reads the `use crate::` lines and the paths
//! `crate::…` in the code, and fails when a folder uses one that it must not know, or the list of arrows has one too
//! many. Inside a folder no file uses one that uses it (`circles.rs`). Every folder is on the map of the crate's
//! documentation. `unsafe` code is where a library in C is bound, and nowhere else.

mod circles;
mod library;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// For each part of the library, the parts that it uses: what is not listed here does not exist, and what is listed
/// does.
const MAY_USE: &[(&str, &[&str])] = &[
    ("cancel", &[]),
    ("store", &[]),
    ("exit", &[]),
    ("file_stamp", &[]),
    ("failpoints", &[]),
    ("permissions", &["shell"]),
    ("logging", &["hook", "text"]),
    ("gcrypt", &["permissions", "store"]),
    ("machine", &[]),
    ("shell", &[]),
    ("status", &[]),
    ("text", &[]),
    ("timing", &[]),
    ("hook", &["permissions", "store"]),
    ("own_executable", &[]),
    ("supervisor", &["own_executable"]),
    ("ssh", &["cancel", "file_stamp", "gcrypt", "machine", "permissions", "shell", "supervisor", "text", "timing"]),
    ("daemon", &["store", "text"]),
    ("events", &["store"]),
    ("local", &["cancel", "daemon", "failpoints", "gcrypt", "permissions", "store"]),
    (
        "remote",
        &[
            "cancel",
            "daemon",
            "file_stamp",
            "machine",
            "own_executable",
            "permissions",
            "ssh",
            "status",
            "store",
            "supervisor",
            "text",
            "timing",
        ],
    ),
    (
        "power",
        &[
            "build",
            "cancel",
            "events",
            "machine",
            "machine_file",
            "remote",
            "ssh",
            "state",
            "status",
            "store",
            "supervisor",
        ],
    ),
    ("state", &["cancel", "events", "failpoints", "machine", "permissions", "status", "store"]),
    ("shared", &["error", "machine", "permissions", "state"]),
    ("lua", &["cancel", "permissions", "supervisor"]),
    ("machine_file", &["events", "hook", "lua", "machine", "permissions", "status", "store"]),
    ("scheduler", &["failpoints", "hook", "machine", "machine_file", "state", "status", "store"]),
    (
        "transfer",
        &[
            "cancel",
            "failpoints",
            "daemon",
            "error",
            "events",
            "gcrypt",
            "local",
            "machine",
            "remote",
            "state",
            "store",
            "timing",
        ],
    ),
    (
        "build",
        &[
            "cancel",
            "failpoints",
            "daemon",
            "error",
            "events",
            "file_stamp",
            "hook",
            "local",
            "machine",
            "remote",
            "scheduler",
            "shared",
            "shell",
            "ssh",
            "state",
            "status",
            "store",
            "timing",
            "transfer",
        ],
    ),
    (
        "engine",
        &[
            "error",
            "events",
            "hook",
            "build",
            "local",
            "machine",
            "machine_file",
            "permissions",
            "scheduler",
            "shared",
            "shell",
            "state",
            "store",
            "transfer",
        ],
    ),
    (
        "embed",
        &[
            "cancel",
            "daemon",
            "engine",
            "error",
            "events",
            "hook",
            "local",
            "machine_file",
            "scheduler",
            "state",
            "store",
            "transfer",
            "power",
            "build",
        ],
    ),
    ("error", &["exit"]),
    (
        "commands",
        &[
            "cancel",
            "failpoints",
            "daemon",
            "embed",
            "engine",
            "error",
            "events",
            "exit",
            "gcrypt",
            "hook",
            "build",
            "local",
            "logging",
            "machine",
            "machine_file",
            "own_executable",
            "remote",
            "permissions",
            "scheduler",
            "shared",
            "shell",
            "ssh",
            "state",
            "status",
            "store",
            "text",
            "timing",
            "transfer",
            "power",
        ],
    ),
];

fn sources(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The parts that a source text names after `crate::`, groups included: `crate::{a, b::c}`.
fn used_parts(text: &str) -> BTreeSet<String> {
    let word = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut parts = BTreeSet::new();
    for (start, _) in code.match_indices("crate::") {
        let rest = &code[start + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut item = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 1 => {
                        parts.insert(word(item.trim()));
                        item.clear();
                        continue;
                    }
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
                item.push(c);
            }
            parts.insert(word(item.trim()));
        } else {
            parts.insert(word(rest));
        }
    }
    parts.remove("");
    parts
}

#[test]
fn arrows_go_one_way() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut files = Vec::new();
    sources(&source, &mut files);
    assert!(files.len() > 30, "only {} source files found", files.len());

    let mut wrong = Vec::new();
    let mut arrows: BTreeSet<(&str, &str)> =
        MAY_USE.iter().flat_map(|(part, uses)| uses.iter().map(|used| (*part, *used))).collect();
    for file in files {
        let relative = file.strip_prefix(&source).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let part = first.trim_end_matches(".rs");
        if part == "lib" || part == "main" {
            continue;
        }
        let Some(may_use) = allowed.get(part) else {
            wrong.push(format!("{part} is not on the map"));
            continue;
        };
        for used in used_parts(&fs::read_to_string(&file).unwrap()) {
            arrows.retain(|arrow| *arrow != (part, used.as_str()));
            if used != part && !may_use.contains(&used.as_str()) {
                wrong.push(format!("{}: {part} must not use {used}", relative.display()));
            }
        }
    }
    wrong.extend(arrows.iter().map(|(part, used)| format!("{part} may use {used}, and does not")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Elsewhere the lint `unsafe_code` is an error (`Cargo.toml`).
#[test]
fn unsafe_code_is_only_in_bindings() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&source, &mut files);
    let allows = |file: &PathBuf| {
        let code = fs::read_to_string(file).unwrap();
        code.lines().any(|line| line.trim_start().starts_with("#") && line.contains("unsafe_code"))
    };
    let allowing: BTreeSet<_> =
        files.iter().filter(|file| allows(file)).map(|file| file.strip_prefix(&source).unwrap()).collect();
    assert_eq!(allowing, ["gcrypt/ffi.rs", "lua/idle_priority.rs", "ssh/ffi.rs"].map(Path::new).into());
}

/// Root works on the state as its owner, which `permissions/files.rs` sees to: everywhere else a name in the state would be
/// looked up with root's rights.
#[test]
fn files_of_the_state_are_opened_in_one_place() {
    const OPENS: [&str; 13] = [
        "fs::write",
        "fs::read",
        "fs::remove",
        "fs::rename",
        "fs::create",
        "fs::metadata",
        "fs::open",
        "File::open",
        "File::create",
        "OpenOptions",
        "::bind(",
        "::connect(",
        ".read_dir(",
    ];
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![source.join("lua/libraries/cached.rs")];
    sources(&source.join("state"), &mut files);
    sources(&source.join("remote/owner"), &mut files);
    files.retain(|file| !file.ends_with("tests.rs"));
    assert!(files.len() > 12, "{files:?}");
    let mut wrong = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let opens = code
            .lines()
            .filter(|line| !["/dev/null", "/proc/", "files::", "peer::"].iter().any(|other| line.contains(other)));
        let opens = opens.filter(|line| OPENS.iter().any(|open| line.contains(open)) && !line.starts_with("use "));
        wrong.extend(opens.map(|line| format!("{}: {}", file.display(), line.trim())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_front_page_names_every_part() {
    let front = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let rows: String = front.lines().filter(|line| line.starts_with("//! | [`")).collect();
    let named: BTreeSet<&str> = rows.split("[`").skip(1).filter_map(|rest| rest.split('`').next()).collect();
    assert_eq!(named, MAY_USE.iter().map(|(part, _)| *part).collect());
}

#[test]
fn the_map_has_no_cycle() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    while done.len() < allowed.len() {
        let ready: Vec<&str> = allowed
            .iter()
            .filter(|(part, uses)| !done.contains(*part) && uses.iter().all(|used| done.contains(used)))
            .map(|(part, _)| *part)
            .collect();
        assert!(!ready.is_empty(), "a cycle among {:?}", allowed.keys().filter(|p| !done.contains(*p)));
        done.extend(ready);
    }
}

#[test]
fn groups_and_paths_are_both_found() {
    let text = "use crate::{a::{x, y}, b};\nfn f() { crate::c::g() }\n// crate::d\n";
    assert_eq!(used_parts(text).into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
}
