use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;
use crate::store::export::HashingReader;
use crate::store::{base16, golden, wire};

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
fn the_grammar_is_followed() {
    const FILE: &str = "( type regular contents {0} )";
    for text in [
        "",
        ")",
        "type regular",
        "( regular",
        "( type fifo )",
        "( type ''",
        "( type regular executable yes contents {0} )",
        "( type regular executable '' )",
        "( type regular executable '' executable '' contents {0} )",
        "( type regular contents {0} executable '' )",
        "( type regular contents {0} contents {0} )",
        "( type regular )",
        "( type regular contents {0} type regular )",
        "( type symlink )",
        "( type symlink target a target b )",
        "( type directory entry ( name a ) )",
        "( type directory entry ( node ( type directory ) name a ) )",
        "( type directory entry ( name a name b node ( type directory ) ) )",
        "( type directory entry ( name a node ( type directory ) node ( type directory ) ) )",
        "( type directory entry name a",
        "( type directory executable '' )",
        "( type directory contents {0} )",
        "( type directory entries )",
    ] {
        let bytes = nar(text);
        // A nar that ends early is reported as such, so more bytes follow here.
        let (position, _) = problem(&[bytes.clone(), words(&["xyz"])].concat());
        assert!(position >= 24 && position <= bytes.len() as u64, "{text}: {position}");
    }
    assert!(matches!(tree(&nar(FILE)), Tree::File(false, contents) if contents.is_empty()));
    assert_eq!(problem(&words(&["nix-archive-2"])).0, 0);
    assert_eq!(problem(&nar("( type regular contents {0} ]")).0, 24 + 16 * 4 + 8);
    assert!(problem(&[0xff; 64]).1.contains("no word has"));
}

#[test]
fn names_of_other_directories_are_refused() {
    for name in ["''", ".", "..", "../x", "a/b", "/", "/etc/passwd", "a\0", "\0"] {
        let bytes = nar(&format!("( type directory entry ( name {name} node ( type directory ) ) )"));
        let (position, problem) = problem(&bytes);
        assert_eq!(position, 24 + 16 * 6 + 8, "{name}");
        assert!(problem.starts_with("bad name"), "{problem}");
    }
    let name = "x".repeat(MAX_ENTRY_NAME);
    let bytes = |name: &str| nar(&format!("( type directory entry ( name {name} node ( type directory ) ) )"));
    assert!(read(&mut &bytes(&name)[..], &mut Nothing).is_ok());
    assert!(problem(&bytes(&(name + "x"))).1.contains("255"));
    // The writer refuses such a name, too.
    let mut path = NarPath::root();
    assert!(path.push(&[b'x'; MAX_ENTRY_NAME + 1]).is_err());
    path.push(&[b'x'; MAX_ENTRY_NAME]).unwrap();
}

#[test]
fn entries_are_sorted_and_unique() {
    let bytes = |names: &[&str]| {
        let entry = |name: &&str| format!("entry ( name {name} node ( type directory ) ) ");
        nar(&format!("( type directory {})", names.iter().map(entry).collect::<String>()))
    };
    for names in [&["a", "a"][..], &["b", "a"], &["ab", "a"], &["a", "B"], &["é", "z"], &["a", "c", "b"]] {
        assert!(problem(&bytes(names)).1.contains("out of order"), "{names:?}");
    }
    for names in [&["B", "a"][..], &["a", "ab"], &["a-d", "a.d"], &["z", "é"]] {
        assert!(matches!(tree(&bytes(names)), Tree::Directory(entries) if entries.len() == names.len()));
    }
    // The order restarts in each directory, and continues after one.
    let inner = "( type directory entry ( name a node ( type directory ) ) )";
    let bytes = |next: &str| {
        nar(&format!("( type directory entry ( name m node {inner} ) entry ( name {next} node ( type directory ) ) )"))
    };
    assert!(read(&mut &bytes("n")[..], &mut Nothing).is_ok());
    assert!(problem(&bytes("b")).1.contains("out of order"));
}

#[test]
fn targets_of_links_are_checked() {
    let bytes = |target: &str| nar(&format!("( type symlink target {target} )"));
    assert!(problem(&bytes("''")).1.contains("empty"));
    assert!(problem(&bytes("a\0b")).1.contains("NUL"));
    assert!(problem(&bytes(&"x".repeat(MAX_LINK_TARGET + 1))).1.contains("4095"));
    assert_eq!(tree(&bytes(&"x".repeat(MAX_LINK_TARGET))), Tree::Symlink(vec![b'x'; MAX_LINK_TARGET]));
    // The writer refuses such a target, too.
    let write = |target: &[u8]| Writer::new(Vec::new()).symlink(&NarPath::root(), target);
    assert!(write(&[b'x'; MAX_LINK_TARGET + 1]).is_err() && write(b"").is_err() && write(b"a\0b").is_err());
    write(&[b'x'; MAX_LINK_TARGET]).unwrap();
}

#[test]
fn padding_is_zero_everywhere() {
    let bytes = nar("( type regular contents {3} ");
    let end = bytes.len();
    let good = [bytes, b"abc\0\0\0\0\0".to_vec(), words(&[")"])].concat();
    assert_eq!(tree(&good), Tree::File(false, b"abc".to_vec()));
    for position in end + 3..end + 8 {
        let mut bad = good.clone();
        bad[position] = b'x';
        assert_eq!(problem(&bad), (end as u64 + 3, "the padding after a string is not zero".into()));
    }
    let mut bad = good;
    bad[31] = 1;
    assert!(problem(&bad).1.contains("no word has"));
    bad[31] = 0;
    bad[8 + 13] = 1;
    assert!(problem(&bad).1.contains("padding"));
}

#[test]
fn announced_sizes_are_not_trusted() {
    for size in [MAX_NAR_FILE_SIZE, MAX_NAR_FILE_SIZE - 7, 1 << 40] {
        let bytes = nar(&format!("( type regular contents {{{size}}} "));
        let error = read(&mut &bytes[..], &mut Nothing).unwrap_err();
        assert!(matches!(error, NarError::Truncated { position } if position == bytes.len() as u64));
    }
    for size in [MAX_NAR_FILE_SIZE + 1, u64::MAX] {
        assert!(problem(&nar(&format!("( type regular contents {{{size}}} "))).1.contains("too large"));
    }
    for text in ["( type symlink target {9999999999}", "( type directory entry ( name {4294967295}"] {
        assert!(problem(&nar(text)).1.contains("longer"));
    }
}

/// Returns the nar of nested directories, of which the innermost has a file.
fn nested(names: &[&[u8]]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    let mut path = NarPath::root();
    for name in names {
        writer.directory(&path).unwrap();
        path.push(name).unwrap();
    }
    writer.file(&path, true, 0, &mut io::empty()).unwrap();
    for _ in names {
        path.pop();
        writer.leave_directory(&path).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn paths_are_bounded_and_nothing_else_bounds_depth() {
    // Paths of 2047 directories, and of 15 with long names, have 4095 bytes each.
    let long = [b'x'; MAX_ENTRY_NAME];
    for names in [vec![&b"d"[..]; 2048], vec![&long[..]; 16]] {
        let nar = nested(&names);
        assert_eq!(read(&mut &nar[..], &mut Nothing).unwrap(), nar.len() as u64);
        let mut path = NarPath::root();
        names.iter().for_each(|name| path.push(name).unwrap());
        assert_eq!(path.as_bytes().len(), MAX_NAR_PATH);
        let error = path.push(b"d").unwrap_err().to_string();
        assert_eq!(error, "bad name 'd': the path that it ends is longer than 4095 bytes");
    }
    let entry = "( type directory entry ( name d node ";
    let (position, problem) = problem(&nar(&entry.repeat(100_000)));
    assert!(problem.contains("longer than 4095 bytes"), "{problem}");
    assert!(position < 2049 * 160, "{position}");
}

#[test]
fn a_visitor_may_leave_contents_unread() {
    let whole = Tree::Directory(BTreeMap::from([
        (b"a".to_vec(), Tree::File(false, vec![1; 300_001])),
        (b"b".to_vec(), Tree::File(false, vec![2; 3])),
    ]));
    let bytes = whole.nar();
    let mut reader = HashingReader::new(&bytes[..]);
    assert_eq!(read(&mut reader, &mut Nothing).unwrap(), bytes.len() as u64);
    assert_eq!(reader.digest(), <[u8; 32]>::from(Sha256::digest(&bytes)));
}

/// A visitor that fails at the first file, before or after it has read.
struct Failing {
    first: bool,
}

impl Visitor for Failing {
    fn directory(&mut self, _: &NarPath) -> io::Result<()> {
        Ok(())
    }
    fn leave_directory(&mut self, _: &NarPath) -> io::Result<()> {
        Ok(())
    }
    fn file(&mut self, _: &NarPath, _: bool, _: u64, contents: &mut dyn Read) -> io::Result<()> {
        if !self.first {
            io::copy(contents, &mut io::sink())?;
        }
        Err(io::Error::new(io::ErrorKind::StorageFull, "full"))
    }
    fn symlink(&mut self, _: &NarPath, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn errors_of_the_visitor_are_its_own() {
    let bytes = Tree::Directory(BTreeMap::from([(b"na me".to_vec(), Tree::File(false, vec![1; 9]))])).nar();
    for first in [true, false] {
        match read(&mut &bytes[..], &mut Failing { first }) {
            Err(NarError::Visitor { path, source }) => {
                assert_eq!((path.as_str(), source.kind()), ("na me", io::ErrorKind::StorageFull));
            }
            other => panic!("{other:?}"),
        }
    }
    // If the nar is cut short while the visitor reads, the nar is at fault.
    let error = read(&mut &bytes[..bytes.len() - 60], &mut Failing { first: false }).unwrap_err();
    assert!(matches!(error, NarError::Truncated { .. }), "{error}");
}

/// A reader that fails after some bytes.
struct Breaking<'a>(&'a [u8]);

impl Read for Breaking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            count => Ok(count),
        }
    }
}

#[test]
fn errors_of_the_reader_are_its_own() {
    let bytes = Tree::File(false, vec![1; 1000]).nar();
    for end in 0..bytes.len() {
        match read(&mut Breaking(&bytes[..end]), &mut Builder::default()) {
            Err(NarError::Io { position, source }) => {
                assert_eq!((position, source.kind()), (end as u64, io::ErrorKind::ConnectionReset));
            }
            other => panic!("{end}: {other:?}"),
        }
    }
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

/// A reader that is interrupted before each byte.
struct Interrupted<'a>(&'a [u8], bool);

impl Read for Interrupted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        match self.1 {
            true => Err(io::ErrorKind::Interrupted.into()),
            false => self.0.read(&mut buffer[..1]),
        }
    }
}

#[test]
fn an_interruption_is_not_an_error() {
    let bytes = Tree::File(false, b"hello".to_vec()).nar();
    let mut reader = Interrupted(&bytes, false);
    let mut builder = Builder::default();
    read(&mut reader, &mut builder).unwrap();
    assert_eq!(builder.root, Some(Tree::File(false, b"hello".to_vec())));
    assert!(reader.0.is_empty());
}
