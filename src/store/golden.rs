//! The golden files under `tests/golden`, for tests.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the directory of all golden files.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Returns name and contents of each file that `pattern`, `DIRECTORY/PREFIX*SUFFIX`, matches. It panics if there is
/// none.
pub fn files(pattern: &str) -> Vec<(String, Vec<u8>)> {
    let (folder, pattern) = pattern.split_once('/').unwrap();
    let (prefix, suffix) = pattern.split_once('*').unwrap();
    let mut files = Vec::new();
    for entry in fs::read_dir(directory().join(folder)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with(prefix) && name.ends_with(suffix) {
            let contents = fs::read(directory().join(folder).join(&name)).unwrap();
            files.push((name, contents));
        }
    }
    files.sort();
    assert!(!files.is_empty(), "no golden file matches {folder}/{pattern}");
    files
}

/// Returns the contents of one of them.
pub fn file(path: &str) -> Vec<u8> {
    fs::read(directory().join(path)).unwrap()
}
