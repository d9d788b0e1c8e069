//! No file of the library uses one that uses it, directly or through others.
//!
//! A file uses another if it names something that is defined there: in a `use`, or by a path in its code that begins
//! with `crate::`, `super::`, `self::`, a module of its own or a module that a `use` has brought. The rule has no
//! exception for parents and children:
//!
//! - `mod name;` and `pub use` (also `pub(super) use` and the like) are an index and use nothing, unless the code of the
//!   file names what they bring. Who names what a `pub use` or `use` of another module has brought there uses the file
//!   that defines it.
//! - All else that a module names of its children is a use, and all that a child names of its parent. So a `mod.rs` that
//!   has code of its own may use its children, or be used by them, and not both.
//! - Tests may use everything: files called `tests.rs`, those in a folder `tests`, modules below `#[cfg(test)]`.
//!
//! A file that calls a method uses the file whose `impl` of another file's type has it, if nothing else in the library
//! has that name. Not seen are other methods and traits, what a macro makes, and names that a `*` has brought.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::library::Library;

/// The sets of files that use each other, each with one circle.
pub fn circles<'a>(uses: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<(Vec<&'a str>, Vec<&'a str>)> {
    let way = |from: &'a str, to: &'a str| -> Option<Vec<&'a str>> {
        let mut before: BTreeMap<&str, &str> = BTreeMap::new();
        let mut reached = vec![from];
        let mut next = 0;
        while next < reached.len() && !before.contains_key(to) {
            for used in uses.get(reached[next]).into_iter().flatten() {
                if !before.contains_key(used) {
                    before.insert(used, reached[next]);
                    reached.push(used);
                }
            }
            next += 1;
        }
        let mut way = vec![to];
        while way.len() == 1 || way.last() != Some(&from) {
            way.push(before.get(way.last()?)?);
        }
        way.reverse();
        Some(way)
    };
    let mut circles: Vec<(Vec<&str>, Vec<&str>)> = Vec::new();
    for file in uses.keys() {
        if circles.iter().any(|(files, _)| files.contains(file)) {
            continue;
        }
        if let Some(circle) = way(file, file) {
            let files = uses.keys().filter(|other| way(file, other).is_some() && way(other, file).is_some());
            circles.push((files.copied().collect(), circle));
        }
    }
    circles
}

#[test]
fn no_file_uses_one_that_uses_it() {
    let library = Library::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let uses = library.uses();
    assert!(uses.len() > 150, "only {} files found", uses.len());
    let arrows: usize = uses.values().map(BTreeSet::len).sum();
    assert!(arrows > 500, "only {arrows} uses found");
    let circles = circles(&uses);
    let shown: Vec<String> = circles
        .iter()
        .map(|(files, circle)| {
            format!("{} files use each other: {}\n  {}", files.len(), files.join(" "), circle.join(" ─► "))
        })
        .collect();
    assert!(circles.is_empty(), "{}", shown.join("\n"));
}

#[test]
fn uses_of_all_kinds_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("lib.rs", "pub mod a;\nmod b;\n");
    write("a/mod.rs", "//! super::b\nmod c; mod d;\n#[cfg(test)]\nmod tests;\npub use c::{C, self as other};\n");
    write(
        "a/c.rs",
        "use super::d::{self, D};\nimpl Trait<D> for C { fn other() {} }\nimpl<'a> D<'a> { fn method() {} }\nfn f() -> &'static str { d::g(); \"crate::b::B\" }\n",
    );
    write("a/d.rs", "fn g() { crate::b::B::h('\"') }\n#[cfg(test)]\nmod tests { use super::super::c::C; }\n");
    write("b.rs", "use crate::a;\npub struct B(a::C);\nfn i<'a>(_: self::e::E) { j::k() }\nmod j; mod e;\n");
    write("b/e.rs", "pub(super) struct E;");
    write("b/j.rs", "use super::B as X;\nmod l; pub use l::{L, M}; fn m(_: M) {}");
    write("b/j/l.rs", "pub struct L; pub struct M(super::super::e::E);\nfn n(m: crate::a::C) { m.method() }");
    let library = Library::read(directory.path());
    let uses = library.uses();
    let of = |name: &str| uses[name].iter().copied().collect::<Vec<_>>();
    assert_eq!(of("a/mod.rs"), [""; 0]);
    assert_eq!(of("a/c.rs"), ["a/d.rs"]);
    assert_eq!(of("a/d.rs"), ["b.rs"]);
    assert_eq!(of("b.rs"), ["a/c.rs", "b/e.rs", "b/j.rs"]);
    assert_eq!(of("b/j.rs"), ["b.rs", "b/j/l.rs"]);
    assert_eq!(of("b/j/l.rs"), ["a/c.rs", "b/e.rs"]);
    let circles = circles(&uses);
    assert_eq!(circles.len(), 1);
    assert_eq!(circles[0].0, ["a/c.rs", "a/d.rs", "b.rs", "b/j.rs", "b/j/l.rs"]);
    assert_eq!(circles[0].1, ["a/c.rs", "a/d.rs", "b.rs", "a/c.rs"]);
}
