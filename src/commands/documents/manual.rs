//! The pages of the manual, in Markdown.

use std::path::PathBuf;

/// The directory of the pages, below that of all documents.
const DIRECTORY: &str = "share/doc/offload";

/// The pages that the source has in `doc`.
const PAGES: [(&str, &str); 14] = [
    ("benchmarks.md", include_str!("../../../doc/benchmarks.md")),
    ("manual/README.md", include_str!("../../../doc/manual/README.md")),
    ("manual/build-by-hand.md", include_str!("../../../doc/manual/build-by-hand.md")),
    ("manual/commands.md", include_str!("../../../doc/manual/commands.md")),
    ("manual/comparison.md", include_str!("../../../doc/manual/comparison.md")),
    ("manual/cookbook.md", include_str!("../../../doc/manual/cookbook.md")),
    ("manual/hook.md", include_str!("../../../doc/manual/hook.md")),
    ("manual/installation.md", include_str!("../../../doc/manual/installation.md")),
    ("manual/machine-file.md", include_str!("../../../doc/manual/machine-file.md")),
    ("manual/migration.md", include_str!("../../../doc/manual/migration.md")),
    ("manual/on-demand.md", include_str!("../../../doc/manual/on-demand.md")),
    ("manual/quick-start.md", include_str!("../../../doc/manual/quick-start.md")),
    ("manual/security.md", include_str!("../../../doc/manual/security.md")),
    ("manual/troubleshooting.md", include_str!("../../../doc/manual/troubleshooting.md")),
];

/// Returns the path of each page, below the directory of all documents, and its text.
pub fn pages() -> impl Iterator<Item = (PathBuf, &'static str)> {
    PAGES.into_iter().map(|(name, text)| ([DIRECTORY, name].iter().collect(), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_of_the_manual_is_installed() {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/doc/manual");
        let names = std::fs::read_dir(source).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut wanted: Vec<String> = names.map(|name| format!("{DIRECTORY}/manual/{name}")).collect();
        wanted.push(format!("{DIRECTORY}/benchmarks.md"));
        wanted.sort();
        let mut found: Vec<String> = pages().map(|(path, _)| path.to_str().unwrap().to_owned()).collect();
        found.sort();
        assert_eq!(found, wanted);
    }
}
