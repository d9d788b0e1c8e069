use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;
use crate::store::export::HashingReader;
use crate::store::{base16, golden, wire};

mod malformed;
mod streams;

/// The tree of a nar, in memory.
#[derive(Clone, Debug, PartialEq)]
enum Tree {
    File(bool, Vec<u8>),
    Symlink(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Tree>),
}

impl Tree {
    fn walk(&self, path: &mut NarPath, visitor: &mut dyn Visitor) -> io::Result<()> {
        match self {
            Tree::File(executable, contents) => {
                visitor.file(path, *executable, contents.len() as u64, &mut &contents[..])
            }
            Tree::Symlink(target) => visitor.symlink(path, target),
            Tree::Directory(entries) => {
                visitor.directory(path)?;
                for (name, tree) in entries {
                    path.push(name).unwrap();
                    tree.walk(path, visitor)?;
                    path.pop();
                }
                visitor.leave_directory(path)
            }
        }
    }

    fn nar(&self) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        self.walk(&mut NarPath::root(), &mut writer).unwrap();
        writer.finish().unwrap()
    }
}

/// Builds the tree from the calls of a visitor.
#[derive(Default)]
struct Builder {
    open: Vec<BTreeMap<Vec<u8>, Tree>>,
    root: Option<Tree>,
}

impl Builder {
    fn add(&mut self, path: &NarPath, tree: Tree) -> io::Result<()> {
        assert_eq!(path.depth(), self.open.len());
        let before = match (path.name(), self.open.last_mut()) {
            (Some(name), Some(directory)) => directory.insert(name.to_vec(), tree),
            _ => self.root.replace(tree),
        };
        assert_eq!(before, None);
        Ok(())
    }
}

impl Visitor for Builder {
    fn directory(&mut self, path: &NarPath) -> io::Result<()> {
        assert_eq!(path.depth(), self.open.len());
        self.open.push(BTreeMap::new());
        Ok(())
    }

    fn leave_directory(&mut self, path: &NarPath) -> io::Result<()> {
        let entries = self.open.pop().unwrap();
        self.add(path, Tree::Directory(entries))
    }

    fn file(&mut self, path: &NarPath, executable: bool, size: u64, contents: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        contents.read_to_end(&mut bytes)?;
        assert_eq!(bytes.len() as u64, size);
        self.add(path, Tree::File(executable, bytes))
    }

    fn symlink(&mut self, path: &NarPath, target: &[u8]) -> io::Result<()> {
        self.add(path, Tree::Symlink(target.to_vec()))
    }
}

fn tree(nar: &[u8]) -> Tree {
    let mut builder = Builder::default();
    let mut reader = nar;
    assert_eq!(read(&mut reader, &mut builder).unwrap(), nar.len() as u64);
    assert!(reader.is_empty());
    builder.root.unwrap()
}

/// Returns a nar, or part of one, from its words; numbers in `{}` are written as numbers.
fn words(words: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in words {
        match word.strip_prefix('{').and_then(|word| word.strip_suffix('}')) {
            Some(number) => wire::write_u64(&mut bytes, number.parse().unwrap()).unwrap(),
            None => wire::write_bytes(&mut bytes, word.as_bytes()).unwrap(),
        }
    }
    bytes
}

/// Returns a nar with these words after the magic one, separated by blanks.
fn nar(text: &str) -> Vec<u8> {
    let mut all = vec!["nix-archive-1"];
    all.extend(text.split(' ').filter(|word| !word.is_empty()).map(|word| if word == "''" { "" } else { word }));
    words(&all)
}

fn problem(nar: &[u8]) -> (u64, String) {
    match read(&mut &nar[..], &mut Nothing) {
        Err(NarError::Format { position, problem }) => (position, problem),
        other => panic!("{other:?}"),
    }
}

#[test]
fn golden_nars_are_written_back() {
    for (name, bytes) in golden::files("nar/*.nar") {
        assert_eq!(tree(&bytes).nar(), bytes, "{name}");
    }
}

#[test]
fn a_writer_repeats_the_nar_of_a_reader() {
    for (name, bytes) in golden::files("nar/*.nar") {
        let mut writer = Writer::new(Vec::new());
        read(&mut &bytes[..], &mut writer).unwrap();
        assert_eq!(writer.finish().unwrap(), bytes, "{name}");
    }
}

#[test]
fn nars_cut_anywhere_are_refused() {
    for (name, bytes) in golden::files("nar/*.nar") {
        for end in 0..bytes.len() {
            match read(&mut &bytes[..end], &mut Nothing) {
                Err(NarError::Truncated { position }) => assert_eq!(position, end as u64, "{name}"),
                other => panic!("{name} cut at {end}: {other:?}"),
            }
        }
    }
}

#[test]
fn there_is_one_nar_for_a_tree() {
    // A change makes the nar invalid, or makes it the nar of another tree.
    let mut accepted = 0;
    for (name, bytes) in golden::files("nar/*.nar") {
        for position in 0..bytes.len() {
            for change in [1, 0x20, 0x80] {
                let mut changed = bytes.clone();
                changed[position] ^= change;
                let mut builder = Builder::default();
                let mut reader = &changed[..];
                if read(&mut reader, &mut builder).is_ok() {
                    assert_eq!(
                        builder.root.unwrap().nar(),
                        changed[..changed.len() - reader.len()],
                        "{name} {position}"
                    );
                    accepted += 1;
                }
            }
        }
    }
    assert!(accepted > 100, "{accepted}");
}

#[test]
fn a_text_has_its_known_nar() {
    let bytes = Tree::File(false, b"hello\n".to_vec()).nar();
    assert_eq!(bytes.len(), 120);
    assert_eq!(
        base16::encode(&Sha256::digest(&bytes)),
        "1c37d01af40be2e80691de3cc3df44377a699afbb17c68f080964b2fd071fc13"
    );
}

#[test]
fn a_deduplicated_file_has_its_known_name() {
    let bytes = Tree::File(false, vec![b'a'; 8192]).nar();
    assert_eq!(
        crate::store::base32::encode(&Sha256::digest(&bytes)),
        "03blgakvf2fysv4z6i1b67yc0rxpxi4dxwsnqh2i6mkm0bhjwdi1"
    );
}

#[test]
fn bytes_after_the_nar_are_not_read() {
    let mut bytes = Tree::Directory(BTreeMap::new()).nar();
    bytes.extend(b"more");
    let mut reader = &bytes[..];
    assert_eq!(read(&mut reader, &mut Nothing).unwrap(), bytes.len() as u64 - 4);
    assert_eq!(reader, b"more");
}

#[test]
fn the_writer_refuses_disorder() {
    let refused = |result: io::Result<()>| assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let root = NarPath::root();
    let entry = |name: &str| {
        let mut path = NarPath::root();
        path.push(name.as_bytes()).unwrap();
        path
    };
    let mut writer = Writer::new(Vec::new());
    refused(writer.symlink(&root, b""));
    refused(writer.symlink(&entry("a"), b"t"));
    refused(writer.leave_directory(&root));
    refused(writer.file(&root, false, u64::MAX, &mut io::empty()));
    writer.directory(&root).unwrap();
    refused(writer.directory(&root));
    writer.symlink(&entry("b"), b"t").unwrap();
    refused(writer.symlink(&entry("b"), b"t"));
    refused(writer.directory(&entry("a")));
    refused(writer.leave_directory(&entry("b")));
    assert!(writer.file(&entry("c"), false, 9, &mut &b"short"[..]).unwrap_err().to_string().contains("4 bytes less"));

    let mut writer = Writer::new(Vec::new());
    writer.directory(&root).unwrap();
    writer.leave_directory(&root).unwrap();
    refused(writer.directory(&root));
    assert!(writer.finish().is_ok());
    assert!(Writer::new(Vec::new()).finish().is_err());
}

#[test]
fn a_nar_path_shows_any_bytes() {
    let mut path = NarPath::root();
    assert_eq!((path.name(), path.depth(), path.to_string().as_str()), (None, 0, "/"));
    path.push(b"a").unwrap();
    path.push(b"b\xff").unwrap();
    assert_eq!((path.name(), path.depth(), path.as_bytes()), (Some(&b"b\xff"[..]), 2, &b"a/b\xff"[..]));
    assert_eq!(path.to_string(), "a/b\\xff");
    assert!(path.push(b"..").is_err());
    path.pop();
    assert_eq!(path.as_bytes(), b"a");
    path.pop();
    path.pop();
    assert_eq!(path, NarPath::root());
}

fn trees() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        (any::<bool>(), vec(any::<u8>(), 0..40)).prop_map(|(executable, bytes)| Tree::File(executable, bytes)),
        vec(1..=255u8, 1..40).prop_map(Tree::Symlink),
    ];
    let name = vec(prop_oneof![Just(b'a'), Just(b'.'), Just(b' '), 1..=255u8], 1..12)
        .prop_filter("names of entries", |name| NarPath::root().push(name).is_ok());
    leaf.prop_recursive(5, 60, 6, move |inner| btree_map(name.clone(), inner, 0..6).prop_map(Tree::Directory))
}

proptest! {
    #[test]
    fn a_written_nar_is_read_back(whole in trees()) {
        let bytes = whole.nar();
        prop_assert_eq!(tree(&bytes), whole.clone());
        let mut reader = HashingReader::new(&bytes[..]);
        let mut builder = Builder::default();
        read(&mut reader, &mut builder).unwrap();
        prop_assert_eq!(builder.root.unwrap(), whole);
        prop_assert_eq!(reader.count(), bytes.len() as u64);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in vec(any::<u8>(), 0..200)) {
        let magic = words(&["nix-archive-1", "(", "type", "directory"]);
        let _ = read(&mut &[magic, bytes].concat()[..], &mut Nothing);
    }
}
