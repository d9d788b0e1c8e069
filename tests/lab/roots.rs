//! The directories that `tests/setup` makes: root directories of hosts, and keys.

use std::path::PathBuf;

/// The number of the recipe by which `tests/setup` made them.
const RECIPE: &str = include_str!("recipe");

/// The directory that `tests/setup` fills.
pub fn cache() -> PathBuf {
    std::env::var_os("OFFLOAD_LAB").unwrap_or_else(|| "/var/cache/offload-lab".into()).into()
}

/// A directory that `tests/setup` made: `sid`, `bullseye` or `keys`.
pub fn made_by_setup(name: &str) -> PathBuf {
    let path = cache().join(format!("{name}.{}", RECIPE.trim()));
    assert!(path.is_dir(), "{} is missing: run tests/setup as root first", path.display());
    path
}
