//! Sets `OFFLOAD_VERSION`, `OFFLOAD_COMPILER` and `OFFLOAD_C_CODE`, what `offload --version` says: the version, and in brackets the commit; the compiler,
//! and the versions in `Cargo.lock` of what brings C code along.
//!
//! The commit is that which `OFFLOAD_COMMIT` names, for those who build from an archive. Else git tells it, in release
//! builds: in others, each commit would have everything built and linked again. Without git, or outside of a checkout of this
//! very project, there is none.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What has C code that is compiled in. libgcrypt, OpenSSL and zlib are the system's.
const C_CODE: [&str; 3] = ["libsqlite3-sys", "libssh2-sys", "lua-src"];

fn main() {
    println!("cargo:rerun-if-env-changed=OFFLOAD_COMMIT");
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let directory = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let named = env::var("OFFLOAD_COMMIT").ok();
    let commit = named.or_else(|| if is_release { commit(&directory) } else { None }).filter(|name| is_sound(name));
    let commit = commit.map_or(String::new(), |commit| format!(" ({commit})"));
    println!("cargo:rustc-env=OFFLOAD_VERSION={version}{commit}");
    println!("cargo:rerun-if-changed=Cargo.lock");
    println!("cargo:rustc-env=OFFLOAD_COMPILER={}", compiler());
    println!("cargo:rustc-env=OFFLOAD_C_CODE={}", locked(&directory.join("Cargo.lock")));
}

/// `rustc` and its version.
fn compiler() -> String {
    let output = Command::new(env::var_os("RUSTC").unwrap_or_default()).arg("--version").output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let words: Vec<&str> = said.split_whitespace().take(2).collect();
    if words.is_empty() { "rustc".to_owned() } else { words.join(" ") }
}

/// The packages with C code in them, with their versions, as far as there is a lock file.
fn locked(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let value = |line: Option<&str>, key: &str| Some(line?.strip_prefix(key)?.trim_matches('"').to_owned());
    let packages = text.split("[[package]]\n").filter_map(|package| {
        let mut lines = package.lines();
        Some((value(lines.next(), "name = ")?, value(lines.next(), "version = ")?))
    });
    let found = packages.filter(|(name, _)| C_CODE.contains(&name.as_str()));
    let found: Vec<String> = found.map(|(name, version)| format!("{name} {version}")).collect();
    if found.is_empty() { "C libraries of unknown versions".to_owned() } else { found.join(", ") }
}

/// The commit that is checked out in `directory`, if that is the top of a checkout: sources that lie somewhere in another
/// project's are not that project's.
fn commit(directory: &Path) -> Option<String> {
    if !directory.join(".git").exists() {
        return None;
    }
    for file in ["HEAD", "logs/HEAD"] {
        println!("cargo:rerun-if-changed={}", git(directory, &["rev-parse", "--git-path", file])?);
    }
    git(directory, &["rev-parse", "--short=12", "HEAD"])
}

fn git(directory: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(directory).args(arguments).output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}

/// Whether it can be the name of a commit.
fn is_sound(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._+".contains(c))
}
