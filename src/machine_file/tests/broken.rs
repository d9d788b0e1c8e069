//! The exact messages for broken machine files: the table is `broken.txt`.

use super::*;

/// Each case is `== TITLE`, the machine file, files beside it after `-- FILE name`, and the messages after `=>`.
#[test]
fn each_file_gets_its_messages() {
    let table = include_str!("broken.txt");
    let mut actual = String::new();
    for case in table.split("== ").skip(1) {
        let (title, case) = case.split_once('\n').unwrap();
        let (files, _) = case.split_once("=>\n").unwrap_or_else(|| panic!("{title}: no messages"));
        let mut parts = files.split("-- FILE ");
        let site = Site::new(parts.next().unwrap());
        for part in parts {
            let (name, text) = part.split_once('\n').unwrap();
            site.write(name, text);
        }
        let messages = match site.load() {
            Ok(pool) => pool.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
            Err(report) => {
                assert!(report.errors() > 0, "{title}: a report without errors");
                report.to_string()
            }
        };
        actual += &format!("== {title}\n{files}=>\n{}\n\n", site.relative(messages));
    }
    if actual.trim() != table.trim() {
        let path = std::env::temp_dir().join("broken.actual.txt");
        std::fs::write(&path, &actual).unwrap();
        panic!("messages differ from those of broken.txt: compare {}", path.display());
    }
}
