//! Links between the pages lead somewhere.

use crate::page::{Page, pages, top};
use std::path::{Component, Path, PathBuf};

/// Pages that are being written.
const TO_COME: [&str; 0] = [];

/// The name that GitHub and its like give a heading.
fn anchor(heading: &str) -> String {
    let letters = heading.to_lowercase();
    letters
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn resolve(page: &Page, target: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for part in Path::new(&page.name).parent().unwrap().join(target).components() {
        if part == Component::ParentDir {
            assert!(path.pop(), "{}: {target} leads out", page.name);
        } else {
            path.push(part);
        }
    }
    path
}

/// The targets of `[text](target)`.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap())
}

#[test]
fn links_have_targets() {
    let mut count = 0;
    let mut wrong = Vec::new();
    for page in pages() {
        for target in targets(&page.prose()) {
            count += 1;
            if target.starts_with("https://") {
                continue;
            }
            let (file, place) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { PathBuf::from(&page.name) } else { resolve(&page, file) };
            if TO_COME.contains(&file.rsplit('/').next().unwrap()) && !top().join(&path).exists() {
                continue;
            }
            if !top().join(&path).exists() {
                wrong.push(format!("{}: there is no {}", page.name, path.display()));
            } else if !place.is_empty() && !Page::read(&path).headings().iter().any(|heading| anchor(heading) == place)
            {
                wrong.push(format!("{}: {} has no heading #{place}", page.name, path.display()));
            }
        }
    }
    assert!(count > 30, "only {count} links found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The contents of the manual link to each of its pages, and the page on contributing to each page for contributors.
#[test]
fn the_contents_have_every_page() {
    for (contents, directory, prefix) in
        [("doc/manual/README.md", "doc/manual/", ""), ("doc/CONTRIBUTING.md", "doc/contributing/", "contributing/")]
    {
        let text = Page::read(Path::new(contents)).text;
        let pages = pages().into_iter().filter(|page| page.name != contents);
        let names: Vec<String> =
            pages.filter_map(|page| Some(format!("{prefix}{}", page.name.strip_prefix(directory)?))).collect();
        assert!(names.len() > 1, "{directory}: {names:?}");
        for name in names {
            assert!(text.contains(&format!("]({name})")), "{contents} does not name {name}");
        }
    }
}

/// Files of the source that a page names, such as `ssh/driver.rs`, are there.
#[test]
fn files_that_are_named_exist() {
    let files: Vec<String> = ["src", "tests", "lua", "examples", "fuzz/src"]
        .map(|directory| crate::reference::sources(&top().join(directory)))
        .into_iter()
        .flatten()
        .map(|(name, _)| name)
        .collect();
    let mut found = 0;
    let mut wrong = Vec::new();
    for page in pages() {
        for code in crate::page::quoted(&page.prose()) {
            let is_file = code.ends_with(".rs")
                && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_.-".contains(&byte));
            if is_file {
                found += 1;
                if !files.iter().any(|file| *file == code || file.ends_with(&format!("/{code}"))) {
                    wrong.push(format!("{}: there is no {code}", page.name));
                }
            }
        }
    }
    assert!(found > 30, "only {found} files are named");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
