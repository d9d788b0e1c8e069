//! Code of other people: each dependency has its reason, only named features, a compatible licence and one version, and
//! comes from crates.io. `cargo deny check` checks the same, and advisories too. The lists of licences and of exceptions
//! are those of its `deny.toml`.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// Returns cargo's metadata of all packages. `Cargo.lock` must be up to date.
fn metadata() -> Value {
    let platform = format!("{}-unknown-linux-gnu", env::consts::ARCH.replace("riscv64", "riscv64gc"));
    let output = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["metadata", "--locked", "--format-version", "1", "--filter-platform", &platform])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} in {value}"))
}

fn packages(metadata: &Value) -> &[Value] {
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50, "only {} packages", packages.len());
    packages
}

/// The packages that `Cargo.toml` names.
fn dependencies(metadata: &Value) -> &[Value] {
    let ours = packages(metadata).iter().find(|package| package["name"] == "offload").unwrap();
    ours["dependencies"].as_array().unwrap()
}

/// The strings of a list in `deny.toml`.
fn denied(list: &str) -> Vec<String> {
    let text = read("deny.toml");
    let text: String = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let (_, rest) = text.split_once(&format!("{list} = [")).unwrap_or_else(|| panic!("no {list} in deny.toml"));
    rest.split(']').next().unwrap().split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn each_dependency_has_its_reason() {
    let metadata = metadata();
    let named: BTreeSet<&str> = dependencies(&metadata).iter().map(|dependency| text(dependency, "name")).collect();
    let page = read("doc/CONTRIBUTING.md");
    let (_, section) = page.split_once("\n## Dependencies\n").expect("a section on dependencies");
    let section = section.split("\n## ").next().unwrap();
    let mut reasons = BTreeMap::new();
    for row in section.lines().filter_map(|line| line.strip_prefix("| `")) {
        let (names, reason) = row.split_once(" | ").unwrap();
        for name in names.split(", ").map(|name| name.trim_matches('`')) {
            assert!(reason.len() > 10, "{name} has no reason");
            assert!(reasons.insert(name, reason).is_none(), "{name} has two reasons");
        }
    }
    assert_eq!(reasons.into_keys().collect::<BTreeSet<_>>(), named);
}

#[test]
fn default_features_are_off() {
    let metadata = metadata();
    for dependency in dependencies(&metadata).iter().filter(|it| it["uses_default_features"] == true) {
        let name = text(dependency, "name");
        let package = packages(&metadata).iter().find(|package| package["name"] == name).unwrap();
        let default = package["features"].get("default").and_then(Value::as_array);
        assert!(default.is_none_or(Vec::is_empty), "{name} has default features; name those that are needed");
    }
}

/// Whether an expression of SPDX can be met with the licences on the list.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let expression = expression.trim();
    for (word, is_enough) in [(" AND ", false), ("/", true), (" OR ", true)] {
        let mut depth = 0;
        let at = expression.char_indices().find(|&(at, c)| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0 && expression[at..].starts_with(word)
        });
        let Some((at, _)) = at else { continue };
        let (one, other) = (&expression[..at], &expression[at + word.len()..]);
        let [one, other] = [one, other].map(|part| is_allowed(part, allowed));
        return if is_enough { one || other } else { one && other };
    }
    match expression.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        Some(inner) => is_allowed(inner, allowed),
        None => allowed.iter().any(|licence| licence == expression),
    }
}

#[test]
fn expressions_of_licences_are_understood() {
    let allowed = ["MIT", "Zlib"].map(str::to_owned);
    for good in ["MIT", "X OR MIT", "X/MIT", "(X OR MIT) AND Zlib", "Zlib AND (MIT OR X)", "MIT OR (X AND Y)"] {
        assert!(is_allowed(good, &allowed), "{good}");
    }
    for bad in ["", "X", "MIT AND X", "(X OR MIT) AND Y", "MIT WITH X", "X OR Y"] {
        assert!(!is_allowed(bad, &allowed), "{bad}");
    }
}

#[test]
fn licences_go_with_the_gpl() {
    let allowed = denied("allow");
    assert!(allowed.len() > 2, "{allowed:?}");
    for package in packages(&metadata()) {
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(is_allowed(licence, &allowed), "{}: {licence:?}", text(package, "name"));
    }
}

#[test]
fn everything_is_in_the_lock_file_once_and_from_crates_io() {
    let lock = read("Cargo.lock");
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock.split("[[package]]\n").skip(1) {
        let value = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
            line.map(|value| value.trim_matches('"'))
        };
        let name = value("name").unwrap();
        versions.entry(name).or_default().push(value("version").unwrap());
        if name != "offload" {
            assert_eq!(value("source"), Some("registry+https://github.com/rust-lang/crates.io-index"), "{name}");
            assert!(value("checksum").is_some_and(|sum| sum.len() == 64), "{name} has no checksum");
        }
    }
    assert!(versions.len() > 50, "only {} packages", versions.len());
    let twice: BTreeSet<&str> =
        versions.iter().filter(|(_, versions)| versions.len() > 1).map(|(name, _)| *name).collect();
    // NAME@VERSION, and a reason after each.
    let skipped = denied("skip");
    let expected: BTreeSet<&str> = skipped.iter().step_by(2).map(|name| name.split('@').next().unwrap()).collect();
    assert_eq!(twice, expected, "{versions:?}");
}

/// The program of a host that has its own SQLite and Lua: they are compiled in by its features, not by those of the library.
const HOST: &str = r#"
use offload::{Engine, Query};

fn main() {
    let connection = rusqlite::Connection::open_in_memory().unwrap();
    let slots: u32 = connection.query_row("SELECT 3", [], |row| row.get(0)).unwrap();
    let engine = Engine::builder().lua(move |lua: &mlua::Lua| lua.globals().set("slots", slots)).build().unwrap();
    let pool = engine.load(std::env::args().nth(1).unwrap()).unwrap();
    println!("{}", pool.explain(&Query::system("x86_64-linux")));
}
"#;

#[test]
fn a_host_brings_its_own_sqlite_and_lua() {
    let root = env!("CARGO_MANIFEST_DIR");
    let host = tempfile::tempdir().unwrap();
    let own = std::fs::read_to_string(format!("{root}/Cargo.toml")).unwrap();
    let version = |name: &str| {
        let line = own.lines().find(|line| line.starts_with(&format!("{name} = "))).unwrap();
        line.split('"').nth(1).unwrap().to_owned()
    };
    let manifest = format!(
        "[package]\nname = \"host\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n[profile.dev]\ndebug = 0\n\n[dependencies]\n\
         offload = {{ path = {root:?}, default-features = false, features = [\"raw-lua\"] }}\n\
         mlua = {{ version = \"{}\", features = [\"lua54\", \"serde\", \"vendored\"] }}\n\
         rusqlite = {{ version = \"{}\", default-features = false, features = [\"bundled\", \"cache\"] }}\n",
        version("mlua"),
        version("rusqlite")
    );
    std::fs::create_dir(host.path().join("src")).unwrap();
    for (name, text) in [("Cargo.toml", manifest.as_str()), ("src/main.rs", HOST)] {
        std::fs::write(host.path().join(name), text).unwrap();
    }
    // The same versions, and no network.
    std::fs::copy(format!("{root}/Cargo.lock"), host.path().join("Cargo.lock")).unwrap();
    let minimal = std::fs::read_to_string(format!("{root}/examples/minimal.lua")).unwrap();
    let file = host.path().join("machines.lua");
    std::fs::write(&file, minimal.replacen("name =", "parallel_builds = slots, name =", 1)).unwrap();
    let target = std::path::Path::new(env!("CARGO_BIN_EXE_offload")).ancestors().nth(2).unwrap();
    let output = std::process::Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--offline", "--", file.to_str().unwrap()])
        .current_dir(host.path())
        .env("CARGO_TARGET_DIR", target)
        .env("GUIX_STATE_DIRECTORY", host.path().join("state"))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("→ built on build.example.org"), "{}", text(&output.stdout));
}
