//! The pages of the manual, in Markdown, and their pictures.

use std::path::PathBuf;

/// The directory of the pages, below that of all documents.
const DIRECTORY: &str = "share/doc/offload";

/// The pages that the source has in `doc`.
const PAGES: [(&str, &[u8]); 17] = [
    ("benchmarks.md", include_bytes!("../../../doc/benchmarks.md")),
    ("manual/README.md", include_bytes!("../../../doc/manual/README.md")),
    ("manual/build-by-hand.md", include_bytes!("../../../doc/manual/build-by-hand.md")),
    ("manual/commands.md", include_bytes!("../../../doc/manual/commands.md")),
    ("manual/comparison.md", include_bytes!("../../../doc/manual/comparison.md")),
    ("manual/cookbook.md", include_bytes!("../../../doc/manual/cookbook.md")),
    ("manual/hook.md", include_bytes!("../../../doc/manual/hook.md")),
    ("manual/installation.md", include_bytes!("../../../doc/manual/installation.md")),
    ("manual/machine-file.md", include_bytes!("../../../doc/manual/machine-file.md")),
    ("manual/migration.md", include_bytes!("../../../doc/manual/migration.md")),
    ("manual/on-demand.md", include_bytes!("../../../doc/manual/on-demand.md")),
    ("manual/quick-start.md", include_bytes!("../../../doc/manual/quick-start.md")),
    ("manual/report.png", include_bytes!("../../../doc/manual/report.png")),
    ("manual/security.md", include_bytes!("../../../doc/manual/security.md")),
    ("manual/several-heads.md", include_bytes!("../../../doc/manual/several-heads.md")),
    ("manual/timeline.svg", include_bytes!("../../../doc/manual/timeline.svg")),
    ("manual/troubleshooting.md", include_bytes!("../../../doc/manual/troubleshooting.md")),
];

/// Returns the path of each page or picture, below the directory of all documents, and its content.
pub fn pages() -> impl Iterator<Item = (PathBuf, &'static [u8])> {
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
